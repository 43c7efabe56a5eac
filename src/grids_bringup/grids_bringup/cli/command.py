"""A run as a command: `name:=value` arguments, refusals with one sentence, the supervisor, an exit code."""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from grids_bringup.arguments import (
    DeployArguments,
    RestArguments,
    TeleopArguments,
    check_deploy,
    check_rest,
    check_teleop,
    documentation,
    parse,
    run_folder,
)
from grids_bringup.graph import NodeSpec, check_config, claim_domain, deploy_nodes, rest_nodes, teleop_nodes
from grids_bringup.supervisor import Supervisor
from grids_common.params import ParameterError


@dataclass(frozen=True, slots=True)
class RunKind:
    """What distinguishes deploy, teleop and record; the launch files use the same rows."""

    name: str
    text: str
    schema: type
    check: Callable
    nodes: Callable[..., list[NodeSpec]]  # (arguments, folder)
    fixed: dict = field(default_factory=dict)  # arguments that are no choice in this kind of run

    def documentation(self) -> list[tuple[str, str, str]]:
        """(name, default, text) of every argument there is to choose."""
        return [row for row in documentation(self.schema) if row[0] not in self.fixed]


DEPLOY = RunKind(
    "deploy", "Bring up cameras, policy and arm, and run a task.", DeployArguments, check_deploy, deploy_nodes
)
REST = RunKind(
    "rest", "Bring an arm that holds to its rest pose, then release it.", RestArguments, check_rest, rest_nodes
)
TELEOP = RunKind("teleop", "Move the follower with the leader arm.", TeleopArguments, check_teleop, teleop_nodes)
RECORD = RunKind(
    "record", "Teleoperate and record episodes.", TeleopArguments, check_teleop, teleop_nodes, {"record": True}
)


def prepare(kind: RunKind, arguments) -> tuple[list[NodeSpec], Path, object]:
    """Check everything, claim the domain, make the folder: (nodes, folder, claim to keep open)."""
    arguments = replace(arguments, **kind.fixed)
    kind.check(arguments)
    check_config()
    claim = claim_domain()
    folder = run_folder(arguments.output)
    return kind.nodes(arguments, folder), folder, claim


def main(kind: RunKind, argv: list[str]) -> int:
    """Returns the run's exit code; 2 when the arguments or the site files are refused (nothing was started)."""
    rows = [f"  {name}:=…  {text} (default: {default or 'empty'})" for name, default, text in kind.documentation()]
    parser = argparse.ArgumentParser(
        prog=f"grids {kind.name}",
        description=f"{kind.text} The arguments are those of {kind.name}.launch.py:",
        epilog="\n".join([*rows, "", "exit codes: 0 fine, 1 something failed, 2 refused, 3 the task was not done"]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("arguments", nargs="*", metavar="name:=value")
    try:
        nodes, folder, claim = prepare(kind, parse(parser.parse_args(argv).arguments, kind.schema))
        supervisor = Supervisor(nodes, folder)
    except ParameterError as error:
        sys.stderr.write(f"grids {kind.name}: {error}\n")
        return 2
    with claim:
        return supervisor.run()
