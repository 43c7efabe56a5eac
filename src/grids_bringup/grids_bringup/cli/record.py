"""`./grids record --task stack_cubes --episodes 20`: the teleop nodes and the recorder, controlled by the keyboard."""

import argparse
import sys
from dataclasses import fields

from grids_bringup.arguments import TeleopArguments
from grids_bringup.cli import command

_EPILOG = """On the twin the scripted expert demonstrates: episodes start, end, are labelled and reset
automatically. Otherwise the keys are: e EMERGENCY STOP, enter starts and stops an episode, s success, f fail,
d discard, r redo, q quit.

exit codes: 0 success, 1 failure, 2 invalid arguments"""


def main(argv: list[str]) -> int:
    """The options are the arguments of record.launch.py; see `grids_bringup.cli.command.main` for the exit codes."""
    parser = argparse.ArgumentParser(
        prog="grids record",
        description=__doc__.split(":", 1)[1].strip(),
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for f in fields(TeleopArguments):
        if f.name not in command.RECORD.fixed:
            doc = f.metadata["doc"]
            unit = f" [{doc.unit}]" if doc.unit else ""
            parser.add_argument(f"--{f.name.replace('_', '-')}", help=f"{doc.text}{unit} (default: {f.default or '-'})")
    given = {name: value for name, value in vars(parser.parse_args(argv)).items() if value is not None}
    try:
        return command.main(command.RECORD, [f"{name}:={value}" for name, value in given.items()])
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        return 130
