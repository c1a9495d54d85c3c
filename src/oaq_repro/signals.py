"""What ends a run from outside: Ctrl-C, SIGTERM, and SIGUSR1, by which clusters announce the end of a job's time.

Each becomes one line on stderr and one exception, `Interrupted`, raised in the main thread wherever it is. Every file
is put in place whole, so what was done so far stays and the same command goes on from there. As a SystemExit the
exception carries the exit status and needs no one to catch it: not Hydra, nor an import that it cuts short. Where a
library swallows it (torch goes on without NumPy when its import of NumPy fails), it comes again.
"""

import atexit
import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 143}
IMPATIENCE_S = 1.0
"""From then on a second signal ends the process at once; senders like `timeout` repeat theirs before."""
AGAIN_S = 0.5
"""The exception is raised again after this time, until it has `arrived`."""


class Interrupted(SystemExit):
    """The process was told to stop; `code` is its exit status, the text says which signal it was."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = signal.Signals(number)
        self.code = STATUS[self.number]

    def __str__(self) -> str:
        return f"stopped by {self.number.name}"


def install(quiet: bool = False) -> None:
    """From now on the signals of `STATUS` stop this process; its forks (workers that load data) meet them as ever.

    quiet: without the line, for processes beside a first one that says it.
    """
    global _handler
    _handler = _Handler(quiet)
    before = {number: signal.signal(number, _handler) for number in STATUS}
    before[signal.SIGALRM] = signal.signal(signal.SIGALRM, _handler.again)
    os.register_at_fork(after_in_child=lambda: [signal.signal(*each) for each in before.items()])
    sys.unraisablehook = _without_ours
    atexit.register(arrived)


def reinstall() -> None:
    """Take the signals back from a library that put handlers of its own before ours."""
    if _handler is not None and threading.current_thread() is threading.main_thread():
        for number in STATUS:
            signal.signal(number, _handler)


def arrived() -> None:
    """The interruption is where it is dealt with; it is not raised again."""
    signal.setitimer(signal.ITIMER_REAL, 0)


def interruption(error: BaseException | None) -> BaseException | None:
    """The interruption that `error` is or was made from: libraries turn some into exceptions of their own."""
    seen: list[BaseException] = []  # an error that is raised again while its own is handled makes a circle
    while error is not None and error not in seen:
        if isinstance(error, Interrupted | KeyboardInterrupt):
            return error
        seen.append(error)
        error = error.__cause__ or error.__context__
    return None


class _Handler:
    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.raised: Interrupted | None = None
        self.since = 0.0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.raised is None:
            self.raised, self.since = Interrupted(number), time.monotonic()
            if not self.quiet:
                _say(f"{self.raised}; the same command goes on from here")
            signal.setitimer(signal.ITIMER_REAL, AGAIN_S, AGAIN_S)
            raise self.raised
        if time.monotonic() - self.since > IMPATIENCE_S:
            os._exit(STATUS[signal.Signals(number)])

    def again(self, number: int, frame: FrameType | None) -> None:
        if self.raised is not None:
            raise Interrupted(self.raised.number)


_handler: _Handler | None = None


def _without_ours(unraisable: Any) -> None:
    """Nothing is printed of an interruption in `__del__` and other places from which Python cannot pass it on."""
    if interruption(unraisable.exc_value) is None:
        sys.__unraisablehook__(unraisable)


def _say(line: str) -> None:
    os.write(2, f"\n{line}\n".encode())  # print() must not be entered twice, and a progress bar may stand on the line
