"""The node list of a run: the one place from which both the launch file and the supervisor start processes."""

import fcntl
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from grids_bringup.arguments import (
    DeployArguments,
    RestArguments,
    TeleopArguments,
    camera_sites,
    resolve_policy,
    share,
)
from grids_common.params import ParameterError, load_file
from grids_common.tasks import TASKS
from grids_common.topics import CAMERAS
from grids_policy.runtime.bundle import BundleError, read_manifest

MAX_DOMAIN = 232  # beyond it DDS has no ports


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """One process. `managed` nodes are lifecycle nodes that the run manager brings up in list order."""

    name: str
    package: str
    executable: str
    parameters: dict = field(default_factory=dict)
    config: str = ""  # file under config/ with a block for this node
    remappings: tuple[tuple[str, str], ...] = ()
    managed: bool = False
    required: bool = True
    nice: int = 0


def schemas() -> dict[str, dict[str, type]]:
    """Parameter schema of every node that a file under config/ may set, by file name and node name."""
    from grids_perception.params import SCHEMAS
    from grids_policy.node.params import PolicyParams
    from grids_recorder.node.params import RecorderParams
    from so100_driver.params import DriverParams, LeaderParams

    return {
        "arm.yaml": {"driver": DriverParams, "leader": LeaderParams},
        "perception.yaml": SCHEMAS,
        "policy.yaml": {"policy": PolicyParams},
        "record.yaml": {"recorder": RecorderParams},
    }


def link_folder() -> Path:
    """Where the twin puts its serial links: one folder per user and ROS domain, so that stacks do not meet."""
    # su, sudo -E and WSL leave a variable that points to somebody else's folder.
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    base = Path(runtime if runtime and os.access(runtime, os.W_OK) else "/tmp")
    return base / f"grids-twin-{os.getuid()}-{os.environ.get('ROS_DOMAIN_ID', '0')}"


def claim_domain():
    """One run per user and ROS domain: two would command each other's arm. Keep the returned file open.

    An flock, so a killed run never blocks the next one. Raises ParameterError when another run holds it.
    """
    domain = os.environ.get("ROS_DOMAIN_ID") or "0"
    if not (domain.isascii() and domain.isdigit() and int(domain) <= MAX_DOMAIN):
        raise ParameterError(f"ROS_DOMAIN_ID: expected a number from 0 to {MAX_DOMAIN}, got {domain!r}")
    # Always the same folder: a login shell and a cron job must see each other's claim.
    path = Path("/tmp") / f"grids-run-{os.getuid()}-{domain}.lock"
    try:
        handle = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise ParameterError(f"{path}: expected a file that can be written: {error.strerror}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        handle.seek(0)
        owner = handle.read().strip() or "unknown"
        handle.close()
        raise ParameterError(
            f"another run (process {owner}) is up in ROS domain {domain}: stop it, or set another ROS_DOMAIN_ID"
        ) from error
    handle.truncate(0)
    handle.write(str(os.getpid()))
    handle.flush()
    return handle


def _twin(arguments, folder: Path, operator: str = "", size: dict | None = None) -> list[NodeSpec]:
    """The twin and its renderer; `operator` moves a leader arm, empty: no leader. `size`: width and height."""
    shared = {"link_dir": str(link_folder())}
    scene = {"task": arguments.task, "seed": arguments.seed, "bus_log": str(folder / "bus.jsonl")}
    leader = {"leader": bool(operator)} | ({"operator": operator} if operator else {})
    return [
        NodeSpec("twin", "grids_sim", "twin", shared | scene | leader),
        NodeSpec("twin_cameras", "grids_sim", "twin_cameras", shared | (size or {})),
    ]


def _policy(arguments: DeployArguments) -> NodeSpec:
    if arguments.expert:
        return NodeSpec("policy", "grids_sim", "expert_policy", {"task": arguments.task})
    parameters: dict = {"bundle": resolve_policy(arguments.chosen), "seed": arguments.seed}
    if arguments.time_scale != 1.0:
        parameters["time_scale"] = arguments.time_scale
    # On the twin the task decides what is asked for; on a real table only the user and the bundle know.
    sentence = arguments.instruction or (TASKS[arguments.task].instruction if arguments.hardware == "twin" else "")
    if sentence:
        parameters["instruction"] = sentence
    return NodeSpec("policy", "grids_policy", "policy", parameters, "policy.yaml", managed=True)


def _picture_size(arguments: DeployArguments) -> dict:
    """Width and height that the twin must render for the bundle; real cameras must have the size it wants.

    Raises ParameterError: a policy that refuses every picture would hold the arm without moving it.
    """
    if arguments.expert:
        return {}
    try:
        bundle = read_manifest(Path(resolve_policy(arguments.chosen)))
    except BundleError as error:
        raise ParameterError(f"policy: {error}") from error
    wanted = {c.name: (c.width, c.height) for c in bundle.cameras}
    if arguments.hardware == "twin":
        if len(set(wanted.values())) > 1:
            raise ParameterError(f"policy: the twin renders all cameras in one size, the bundle wants {wanted}")
        return dict(zip(("width", "height"), next(iter(wanted.values())), strict=True))
    site = load_file(share() / "config" / "perception.yaml", schemas()["perception.yaml"])
    for camera, size in wanted.items():
        found = site[f"{camera}_camera"]
        if (found.width, found.height) != size:
            raise ParameterError(
                f"policy: the bundle wants {camera} at {size[0]}x{size[1]}, config/perception.yaml gives "
                f"{found.width}x{found.height}: change it there, or export the bundle for that size (--cameras)"
            )
    return {}


def _arm(name: str, arguments, port: str, parameters: dict) -> NodeSpec:
    """The driver or the leader node on `port`; empty: the twin's link of the arm, or the site file's device."""
    link = {"driver": "follower", "leader": "leader"}[name]
    if not port and arguments.hardware == "twin":
        port = str(link_folder() / link)
    # Bytes on a pseudo-terminal wait for an ordinary kernel worker: on a busy computer longer than on any wire.
    place = {"require_calibration": True} if arguments.hardware == "real" else {"reply_timeout_ms": 20.0}
    serial = {"serial_port": port} if port else {}
    return NodeSpec(name, "so100_driver", name, parameters | place | serial, "arm.yaml", managed=True)


def _cameras(arguments) -> list[NodeSpec]:
    """The real cameras: our nodes, or those of the package realsense2_camera under the same topic names."""
    if arguments.hardware == "twin":
        return []
    sites = camera_sites()
    if arguments.cameras == "ours":
        return [NodeSpec(name, "grids_perception", "camera", {}, "perception.yaml", managed=True) for name in sites]
    return [_realsense_ros(camera, site) for camera, site in zip(CAMERAS, sites.values(), strict=True)]


def _realsense_ros(camera: str, site) -> NodeSpec:
    """realsense2_camera's node; a D405 has no RGB module and calls its colour picture image_rect_raw.

    Left alone the node puts itself into the namespace /camera. Its device_type is searched for in the device's name.
    """
    profile = f"{site.width}x{site.height}x{site.fps}"
    parameters = {
        "serial_no": site.serial,
        "device_type": site.model,
        "enable_depth": False,
        "enable_infra1": False,
        "enable_infra2": False,
        "rgb_camera.color_profile": profile,
        "depth_module.color_profile": profile,
    }
    remappings = (("__ns", "/"), (f"/{camera}/color/image_rect_raw", f"/{camera}/color/image_raw"))
    return NodeSpec(camera, "realsense2_camera", "realsense2_camera_node", parameters, remappings=remappings)


def _run(arguments, folder: Path, sources: list[NodeSpec], policy: str) -> list[NodeSpec]:
    """`sources` with what every run has: the overlay, and the manager that watches it all (last)."""
    video = {"video": str(folder / "overlay.mp4"), "task": arguments.task}
    nodes = [
        *sources,
        NodeSpec("overlay", "grids_perception", "overlay", video, "perception.yaml", required=False, nice=5),
        NodeSpec("description", "grids_perception", "description", required=False),
    ]
    parameters = {
        "run_dir": str(folder),
        "managed": [node.name for node in nodes if node.managed],
        "limit_s": arguments.limit_s,
        "must_succeed": arguments.must_succeed,
        "twin": arguments.hardware == "twin",
        "task": arguments.task,
        "seed": arguments.seed,
        "policy": policy,
    }
    return [*nodes, NodeSpec("run_manager", "grids_bringup", "run_manager", parameters)]


# A run that was interrupted or failed leaves the arm holding; the run manager brings it to rest after a clean end.
_HOLD = {"on_shutdown": "hold"}


def deploy_nodes(arguments: DeployArguments, folder: Path) -> list[NodeSpec]:
    """Every process of a deploy run in start order; `folder` is the run's folder."""
    size = _picture_size(arguments)
    twin = _twin(arguments, folder, size=size) if arguments.hardware == "twin" else []
    # A slow policy's chunks are old when they arrive, and still meant for now.
    slow = {"chunk_max_age": min(10.0, 2.0 * arguments.time_scale)} if arguments.time_scale != 1.0 else {}
    driver = _arm("driver", arguments, arguments.serial_port, {"mode": "policy"} | slow | _HOLD)
    return _run(arguments, folder, [*twin, driver, *_cameras(arguments), _policy(arguments)], arguments.chosen)


def teleop_nodes(arguments: TeleopArguments, folder: Path) -> list[NodeSpec]:
    """Every process of a teleoperation run in start order."""
    twin = _twin(arguments, folder, arguments.operator) if arguments.hardware == "twin" else []
    driver = _arm(
        "driver", arguments, arguments.serial_port, {"mode": "teleop"} | _leader_calibration(arguments) | _HOLD
    )
    leader = _arm("leader", arguments, arguments.leader_port, {})
    recorder = [_recorder(arguments)] if arguments.record else []
    nodes = _run(
        arguments, folder, [*twin, driver, leader, *_cameras(arguments), *recorder], f"teleop ({arguments.operator})"
    )
    nodes[-1].parameters["record"] = arguments.record
    return nodes


def _leader_calibration(arguments: TeleopArguments) -> dict:
    """The driver maps the leader's gripper by the calibration that the leader node reads it with."""
    if arguments.hardware == "twin":
        return {}
    site = load_file(share() / "config" / "arm.yaml", schemas()["arm.yaml"])
    chosen = site["driver"].leader_calibration or site["leader"].calibration
    return {"leader_calibration": chosen} if chosen else {}


def rest_nodes(arguments: RestArguments, folder: Path) -> list[NodeSpec]:
    """The driver alone: activated where the arm stands, then at once brought to rest as after any clean run."""
    driver = _arm("driver", arguments, arguments.serial_port, {"mode": "idle"} | _HOLD)
    parameters = {"run_dir": str(folder), "managed": ["driver"], "limit_s": 0.1, "must_succeed": False}
    quiet = {"twin": False, "policy": "rest"}
    return [driver, NodeSpec("run_manager", "grids_bringup", "run_manager", parameters | quiet)]


def _recorder(arguments: TeleopArguments) -> NodeSpec:
    twin = arguments.hardware == "twin"
    parameters = {
        "folder": str(Path(arguments.recordings).expanduser().resolve()),
        "episodes": arguments.episodes,
        "episode_s": arguments.episode_s or (30.0 if arguments.scripted else 0.0),
        "task": arguments.episode_text,
        "operator_name": arguments.person or ("scripted expert" if arguments.scripted else ""),
        "automatic": arguments.scripted,
        "twin": twin,
    }
    if arguments.reset_s >= 0 or twin:
        parameters["reset_s"] = arguments.reset_s if arguments.reset_s >= 0 else 2.0
    calibration = "" if twin else _follower_calibration()
    if calibration:
        parameters["calibration"] = calibration
    return NodeSpec("recorder", "grids_recorder", "recorder", parameters, "record.yaml")


def _follower_calibration() -> str:
    """The file behind the site's `calibration` of the driver, so that it travels with every episode; "" without one."""
    from grids_data.calibration import find

    chosen = load_file(share() / "config" / "arm.yaml", schemas()["arm.yaml"])["driver"].calibration
    path = Path(chosen).expanduser()
    return "" if not chosen else str(path if path.suffix == ".json" or path.is_file() else find("follower", chosen))


def check_config() -> None:
    """Read every site file strictly before anything starts; ParameterError names file, key and expectation."""
    for file, nodes in schemas().items():
        path = share() / "config" / file
        if not path.is_file():
            raise ParameterError(f"{path}: expected this file; rebuild with ./grids or restore config/{file}")
        load_file(path, nodes)


def config_path(node: NodeSpec) -> Path:
    """The installed site file of a node."""
    return share() / "config" / node.config


def ros_arguments(node: NodeSpec) -> list[str]:
    """The `--ros-args` part of a node's command line (values as YAML flow, which JSON is)."""
    words = ["--ros-args", "-r", f"__node:={node.name}"]
    if node.config:
        words += ["--params-file", str(config_path(node))]
    for key, value in node.parameters.items():
        words += ["-p", f"{node.name}:{key}:={json.dumps(value)}"]
    for source, target in node.remappings:
        words += ["-r", f"{source}:={target}"]
    return words


def record_exit(folder: Path, node: NodeSpec, code: int) -> None:
    """Note the end of a process where the run manager sees it; called by whoever started the process."""
    row = {"name": node.name, "code": code, "required": node.required, "time": time.time()}
    with (folder / "exits.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
