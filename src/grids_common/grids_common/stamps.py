"""Conversion between builtin_interfaces/Time and nanoseconds."""


def stamp_ns(stamp) -> int:
    """The builtin_interfaces/Time in nanoseconds, on the clock of whoever stamped the message."""
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def to_stamp(nanoseconds: int):
    """A builtin_interfaces/Time from nanoseconds (0 or more)."""
    from builtin_interfaces.msg import Time

    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return Time(sec=seconds, nanosec=rest)
