"""builtin_interfaces/Time to nanoseconds and back: one spelling for every package."""


def stamp_ns(stamp) -> int:
    """Nanoseconds of a builtin_interfaces/Time; whose epoch it counts from is the sender's clock."""
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def to_stamp(nanoseconds: int):
    """The builtin_interfaces/Time of that many nanoseconds (0 or more)."""
    from builtin_interfaces.msg import Time

    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return Time(sec=seconds, nanosec=rest)
