"""The one exception that means "the user can mend this": printed as a single line, exit code 2."""


class UserError(ValueError):
    """Bad input. The message is one line that names the file, the key and what is legal."""
