"""How every command line beside `python -m oaq_repro` ends: with a status, and one line for what went wrong."""

import sys
from collections.abc import Callable

from oaq_repro.errors import InputError, printable

BAD_INPUT, INTERRUPTED = 2, 130  # as argparse and shells have them


def ended(work: Callable[[], int | None], *bad_input: type[Exception]) -> int:
    """The status that `work()` returns (None: 0); with a line each, 2 after bad input and 130 after Ctrl-C.

    bad_input: exceptions that are bad input beside InputError.
    """
    expected: tuple[type[Exception], ...] = (InputError, *bad_input)
    try:
        return work() or 0
    except expected as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted; what was finished is written", file=sys.stderr)
        return INTERRUPTED
