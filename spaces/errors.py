"""Errors that are told in one line."""


_LONGEST = 1500  # characters of a message: what it shows of a stranger's file may be of any length


class UserError(ValueError):
    """Bad input: the user can mend it. The message is one line that names the file, the key and what
    is legal (exit 2)."""

    def __init__(self, message: str = ""):
        super().__init__(message if len(message) <= _LONGEST else f"{message[:_LONGEST]}...")


class RunError(RuntimeError):
    """What a run needs broke under it (a process was killed, a machine lost): nobody's mistake, and no
    bug either (exit 1).

    The message is one line. The run folder is in order, so that the run can go on.
    """


def one_line(error: BaseException) -> str:
    """`ValueError: first line of the message`; a `UserError` speaks for itself."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if isinstance(error, UserError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
