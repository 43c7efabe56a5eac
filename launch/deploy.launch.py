"""ros2 launch grids_bringup deploy.launch.py hardware:=twin task:=pick_place policy:=expert seed:=1

The node list is grids_bringup.graph's; `./grids deploy` runs the very same list without launch_ros.
"""

import shutil

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, EmitEvent, OpaqueFunction, RegisterEventHandler
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from grids_bringup.arguments import DeployArguments, check, convert, documentation, run_folder
from grids_bringup.graph import NodeSpec, check_config, config_path, deploy_nodes, record_exit
from grids_common.params import build


def as_action(node: NodeSpec) -> Node:
    prefix = ["setpriv --pdeathsig TERM"] if shutil.which("setpriv") else []
    prefix += [f"nice -n {node.nice}"] if node.nice else []
    return Node(
        name=node.name,
        package=node.package,
        executable=node.executable,
        parameters=[*([str(config_path(node))] if node.config else []), node.parameters],
        remappings=list(node.remappings),
        prefix=" ".join(prefix) or None,
        output="screen" if node.name == "run_manager" else "log",
    )


def on_exit(node: NodeSpec, folder):
    def handle(event, context):
        if node.name != "run_manager":
            record_exit(folder, node, event.returncode)
            return []
        # launch's own exit code is 0 whatever its processes did, unless a handler raises.
        if event.returncode:
            raise RuntimeError(f"the run ended with code {event.returncode}; see {folder}/summary.json")
        return [EmitEvent(event=Shutdown(reason="the run is over"))]

    return handle


def start(context):
    values = {}
    for name, _, _ in documentation():
        kind = DeployArguments.__dataclass_fields__[name].type
        values[name] = convert(LaunchConfiguration(name).perform(context), kind)
    arguments = build(DeployArguments, values, where="arguments")
    check(arguments)
    check_config()
    folder = run_folder(arguments)
    actions = []
    for node in deploy_nodes(arguments, folder):
        action = as_action(node)
        actions.append(RegisterEventHandler(OnProcessExit(target_action=action, on_exit=on_exit(node, folder))))
        actions.append(action)
    return actions


def generate_launch_description():
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text) for name, default, text in documentation()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])
