"""Lock-step control without ROS or real time: targets at a policy's rate, interpolated as the driver does."""

from dataclasses import dataclass

import numpy as np

from grids_sim.physics.scene import PHYSICS_HZ
from grids_sim.physics.world import JOINTS, Truth, World

ON = np.ones(JOINTS, dtype=bool)


@dataclass(frozen=True, slots=True)
class StepResult:
    """State after one control period: simulated seconds since reset, measured angles (6,) rad, success so far."""

    time_s: float
    position_rad: np.ndarray
    success: bool


class LockstepEnv:
    """Applies one target per control period; the servo setpoint moves linearly from the previous target to it.

    ValueError when `control_hz` does not divide PHYSICS_HZ. Not thread-safe.
    """

    def __init__(self, world: World, *, control_hz: int = 30) -> None:
        if control_hz <= 0 or PHYSICS_HZ % control_hz:
            divisors = [n for n in range(5, 101) if PHYSICS_HZ % n == 0]
            raise ValueError(f"control_hz: expected one of {divisors}, got {control_hz}")
        self.world = world
        self.dt_s = 1 / control_hz
        self._substeps = PHYSICS_HZ // control_hz
        self._target = world.position_rad

    def reset(self, seed: int) -> Truth:
        """Start an episode and return its first truth; the first step interpolates from the pose at reset."""
        self.world.reset(seed)
        self._target = self.world.data.ctrl[:JOINTS].copy()
        return self.world.truth()

    def step(self, target_rad: np.ndarray) -> StepResult:
        """Apply one target (6,) rad for one control period."""
        world, previous = self.world, self._target
        self._target = np.array(target_rad, dtype=float)
        for number in range(1, self._substeps + 1):
            share = number / self._substeps
            world.step((1 - share) * previous + share * self._target, world.rated_torque_nm, ON)
        return StepResult(world.time_s, world.position_rad, world.success())
