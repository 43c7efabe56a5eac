"""Parameters of the recorder node."""

from dataclasses import dataclass

from grids_common.params import param


@dataclass(frozen=True, slots=True)
class RecorderParams:
    """Parameters of the recorder: what is recorded, where, and how a session of episodes runs."""

    folder: str = param("recordings", "folder of the episodes; each episode gets a folder in it")
    task: str = param("", "sentence stored with each episode; empty: the twin's or the policy's instruction")
    operator_name: str = param("", "name of the person who demonstrates")
    episodes: int = param(0, "episodes to record in this session, 0: open-ended", lo=0, hi=100_000)
    episode_s: float = param(0.0, "longest episode, 0: until stopped", unit="s", lo=0.0, hi=3600.0)
    reset_s: float = param(5.0, "time to put the scene back between episodes", unit="s", lo=0.0, hi=600.0)
    automatic: bool = param(False, "start, stop, label and reset without keys (labels and resets need the twin)")
    twin: bool = param(False, "the twin judges success and can be reset")
    images: str = param("jpeg", "how images are stored", choices=("jpeg", "raw"))
    jpeg_quality: int = param(
        90,
        "JPEG quality of stored images, from the next episode on",
        lo=50,
        hi=100,
        live=True,
    )
    min_free_mb: int = param(500, "recording stops when the disk has less free space than this", unit="MB", lo=1)
    queue_mb: int = param(64, "messages that may wait for the disk; more are lost and counted", unit="MB", lo=1)
    image_hz: float = param(30.0, "camera rate an episode is judged against", unit="Hz", lo=1, hi=120)
    joint_hz: float = param(100.0, "joint rate an episode is judged against", unit="Hz", lo=1, hi=500)
    calibration: str = param("", "LeRobot calibration file of the follower, stored with each episode")
