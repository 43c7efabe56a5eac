"""The options of a demonstration."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class DemoConfig:
    """Options of scripted demonstrations. Shares are 0 to 1. Pairs are (low, high) of a uniform distribution."""

    fps: int = 30
    image_every: int = 1  # action steps per image
    image_hw: tuple[int, int] = (128, 128)
    limit_s: float | None = 20.0  # None: the task's own
    stream: int = 1  # second part of the random seed, so that two writers draw different episodes
    noisy_share: float = 0.7
    noise_rad: tuple[float, float] = (0.01, 0.05)
    noise_correlation_s: float = 0.47
    miss_share: float = 0.2
    speed_spread: float = 0.0
    height_spread_m: float = 0.0
    start_spread_rad: float = 0.06
    start_jaw_rad: tuple[float, float] = (-0.90, 0.30)
    far_start_share: float = 0.0
    far_start_rad: tuple[float, ...] = (0.9, 0.35, 0.35, 0.35, 0.8)
    all_objects_share: float = 0.0  # of scenes with every task's objects on the table
    # As on the robot: states are rounded to servo ticks, executed targets are clipped to the joint limits.
    as_servos: bool = True
    # True: only the last attempt's steps are valid. False: all steps but those of a deliberately missed grasp.
    last_attempt_only: bool = True
    pixels: bool = False  # also store the objects' positions in each image
    # Domain randomisation: share of the images with another table, room, light and object shades, and the mean number
    # of consecutive images with the same appearance.
    varied_share: float = 0.0
    images_per_look: float = 4.0
    # With a policy: durations of its turns and of the expert's, s.
    policy_s: tuple[float, float] = (0.5, 3.0)
    expert_s: tuple[float, float] = (1.5, 3.5)

    def as_json(self) -> dict:
        """All options, for the notes of a dataset."""
        return asdict(self)
