"""The one exception for bad input: the message is all that a user sees."""


class InputError(Exception):
    """Bad configuration, data or checkpoint.

    The message names the file or field, what was found and what is expected. `python -m oaq_repro`
    prints it without a traceback and exits with status 1.
    """
