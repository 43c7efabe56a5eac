"""The root of all errors raised on purpose: the message names what was expected, what came and what to do."""


class GridsError(RuntimeError):
    """Something a user can correct. A command prints the message and exits with 1 or 2; no traceback."""
