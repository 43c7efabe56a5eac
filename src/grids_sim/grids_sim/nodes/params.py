"""Parameters of the twin and of its cameras."""

from dataclasses import dataclass

from grids_common.params import param
from grids_common.tasks import TASKS


@dataclass(frozen=True)
class TwinParams:
    """Parameters of the twin: physics, servos and serial lines. ValueError if they contradict each other."""

    task: str = param("pick_place", "task whose scene is set up and whose success is judged", choices=tuple(TASKS))
    seed: int = param(0, "seed of the scene's layout", lo=0, hi=2**53)
    plant: str = param(
        "mujoco", "mechanics of the arm; simple: a first-order arm without a scene", choices=("mujoco", "simple")
    )
    start_pose: str = param("rest", "pose of the follower at the start", choices=("rest", "home"))
    leader: bool = param(True, "also simulate a leader arm")
    operator: str = param(
        "none",
        "what moves the leader: nothing, a slow wave, the scripted expert, or the topic twin/hand",
        choices=("none", "wave", "expert", "topic"),
    )
    link_dir: str = param("", "folder for the serial links; empty: one per user and ROS domain")
    frame_prefix: str = param("", "put before the frame of the objects, e.g. left/")
    bus_log: str = param("", "file that receives every goal and torque write as JSON lines; empty: none")
    step_batch: int = param(1, "physics steps per wake-up of the physics thread", lo=1, hi=10)
    horn_ticks: tuple[int, ...] = param(
        (0, 0, 0, 0, 0, 0),
        "offset with which each horn is screwed on: an arm that needs calibration",
        unit="ticks",
        lo=-2047,
        hi=2047,
    )
    configured: bool = param(False, "servos start with LeRobot's settings (return delay 0) instead of factory settings")
    fault_seed: int = param(0, "seed of the random faults", lo=0, hi=2**53)

    def __post_init__(self) -> None:
        if len(self.horn_ticks) != 6:
            raise ValueError(f"horn_ticks: expected 6 values, got {len(self.horn_ticks)}")
        if self.operator != "none" and not self.leader:
            raise ValueError(f"operator: {self.operator!r} needs leader: true")
        if self.operator == "expert" and self.plant != "mujoco":
            raise ValueError("operator: the expert needs plant: mujoco")


@dataclass(frozen=True)
class TwinCameraParams:
    """Parameters of the twin's cameras (node `twin_cameras`)."""

    link_dir: str = param("", "folder of the twin to render; empty: one per user and ROS domain")
    width: int = param(320, "image width", unit="px", lo=16, hi=1920)
    height: int = param(240, "image height", unit="px", lo=16, hi=1080)
    rate_hz: float = param(30.0, "images per second and camera", unit="Hz", lo=1, hi=60)
    frame_prefix: str = param("", "put before both optical frames, e.g. left/")
    compressed: bool = param(False, "also publish JPEG on color/image_raw/compressed")
    jpeg_quality: int = param(90, "quality of that JPEG", lo=1, hi=100)
    nice: int = param(5, "nice value of the process, so that rendering never delays a servo", lo=0, hi=19)
    twin_timeout_s: float = param(60.0, "how long to wait for the twin", unit="s", lo=0, hi=600)
