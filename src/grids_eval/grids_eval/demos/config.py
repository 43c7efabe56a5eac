"""The options of a demonstration."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class DemoConfig:
    """How demonstrations are made. Shares are 0 to 1; the defaults are those of `./grids demos`."""

    fps: int = 30
    image_every: int = 1  # action steps per image
    image_hw: tuple[int, int] = (128, 128)
    limit_s: float | None = 20.0  # None: the task's own
    stream: int = 1  # which random numbers a seed stands for; each writer has its own
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
    # As on the robot: states are whole servo ticks, executed targets stay within the joint limits.
    as_servos: bool = True
    # Valid are the steps of the last attempt; False: all but those of a grasp that was made to miss.
    last_attempt_only: bool = True
    pixels: bool = False  # also where the objects are in each image
    # A share of the images shows another table, room, light and shades; about every so many images a new one.
    varied_share: float = 0.0
    images_per_look: float = 4.0
    # With a policy: how long its turns and the expert's are, from and to.
    policy_s: tuple[float, float] = (0.5, 3.0)
    expert_s: tuple[float, float] = (1.5, 3.5)

    def as_json(self) -> dict:
        return asdict(self)
