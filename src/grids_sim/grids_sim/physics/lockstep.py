"""Control without ROS: a World stepped at a policy's rate, as the driver would interpolate its targets."""

from dataclasses import dataclass

import numpy as np

from grids_sim.physics.scene import PHYSICS_HZ
from grids_sim.physics.world import JOINTS, Truth, World

ON = np.ones(JOINTS, dtype=bool)


@dataclass(frozen=True, slots=True)
class StepResult:
    """State after one control period."""

    time_s: float
    position_rad: np.ndarray
    success: bool


class LockstepEnv:
    """Targets at `control_hz`; in between the servo setpoint moves linearly from the previous target to the new one."""

    def __init__(self, world: World, *, control_hz: int = 30) -> None:
        if control_hz <= 0 or PHYSICS_HZ % control_hz:
            divisors = [n for n in range(5, 101) if PHYSICS_HZ % n == 0]
            raise ValueError(f"control_hz: expected one of {divisors}, got {control_hz}")
        self.world = world
        self.dt_s = 1 / control_hz
        self._substeps = PHYSICS_HZ // control_hz
        self._target = world.position_rad

    def reset(self, seed: int) -> Truth:
        """New episode; the first target is interpolated from the measured pose."""
        self.world.reset(seed)
        self._target = self.world.data.ctrl[:JOINTS].copy()
        return self.world.truth()

    def step(self, target_rad: np.ndarray) -> StepResult:
        """Apply one target (6,) for one control period."""
        world, previous = self.world, self._target
        self._target = np.array(target_rad, dtype=float)
        for number in range(1, self._substeps + 1):
            share = number / self._substeps
            world.step((1 - share) * previous + share * self._target, world.rated_torque_nm, ON)
        return StepResult(world.time_s, world.position_rad, world.success())
