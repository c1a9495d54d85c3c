"""Signals as a process meets them; tests/test_main.py has whole runs."""

import signal
import subprocess
import sys
import time

import pytest

from oaq_repro.signals import STATUS, Interrupted, interruption

# A process that says when it is ready and then waits, at a place of each kind.
PLACES = {
    "sleeping": "time.sleep(60)",
    "catching": "try: time.sleep(60)\nexcept Exception: pass",
    "printing": "while True: print('x' * 1000)",
    "ignoring": (
        "class Deaf:\n"
        "    def __del__(self): time.sleep(60)\n"
        "Deaf()\n"
        "while True: time.sleep(0.01)"
    ),
    "swallowing": "try: time.sleep(60)\nexcept BaseException: pass\nwhile True: time.sleep(0.01)",
}  # fmt: skip
PREFIX = "import sys, time\nfrom oaq_repro import signals\nsignals.install()\nprint('ready', flush=True)\n"


def stopped(code, *numbers, pause=0.2):
    """Exit status and stderr of a process that got these signals."""
    process = subprocess.Popen(
        [sys.executable, "-c", PREFIX + code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for number in numbers:
        time.sleep(pause)
        process.send_signal(number)
    _, error = process.communicate(timeout=30)
    return process.returncode, error


@pytest.mark.parametrize("number", STATUS)
@pytest.mark.parametrize("place", PLACES)
def test_a_signal_is_one_line_and_an_exit_status(place, number):
    status, error = stopped(PLACES[place], number)
    assert status == STATUS[number]
    assert error == f"\nstopped by {number.name}; the same command goes on from here\n"


def test_a_second_signal_ends_what_takes_too_long():
    code = "try: time.sleep(60)\nfinally:\n    signals.arrived()\n    time.sleep(60)"
    status, error = stopped(code, signal.SIGTERM, signal.SIGINT, signal.SIGINT, pause=1.2)
    assert status == 130 and error.count("\n") == 2


def test_a_signal_that_is_repeated_at_once_does_not_cut_off_the_end():
    code = "try: time.sleep(60)\nfinally:\n    signals.arrived()\n    time.sleep(0.7)\n    sys.stderr.write('recorded')"
    status, error = stopped(code, signal.SIGTERM, signal.SIGTERM)
    assert status == 143 and error.endswith("recorded")


def test_forks_meet_signals_as_ever():
    code = (
        "import os, signal\n"
        "reader, writer = os.pipe()\n"
        "pid = os.fork()\n"
        "if not pid:\n"
        "    os.write(writer, b'!')\n"
        "    time.sleep(60)\n"
        "os.read(reader, 1)\n"
        "os.kill(pid, signal.SIGTERM)\n"
        "assert os.waitpid(pid, 0)[1] == signal.SIGTERM\n"
    )
    assert stopped(code) == (0, "")


def test_what_a_library_made_of_a_signal_is_recognized():
    stop = Interrupted(signal.SIGTERM)
    assert str(stop) == "stopped by SIGTERM" and stop.code == 143
    try:
        try:
            raise stop
        except Interrupted as caught:
            raise ImportError("initialization failed") from caught
    except ImportError as error:
        assert interruption(error) is stop
    assert interruption(ValueError()) is None
    assert isinstance(interruption(KeyboardInterrupt()), KeyboardInterrupt)


def test_a_circle_of_errors_ends():
    inner, outer = ValueError(), TypeError()
    inner.__context__, outer.__cause__ = outer, inner
    assert interruption(outer) is None


def test_importing_changes_nothing():
    code = """
import signal
handlers = lambda: [signal.getsignal(number) for number in sorted(signal.valid_signals())]
before = handlers()
import oaq_repro.signals
assert handlers() == before
"""
    subprocess.run([sys.executable, "-c", code], check=True)
