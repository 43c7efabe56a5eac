"""`./grids deploy`: the same graph as deploy.launch.py, run by the small supervisor."""

from grids_bringup.cli import command


def main(argv: list[str]) -> int:
    """See `grids_bringup.cli.command.main`."""
    return command.main(command.DEPLOY, argv)
