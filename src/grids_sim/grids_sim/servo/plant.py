"""What the servos of an arm turn: the MuJoCo world, a trivial first-order arm, or a leader in somebody's hand."""

from typing import Protocol

import numpy as np

from grids_common.so100 import JOINT_LIMITS_RAD, REST_POSE_RAD
from grids_sim.servo.bank import ServoCommand

_LOW, _HIGH = np.transpose(np.asarray(JOINT_LIMITS_RAD, float))


class Plant(Protocol):
    """Six shafts. Arrays are (6,), rad, rad/s, N m."""

    position_rad: np.ndarray
    velocity_rad_s: np.ndarray
    effort_nm: np.ndarray

    def step(self, command: ServoCommand, dt_s: float) -> None: ...


class SimplePlant:
    """Each joint follows its setpoint with a first-order lag and a constant load. No gravity: it stays when limp.

    Deterministic and fast: for tests of everything above the servo. `hand_rad` (6,) drags limp joints, as a person
    moving a leader arm does; joints with torque on resist it.
    `kp_nm_rad`, one per joint, is in proportion to the servos' torque: with an arm joint's stiffness, merely moving at
    ramp speed would load the gripper beyond the 25 % that trip its overload protection.
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
        on = command.torque_on & (command.torque_limit_nm > 0.02)
        error = command.setpoint_rad - self.position_rad
        self.effort_nm = np.where(on, np.clip(self._kp * error, -command.torque_limit_nm, command.torque_limit_nm), 0.0)
        # Torque needed for a speed: the lag turns error into speed, the torque limit bounds it.
        wanted = np.where(on, self.effort_nm / (self._kp * self._lag_s), 0.0)
        if self.hand_rad is not None:
            pull = (self.hand_rad - self.position_rad) / self._lag_s
            wanted = np.where(on, wanted, pull)
        moved = np.clip(self.position_rad + wanted * dt_s, _LOW, _HIGH)
        self.velocity_rad_s = (moved - self.position_rad) / dt_s
        self.position_rad = moved


class WorldPlant:
    """The follower inside a `grids_sim.physics.world.World`."""

    def __init__(self, world) -> None:
        self.world = world

    @property
    def position_rad(self) -> np.ndarray:
        return self.world.position_rad

    @property
    def velocity_rad_s(self) -> np.ndarray:
        return self.world.velocity_rad_s

    @property
    def effort_nm(self) -> np.ndarray:
        return self.world.effort_nm

    def step(self, command: ServoCommand, dt_s: float) -> None:
        self.world.step(*command)


class StuckJoints:
    """Wraps a plant: joints named stuck are held where they were when they seized, whatever their servo does."""

    def __init__(self, plant: Plant) -> None:
        self.plant = plant
        self._held_rad = np.full(6, np.nan)
        self._effort_nm: np.ndarray | None = None

    @property
    def position_rad(self) -> np.ndarray:
        return self.plant.position_rad

    @property
    def velocity_rad_s(self) -> np.ndarray:
        return self.plant.velocity_rad_s

    @property
    def effort_nm(self) -> np.ndarray:
        """The servo's own torque: against a seized joint it is what the position error asks for."""
        return self.plant.effort_nm if self._effort_nm is None else self._effort_nm

    def step(self, command: ServoCommand, dt_s: float, stuck: frozenset[int] = frozenset()) -> None:
        if not stuck:
            self._held_rad[:] = np.nan
            self._effort_nm = None
            self.plant.step(command, dt_s)
            return
        mask = np.isin(np.arange(6), list(stuck))
        fresh = mask & np.isnan(self._held_rad)
        self._held_rad = np.where(mask, self._held_rad, np.nan)
        self._held_rad[fresh] = self.plant.position_rad[fresh]
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
