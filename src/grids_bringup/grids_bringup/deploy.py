"""`./grids deploy`: the same graph as deploy.launch.py, run by the small supervisor."""

import argparse
import sys

from grids_bringup.arguments import check, documentation, parse, run_folder
from grids_bringup.graph import check_config, deploy_nodes
from grids_bringup.supervisor import Supervisor
from grids_common.params import ParameterError


def main(argv: list[str]) -> int:
    """Returns the run's exit code; 2 when the arguments or the site files are refused (nothing was started)."""
    rows = "\n".join(f"  {name}:=…  {text} (default: {default or 'empty'})" for name, default, text in documentation())
    parser = argparse.ArgumentParser(
        prog="grids deploy",
        description="Bring up cameras, policy and arm, and run a task. Arguments are those of the launch file:",
        epilog=f"{rows}\n\nexit codes: 0 fine, 1 something failed, 2 refused, 3 the task was not done",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("arguments", nargs="*", metavar="name:=value")
    try:
        arguments = parse(parser.parse_args(argv).arguments)
        check(arguments)
        check_config()
        folder = run_folder(arguments)
    except ParameterError as error:
        sys.stderr.write(f"grids deploy: {error}\n")
        return 2
    return Supervisor(deploy_nodes(arguments, folder), folder).run()
