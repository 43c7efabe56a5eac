"""Names of robots: `robot:=left` puts all nodes of a run into the namespace /left, so that several share a domain."""

import argparse
import re

from grids_common.site_files import ParameterError

OPTION_TEXT = "name of the robot, as robot:= of its run (default: one without a name)"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+)*")


def check(name: str, *, nested: bool = False) -> None:
    """Check the name of a robot, which becomes a ROS namespace; "" is none. Raises ParameterError.

    nested: a launch file around ours may have put it into another namespace, such as lab/left.
    """
    words = name.split("/") if nested else [name]
    if name and not all(_NAME.fullmatch(word) for word in words):
        raise ParameterError(
            "robot: expected one word of letters, digits and single underscores that begins with a letter, such as "
            f"left or arm_2, got {name!r}"
        )


def option(name: str) -> str:
    """The type of the option --robot, for argparse."""
    try:
        check(name, nested=True)
    except ParameterError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return name
