"""`./grids teleop`: the same graph as teleop.launch.py, run by the small supervisor."""

from grids_bringup import command


def main(argv: list[str]) -> int:
    """See `grids_bringup.command.main`."""
    return command.main(command.TELEOP, argv)
