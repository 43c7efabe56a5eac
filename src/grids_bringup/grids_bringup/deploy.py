"""`./grids deploy`: the same graph as deploy.launch.py, run by the small supervisor."""

from grids_bringup import command


def main(argv: list[str]) -> int:
    """See `grids_bringup.command.main`."""
    return command.main(command.DEPLOY, argv)
