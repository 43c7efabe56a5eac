"""What each node of a run may do: the topics, services and actions of the tables, and no others.

The names and types are those of grids_common.topics and grids_common.services; tests/e2e/test_secure.py compares this
table with the nodes of real runs. A node that is not here has no keys.
"""

from dataclasses import dataclass

from grids_common import services, topics
from grids_common.topics import CAMERAS

LIFECYCLE = ("change_state", "get_state", "get_available_states", "get_available_transitions", "get_transition_graph")
PARAMETERS = (
    "describe_parameters", "get_parameter_types", "get_parameters", "list_parameters", "set_parameters",
    "set_parameters_atomically", "get_type_description",
)  # fmt: skip
RECORDED = tuple(topic.name for topic in topics.TOPICS if topic.recorded)
RAW = tuple(f"/{camera}/color/image_raw" for camera in CAMERAS)
JPEG = tuple(f"{name}/compressed" for name in RAW)
INFO = tuple(f"/{camera}/color/camera_info" for camera in CAMERAS)
MANAGED = ("driver", "leader", "policy", *(f"{camera}_camera" for camera in CAMERAS))


@dataclass(frozen=True, slots=True)
class Rights:
    """Names in the robot's namespace; `shared`: topics under their absolute names for all robots.

    publish, subscribe: topics. serve, call: services. execute, invoke: actions. lifecycle: a managed node.
    """

    publish: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()
    serve: tuple[str, ...] = ()
    call: tuple[str, ...] = ()
    execute: tuple[str, ...] = ()
    invoke: tuple[str, ...] = ()
    lifecycle: bool = False
    shared_publish: tuple[str, ...] = ()
    shared_subscribe: tuple[str, ...] = ()


def _served(node: str) -> tuple[str, ...]:
    return tuple(service.name for service in services.SERVICES if service.node == node)


def _camera(name: str) -> Rights:
    made = (f"/{name}/color/image_raw", f"/{name}/color/image_raw/compressed", f"/{name}/color/camera_info")
    return Rights(publish=(*made, "/diagnostics"), lifecycle=True)


_ARM = (
    "/follower/joint_states",
    "/follower/servo_state",
    "/follower/command_trace",
    "/follower/status",
    "/diagnostics",
)
_POLICY = (
    "/policy/status", "/policy/action_chunk", "/policy/sampled_tokens", "/policy/instruction",
    "/policy/joint_trajectory", "/diagnostics",
)  # fmt: skip
_OVERLAYS = tuple(f"/grids/{camera}/overlay{kind}" for camera in CAMERAS for kind in ("", "/compressed"))
_VIEWED = (
    "/follower/joint_states", "/follower/servo_state", "/follower/status", "/policy/action_chunk",
    "/policy/sampled_tokens", "/policy/status", "/policy/instruction", "/twin/task_state", "/diagnostics",
)  # fmt: skip
_STATE = tuple(f"/{node}/{service}" for node in MANAGED for service in ("change_state", "get_state"))
_SETTINGS = tuple(
    f"/{node}/{service}" for node in (*MANAGED, "twin") for service in ("list_parameters", "get_parameters")
)

NODES: dict[str, Rights] = {
    "twin": Rights(("/twin/objects", "/twin/task_state"), ("/twin/hand",), _served("twin")),
    "twin_cameras": Rights((*RAW, *JPEG, *INFO)),
    **{f"{camera}_camera": _camera(camera) for camera in CAMERAS},
    "driver": Rights(
        _ARM, ("/policy/action_chunk", "/policy/status", "/leader/joint_states", "/estop"), _served("driver"),
        lifecycle=True, shared_subscribe=("/estop",),
    ),
    "leader": Rights(("/leader/joint_states", "/leader/servo_state", "/estop", "/diagnostics"), lifecycle=True),
    "policy": Rights(
        _POLICY, (*RAW, *JPEG, "/follower/joint_states", "/policy/instruction", "/twin/task_state", "/twin/objects"),
        call=("/run_manager/clock",), execute=tuple(action.name for action in services.ACTIONS), lifecycle=True,
    ),
    "overlay": Rights(
        _OVERLAYS,
        (*RAW, *JPEG, "/policy/sampled_tokens", "/twin/task_state", "/follower/status", "/policy/instruction"),
    ),
    "description": Rights(
        ("/robot_description", "/tf", "/tf_static"), ("/follower/joint_states",), shared_publish=("/tf", "/tf_static")
    ),
    "recorder": Rights(
        ("/recorder/status",), (*RECORDED, *JPEG), _served("recorder"), ("/twin/reset", *_SETTINGS)
    ),
    "run_manager": Rights(
        ("/run/state", "/estop"),
        (
            "/run/state", "/policy/action_chunk", "/policy/status", "/follower/status", "/follower/joint_states",
            "/twin/task_state", "/recorder/status", *INFO,
        ),
        _served("run_manager"), ("/driver/rest", "/recorder/start", "/recorder/stop", *_STATE),
        shared_subscribe=("/rosout",),
    ),
    # The viewers: ROS_SECURITY_ENCLAVE_OVERRIDE=/view ./grids view
    "view": Rights(
        ("/estop", "/policy/instruction"), (*RAW, *JPEG, *_VIEWED),
        call=("/driver/set_mode", "/driver/estop", "/driver/estop_reset"),
    ),
    # A stop of the user's own, a button or a fence: it stops every arm that hears the absolute /estop.
    "estop": Rights(shared_publish=("/estop",)),
}  # fmt: skip
# Names of nodes that use the keys of another entry.
NODE_NAMES = {"view": ("grids_view", "grids_rqt")}
EVERYBODY_PUBLISHES = ("/rosout", "/parameter_events")
