"""The launch description of each kind of run; a launch file only names its kind. Needs launch_ros."""

import shlex
import sys
from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, EmitEvent, OpaqueFunction, RegisterEventHandler
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown, matches_action
from launch.events.process import ShutdownProcess
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from grids_bringup.arguments import check_names, convert
from grids_bringup.cli.command import RunKind, prepare
from grids_bringup.graph import NodeSpec, config_path, record_exit
from grids_bringup.run.launched import LaunchedRuns
from grids_common.params import build
from grids_common.process import bound_to_parent, logged_to


def _typed(parameters: dict) -> dict:
    """Mark strings as strings: launch_ros parses a plain one as YAML, and a serial number would become an integer."""
    return {
        name: ParameterValue(value, value_type=str) if isinstance(value, str) else value
        for name, value in parameters.items()
    }


def _action(node: NodeSpec, folder: Path) -> Node:
    """The node as launch starts it. Its output goes where the run manager's messages say: logs/<name>.log."""
    manager = node.name == "run_manager"
    output = [] if manager else logged_to(folder / "logs" / f"{node.name}.log")
    prefix = [*bound_to_parent(), *output, *(["nice", "-n", str(node.nice)] if node.nice else [])]
    return Node(
        name=node.name,
        exec_name=node.name,
        namespace=f"/{node.namespace}",  # the whole one: it holds a PushRosNamespace around us already
        package=node.package,
        executable=node.executable,
        parameters=[*([str(config_path(node))] if node.config else []), _typed(node.parameters)],
        remappings=list(node.remappings),
        ros_arguments=["--enclave", node.enclave] if node.enclave else None,
        prefix=shlex.join(prefix) or None,
        output="screen" if manager else "log",
        additional_env={"PYTHONUNBUFFERED": "1", "RCUTILS_COLORIZED_OUTPUT": "0"},
    )


_RUNS = LaunchedRuns()


def _ended(folder: Path, code: int, actions: list[Node]) -> list[EmitEvent]:
    """What follows the end of a run manager. RuntimeError if it was the last one and a run has failed.

    ros2 launch exits with 0 even if a process failed, unless an event handler raises.
    """
    if _RUNS.ended(folder, code):
        return [EmitEvent(event=ShutdownProcess(process_matcher=matches_action(action))) for action in actions]
    if _RUNS.failures:
        raise RuntimeError("; ".join(_RUNS.failures))
    return [EmitEvent(event=Shutdown(reason="the run has ended"))]


def _on_exit(node: NodeSpec, folder: Path, actions: list[Node]):
    def handle(event, _context):
        _RUNS.exited(folder, node.name)
        if node.name == "run_manager":
            return _ended(folder, event.returncode, actions)
        record_exit(folder, node, event.returncode)
        return []

    return handle


def _given(kind: RunKind, context) -> list[str]:
    """The names of the arguments on the command line of `ros2 launch`, if it was told to launch this very file.

    A launch file that includes this one has arguments of its own, which are none of ours.
    """
    if not any(Path(word).name == f"{kind.name}.launch.py" for word in sys.argv):
        return []
    return [word.partition(":=")[0] for word in context.argv if ":=" in word]


def describe(kind: RunKind) -> LaunchDescription:
    """The launch description of one kind of run: its arguments, then every process with an exit handler."""

    def start(context):
        check_names(_given(kind, context), [name for name, _, _ in kind.documentation()])
        hints = {name: f.type for name, f in kind.schema.__dataclass_fields__.items()}
        values = {
            name: convert(LaunchConfiguration(name).perform(context), hints[name])
            for name, _, _ in kind.documentation()
        }
        outer = context.launch_configurations.get("ros_namespace", "").strip("/")  # of a PushRosNamespace around us
        nodes, folder, claim = prepare(kind, build(kind.schema, values, where="arguments"), outer)
        _RUNS.began(folder, claim, [node.name for node in nodes])
        processes = [_action(node, folder) for node in nodes]
        handlers = [
            RegisterEventHandler(OnProcessExit(target_action=process, on_exit=_on_exit(node, folder, processes)))
            for node, process in zip(nodes, processes, strict=True)
        ]
        return [*handlers, *processes]

    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, default, text in kind.documentation()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])
