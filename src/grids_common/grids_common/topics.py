"""The table of all topics of the graph: name, type, offered and requested QoS, and whether episodes record it.

The recorder's topic list, docs/interfaces.md and the QoS compatibility test are generated from this table. Nodes create
publishers and subscriptions with the functions below; names are relative, so that namespaces and remappings apply.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

CAMERAS = ("front", "wrist")
TRANSPORTS = ("raw", "compressed", "auto")  # of camera images, as a parameter image_transport
TRANSPORT_TEXT = "camera images from image_raw (raw) or image_raw/compressed; auto: the one that is published"


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic. `type` is "package/msg/Name"; `offered` and `requested` are keys of `grids_common.qos.PROFILES`."""

    name: str
    type: str
    offered: str
    requested: str
    recorded: bool
    note: str


# fmt: off
def _camera_topics(camera: str) -> tuple[Topic, ...]:
    return (
        Topic(f"/{camera}/color/image_raw", "sensor_msgs/msg/Image", "IMAGE_OFFERED", "IMAGE", True,
              f"{camera} camera, rgb8, stamp = capture time"),
        Topic(f"/{camera}/color/image_raw/compressed", "sensor_msgs/msg/CompressedImage", "IMAGE_RELIABLE", "IMAGE",
              False, f"{camera} camera as JPEG (compressed:=true)"),
        Topic(f"/{camera}/color/camera_info", "sensor_msgs/msg/CameraInfo", "IMAGE_OFFERED", "STATE", True,
              f"{camera} camera intrinsics"),
        Topic(f"/grids/{camera}/overlay", "sensor_msgs/msg/Image", "IMAGE_OFFERED", "IMAGE", False,
              f"{camera} image with sample locations drawn"),
        Topic(f"/grids/{camera}/overlay/compressed", "sensor_msgs/msg/CompressedImage", "IMAGE_OFFERED", "IMAGE",
              False, f"the {camera} overlay as JPEG"),
    )


_FIXED = (
    Topic("/follower/joint_states", "sensor_msgs/msg/JointState", "STATE", "STATE_LATEST", True,
          "measured follower joints, rad"),
    Topic("/follower/servo_state", "grids_msgs/msg/ServoState", "STATE", "STATE_LATEST", True,
          "everything read from the follower's servos"),
    Topic("/follower/command_trace", "grids_msgs/msg/CommandTrace", "STATE", "STATE", True,
          "each command from request to read-back"),
    Topic("/follower/status", "grids_msgs/msg/DriverStatus", "STATE", "STATE", True,
          "driver mode, limits, lateness, bus errors"),
    Topic("/leader/joint_states", "sensor_msgs/msg/JointState", "STATE", "STATE_LATEST", True,
          "measured leader joints, rad"),
    Topic("/leader/servo_state", "grids_msgs/msg/ServoState", "STATE", "STATE_LATEST", True,
          "everything read from the leader's servos"),
    Topic("/policy/action_chunk", "grids_msgs/msg/ActionChunk", "COMMAND", "COMMAND", True,
          "joint targets, indexed by time"),
    Topic("/policy/joint_trajectory", "trajectory_msgs/msg/JointTrajectory", "COMMAND", "COMMAND", False,
          "the same chunk for any joint_trajectory_controller (publish_trajectory:=true)"),
    Topic("/policy/sampled_tokens", "grids_msgs/msg/SampledTokens", "EVENT", "EVENT", True,
          "where GridS sampled each image"),
    Topic("/policy/status", "grids_msgs/msg/PolicyStatus", "STATE", "STATE", True,
          "policy state, latency per stage, drops"),
    Topic("/policy/instruction", "std_msgs/msg/String", "LATCHED", "LATCHED", True,
          "the instruction that the policy follows"),
    Topic("/estop", "std_msgs/msg/Bool", "EVENT", "EVENT", True,
          "true latches the emergency stop"),
    Topic("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray", "EVENT", "EVENT", True,
          "health of servos, cameras and policy"),
    Topic("/run/state", "std_msgs/msg/String", "STATE", "STATE", False,
          "a run on two hosts: what each part is and whether it goes on, as JSON, twice a second"),
    Topic("/recorder/status", "grids_msgs/msg/EpisodeStatus", "STATE", "STATE", False,
          "episode being recorded"),
    Topic("/robot_description", "std_msgs/msg/String", "LATCHED", "LATCHED", True,
          "URDF of the follower"),
    Topic("/tf", "tf2_msgs/msg/TFMessage", "EVENT", "EVENT", False,
          "transforms of the follower's joints, without a robot_state_publisher"),
    Topic("/tf_static", "tf2_msgs/msg/TFMessage", "LATCHED", "LATCHED", False,
          "base and both cameras' optical frames in the arm's tree"),
    Topic("/twin/objects", "visualization_msgs/msg/MarkerArray", "STATE", "STATE", True,
          "twin only: true object poses in the base frame (ns = object name)"),
    Topic("/twin/hand", "sensor_msgs/msg/JointState", "STATE", "STATE_LATEST", False,
          "twin only: target of the leader arm (operator:=topic), rad; an empty name list releases the arm"),
    Topic("/twin/task_state", "grids_msgs/msg/TaskState", "LATCHED", "LATCHED", True,
          "twin only: task, instruction, success"),
)
# fmt: on

TOPICS = tuple(topic for camera in CAMERAS for topic in _camera_topics(camera)) + _FIXED
_BY_NAME = {topic.name: topic for topic in TOPICS}


def topic(name: str) -> Topic:
    """The table entry of an absolute topic name. Raises KeyError that lists the known topics."""
    if name not in _BY_NAME:
        raise KeyError(f"expected one of {sorted(_BY_NAME)}, got {name!r}: add it to grids_common/topics.py")
    return _BY_NAME[name]


def relative(name: str) -> str:
    """The relative name of a topic of the table, for rclpy. Raises KeyError that lists the known topics."""
    return topic(name).name.removeprefix("/")


def diagnostic_name(node: Any, what: str) -> str:
    """The name of an entry in /diagnostics, "driver: gripper" or "left/driver: gripper"."""
    return f"{node.get_fully_qualified_name().lstrip('/')}: {what}"


def publisher(node: Any, name: str, message_type: type, *, shared: bool = False) -> Any:
    """Create a publisher with the table's offered QoS; `message_type` is the class of the table's type.

    shared: under the absolute name, which all namespaces share.
    """
    from grids_common import qos

    place = topic(name).name if shared else relative(name)
    return node.create_publisher(message_type, place, qos.PROFILES[topic(name).offered])


def subscription(
    node: Any, name: str, message_type: type, callback: Callable[[Any], None], *, shared: bool = False, **options: Any
) -> Any:
    """Create a subscription with the table's requested QoS; options go to create_subscription (raw=…).

    shared: to the absolute name, which all namespaces share.
    """
    from grids_common import qos

    place, profile = topic(name).name if shared else relative(name), qos.PROFILES[topic(name).requested]
    return node.create_subscription(message_type, place, callback, profile, **options)
