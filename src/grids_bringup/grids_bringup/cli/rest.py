"""`./grids rest`: move an arm that a run left holding to its rest pose at limited speed, then switch torque off."""

from grids_bringup.cli import command


def main(argv: list[str]) -> int:
    """See `grids_bringup.cli.command.main`."""
    return command.main(command.REST, argv)
