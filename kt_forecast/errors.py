"""The error that a user can mend."""


class InputError(ValueError):
    """Input that cannot be used.

    The message is one sentence: what was wrong, where (file, row, column), and what would be
    accepted. The command line prints it alone and exits with code 2; nothing has been written.
    """
