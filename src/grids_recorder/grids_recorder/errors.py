"""One root for what users of this package can do something about."""


class RecorderError(RuntimeError):
    """Says what was expected, what came and what to do."""
