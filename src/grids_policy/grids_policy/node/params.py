"""Parameters of the policy node."""

from dataclasses import dataclass

from grids_common.params import param
from grids_common.topics import TRANSPORT_TEXT, TRANSPORTS
from grids_policy.runtime.engines.table import CHOICES


@dataclass(frozen=True)
class PolicyParams:
    """ROS parameters of the policy node. All but `instruction` are read when the node is created."""

    bundle: str = param("", "folder of the policy bundle")
    instruction: str = param("", "sentence to follow; empty: the bundle's own", live=True)
    engine: str = param("auto", "what computes the graphs; auto: the best that runs here", choices=CHOICES)
    engine_device: str = param(
        "",
        "asks for engine openvino on this device: CPU, GPU, GPU.1, NPU …; empty: none is asked for",
    )
    threads: int = param(0, "CPU threads of one inference; 0: all cores but one", lo=0, hi=256)
    nice: int = param(5, "added to the process's niceness, so that the driver goes first", lo=0, hi=19)
    engine_cache: str = param("~/.cache/grids/engines", "folder of what engines build and keep between starts")
    n_action_steps: int = param(0, "action steps to execute per chunk; 0: the bundle's own", lo=0, hi=1000)
    switching: str = param(
        "blend",
        "how a new chunk takes over: blend in the driver alone, or rtc: also conditioned on steps executed meanwhile",
        choices=("blend", "rtc"),
    )
    time_scale: float = param(1.0, "stretch of time: 2 moves at half speed", lo=1.0, hi=50.0)
    arm_when_slow: bool = param(False, "activate although inference is too slow; the driver then holds between chunks")
    arming_runs: int = param(40, "inferences measured before arming", lo=3, hi=200)
    arming_budget_s: float = param(10.0, "stop measuring early after this", unit="s", lo=0.1, hi=600.0)
    run_on_activate: bool = param(True, "start at activation; false: wait for policy/run_task")
    seed: int = param(0, "first noise seed; counts up by one per inference", lo=0, hi=2**62)
    max_image_age_s: float = param(0.25, "oldest usable image", unit="s", lo=0.01, hi=10.0)
    max_camera_skew_s: float = param(0.05, "largest time between cameras", unit="s", lo=0.001, hi=1.0)
    max_joint_gap_s: float = param(0.10, "largest time from image to joint state", unit="s", lo=0.001, hi=1.0)
    image_transport: str = param("auto", TRANSPORT_TEXT, choices=TRANSPORTS)
    lost_camera: str = param(
        "hold", "when a camera is lost: hold, mask its tokens, or send black", choices=("hold", "mask", "black")
    )
    reuse_threshold: float = param(
        0.0,
        "keep a camera's vision tokens while no 40 x 40 pixel block of its image differs by this (0..255); 0: never",
        lo=0.0,
        hi=255.0,
    )
    robot_clock: bool = param(False, "images are stamped by another host (part:=policy): read its clock and use it")
    max_clock_offset_s: float = param(
        0.25, "robot_clock: largest difference of both hosts' clocks that is corrected", unit="s", lo=0.001, hi=0.4
    )
    hang_timeout_s: float = param(
        0.0,
        "an inference longer than this counts as hung; 0: 20 x the measured p95, at least 5 s",
        unit="s",
        lo=0.0,
        hi=600.0,
    )
    publish_trajectory: bool = param(False, "also publish policy/joint_trajectory")
    publish_retention: bool = param(True, "send the retention map with the sample locations")
    publish_self_similarity: bool = param(True, "also send the similarity of all dense tokens to each other")
