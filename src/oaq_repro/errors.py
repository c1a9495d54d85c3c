"""The one exception for bad input: the message is all that a user sees."""


class InputError(Exception):
    """Bad configuration, data or checkpoint.

    The message names the file or field, what was found and what is expected. `python -m oaq_repro`
    prints it without a traceback and exits with status 1.
    """


class SettingsError(InputError, ValueError):
    """Fields of one object that do not fit together, raised as it is made; begins with the names of the fields.

    A ValueError, so that pydantic collects it and `settings.schema` says where the object stands.
    """


def printable(text: str, longest: int = 2000) -> str:
    """Text for a terminal: what cannot be printed is written as an escape (`\\x1b`), what is too long is cut.

    Names come from files of any origin and stand in messages; they must not move the cursor, colour the screen or begin
    a new line.
    """
    return escaped(text if len(text) <= longest else f"{text[: longest // 2]} ... {text[-longest // 2 :]}")


def escaped(text: str) -> str:
    """Text whose characters can all be printed, the others as escapes; of any length."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
