"""The base class of the errors that a user can correct: the message states what was expected, received, and to do."""


class GridsError(RuntimeError):
    """An error that a user can correct. Commands print its message without a traceback and exit with 1 or 2."""
