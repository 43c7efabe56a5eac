"""Runs as commands: parse and check the `name:=value` arguments, start the supervisor, return the exit code."""

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from grids_bringup import network
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
from grids_bringup.secure import enforce
from grids_bringup.secure.permissions import enclave
from grids_bringup.supervisor import Supervisor
from grids_common.host import robots
from grids_common.host.middleware import refuse_missing_rmw
from grids_common.params import ParameterError


@dataclass(frozen=True, slots=True)
class RunKind:
    """What distinguishes deploy, teleop, record and rest; used by the commands and by the launch files."""

    name: str
    text: str
    schema: type
    check: Callable
    nodes: Callable[..., list[NodeSpec]]  # (arguments, folder)
    fixed: dict = field(default_factory=dict)  # arguments with a fixed value in this kind of run

    def documentation(self) -> list[tuple[str, str, str]]:
        """(name, default, description) of every argument that is not fixed."""
        return [row for row in documentation(self.schema) if row[0] not in self.fixed]


DEPLOY = RunKind(
    "deploy", "Bring up cameras, policy and arm, and perform a task.", DeployArguments, check_deploy, deploy_nodes
)
REST = RunKind(
    "rest",
    "Move an arm that holds with torque on to its rest pose, then switch torque off.",
    RestArguments,
    check_rest,
    rest_nodes,
)
TELEOP = RunKind("teleop", "Move the follower with the leader arm.", TeleopArguments, check_teleop, teleop_nodes)
RECORD = RunKind(
    "record", "Teleoperate and record episodes.", TeleopArguments, check_teleop, teleop_nodes, {"record": True}
)


def prepare(kind: RunKind, arguments, outer: str = "") -> tuple[list[NodeSpec], Path, object]:
    """Check arguments and site files, lock the robot's namespace in the ROS domain, create the run's folder.

    outer: a namespace around the robot's, from a launch file that includes ours, without the leading slash.
    Returns (nodes, folder, lock file to keep open). Raises ParameterError.
    """
    refuse_missing_rmw()
    robots.check(arguments.robot)
    namespace = "/".join(word for word in (outer, arguments.robot) if word)
    arguments = replace(arguments, **kind.fixed, robot=namespace)  # from here on the whole namespace
    kind.check(arguments)
    check_config()
    secured = not isinstance(arguments, RestArguments) and arguments.security == "enforce"
    part = arguments.part if isinstance(arguments, DeployArguments) else "all"
    if secured:  # every process of the run inherits it
        os.environ.update(enforce.check(enclave("run_manager", namespace), os.environ.get("ROS_DOMAIN_ID") or "0"))
    claim = claim_domain(part, namespace)
    folder = run_folder(arguments.output, namespace)
    if part != "all":
        os.environ.update(network.environment(arguments.peers, folder))  # every process of the run inherits it
    nodes = kind.nodes(arguments, folder)
    if secured:
        nodes = [replace(node, enclave=enclave(node.name, node.namespace)) for node in nodes]
        enforce.require([node.enclave for node in nodes])
    return nodes, folder, claim


def main(kind: RunKind, argv: list[str]) -> int:
    """Run one kind of run; returns its exit code, or 2 if arguments or site files are invalid (nothing was started)."""
    rows = [f"  {name}:=…  {text} (default: {default or 'empty'})" for name, default, text in kind.documentation()]
    parser = argparse.ArgumentParser(
        prog=f"grids {kind.name}",
        description=f"{kind.text} The arguments are those of {kind.name}.launch.py:",
        epilog="\n".join([*rows, "", "exit codes: 0 success, 1 failure, 2 invalid arguments, 3 task not done"]),
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
