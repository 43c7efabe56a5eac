"""`./grids deploy`: the same nodes as deploy.launch.py, started by the supervisor instead of ros2 launch."""

from grids_bringup.cli import command


def main(argv: list[str]) -> int:
    """See `grids_bringup.cli.command.main`."""
    return command.main(command.DEPLOY, argv)
