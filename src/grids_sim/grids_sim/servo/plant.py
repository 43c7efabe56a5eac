"""Plants: the mechanics that the servos move. The arm in the MuJoCo world, or a first-order arm without physics."""

from typing import Protocol

import numpy as np

from grids_common.so100 import JOINT_LIMITS_RAD, REST_POSE_RAD
from grids_sim.servo.bank import ServoCommand

_LOW, _HIGH = np.transpose(np.asarray(JOINT_LIMITS_RAD, float))


class Plant(Protocol):
    """Six servo shafts; arrays (6,) in joint order, rad, rad/s, N m. Used by the physics thread."""

    position_rad: np.ndarray
    velocity_rad_s: np.ndarray
    effort_nm: np.ndarray

    def step(self, command: ServoCommand, dt_s: float) -> None:
        """Advance by `dt_s` under these motor commands."""
        ...


class SimplePlant:
    """First-order arm: each joint follows its setpoint with a lag. No gravity; a joint without torque stays in place.

    Deterministic and fast, for tests of the layers above the servos. `hand_rad` (6,) pulls joints without torque, as a
    person who moves a leader arm does; joints with torque on resist it.
    `kp_nm_rad`, one per joint, is proportional to the servo's torque: with an arm joint's stiffness, merely moving at
    ramp speed would load the gripper above the 25 % that trip its overload protection.
    """

    def __init__(
        self,
        start_rad=REST_POSE_RAD,
        *,
        lag_s: float = 0.04,
        kp_nm_rad: tuple[float, ...] = (17.8, 17.8, 17.8, 17.8, 17.8, 6.4),
    ) -> None:
        self.position_rad = np.asarray(start_rad, float).copy()
        self.velocity_rad_s = np.zeros(6)
        self.effort_nm = np.zeros(6)
        self.hand_rad: np.ndarray | None = None
        self._lag_s, self._kp = lag_s, np.array(kp_nm_rad)

    def step(self, command: ServoCommand, dt_s: float) -> None:
        """Advance by `dt_s` under these motor commands."""
        on = command.torque_on & (command.torque_limit_nm > 0.02)
        error = command.setpoint_rad - self.position_rad
        self.effort_nm = np.where(on, np.clip(self._kp * error, -command.torque_limit_nm, command.torque_limit_nm), 0.0)
        # The lag turns the position error into a speed; the torque limit bounds it.
        speed = np.where(on, self.effort_nm / (self._kp * self._lag_s), 0.0)
        if self.hand_rad is not None:
            pull = (self.hand_rad - self.position_rad) / self._lag_s
            speed = np.where(on, speed, pull)
        moved = np.clip(self.position_rad + speed * dt_s, _LOW, _HIGH)
        self.velocity_rad_s = (moved - self.position_rad) / dt_s
        self.position_rad = moved


class WorldPlant:
    """The follower arm of a `grids_sim.physics.world.World`."""

    def __init__(self, world) -> None:
        self.world = world

    @property
    def position_rad(self) -> np.ndarray:
        """Joint positions (6,), rad."""
        return self.world.position_rad

    @property
    def velocity_rad_s(self) -> np.ndarray:
        """Joint velocities (6,), rad/s."""
        return self.world.velocity_rad_s

    @property
    def effort_nm(self) -> np.ndarray:
        """Motor torques (6,), Nm."""
        return self.world.effort_nm

    def step(self, command: ServoCommand, dt_s: float) -> None:
        """Advance by `dt_s` under these motor commands."""
        self.world.step(*command)


class StuckJoints:
    """Wraps a plant: stuck joints stay where they were when the fault began, regardless of their servo's command."""

    def __init__(self, plant: Plant) -> None:
        self.plant = plant
        self._held_rad = np.full(6, np.nan)
        self._effort_nm: np.ndarray | None = None

    @property
    def position_rad(self) -> np.ndarray:
        """Joint positions (6,), rad."""
        return self.plant.position_rad

    @property
    def velocity_rad_s(self) -> np.ndarray:
        """Joint velocities (6,), rad/s."""
        return self.plant.velocity_rad_s

    @property
    def effort_nm(self) -> np.ndarray:
        """The servos' torque; for a stuck joint, proportional to its position error within the torque limit."""
        return self.plant.effort_nm if self._effort_nm is None else self._effort_nm

    def step(self, command: ServoCommand, dt_s: float, stuck: frozenset[int] = frozenset()) -> None:
        """Advance the plant by `dt_s`; joints whose index is in `stuck` do not move."""
        if not stuck:
            self._held_rad[:] = np.nan
            self._effort_nm = None
            self.plant.step(command, dt_s)
            return
        mask = np.isin(np.arange(6), list(stuck))
        newly_stuck = mask & np.isnan(self._held_rad)
        self._held_rad = np.where(mask, self._held_rad, np.nan)
        self._held_rad[newly_stuck] = self.plant.position_rad[newly_stuck]
        held = ServoCommand(
            np.where(mask, self._held_rad, command.setpoint_rad),
            np.where(mask, 10.0, command.torque_limit_nm),
            command.torque_on | mask,
        )
        self.plant.step(held, dt_s)
        pushed = 17.8 * (command.setpoint_rad - self.plant.position_rad)
        pushed = np.clip(pushed, -command.torque_limit_nm, command.torque_limit_nm)
        seized = np.where(command.torque_on, pushed, 0.0)
        self._effort_nm = np.where(mask, seized, self.plant.effort_nm)
