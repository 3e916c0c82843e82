"""Errors that are told in one line."""


class UserError(ValueError):
    """Bad input: the user can mend it. The message is one line that names the file, the key and what is legal (exit 2)."""


class RunError(RuntimeError):
    """What a run needs broke under it (a process was killed, a machine lost): nobody's mistake, and no bug either (exit 1).

    The message is one line. The run folder is in order, so that the run can go on.
    """
