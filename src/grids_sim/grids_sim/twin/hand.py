"""A simulated operator's hand on the leader arm: follows a target smoothly, at the speed of a careful person."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from grids_common.so100 import HOME_POSE_RAD, JOINT_LIMITS_RAD, REST_POSE_RAD

_LOW, _HIGH = np.transpose(np.asarray(JOINT_LIMITS_RAD, float))


@dataclass(frozen=True, slots=True)
class LeaderHandConfig:
    """Critically damped second-order follower; limits are those of a careful person who moves a leader arm."""

    bandwidth_rad_s: float = 14.0
    speed_limit_rad_s: float = 1.8
    acceleration_limit_rad_s2: float = 18.0


class LeaderHand:
    """Moves the leader. `target(now_s)` is the operator's goal pose (6,) rad, None to release it."""

    def __init__(
        self,
        start_rad,
        target: Callable[[float], np.ndarray | None],
        config: LeaderHandConfig | None = None,
    ) -> None:
        self._position = np.asarray(start_rad, float).copy()
        self._velocity = np.zeros(6)
        self._target = target
        self._config = config or LeaderHandConfig()
        self._holding = False

    def step(self, now_s: float, dt_s: float, measured_rad: np.ndarray) -> np.ndarray | None:
        """Advance by `dt_s`; returns the pose (6,) rad at which the hand holds the arm, None while released."""
        goal = self._target(now_s)
        if goal is None:
            self._holding = False
            return None
        if not self._holding:
            self._holding = True
            self._position, self._velocity = measured_rad.copy(), np.zeros(6)
        config = self._config
        speed = config.bandwidth_rad_s / 2 * (np.clip(goal, _LOW, _HIGH) - self._position)
        speed = np.clip(speed, -config.speed_limit_rad_s, config.speed_limit_rad_s)
        change = 2 * config.bandwidth_rad_s * (speed - self._velocity)
        limit = config.acceleration_limit_rad_s2
        self._velocity = self._velocity + np.clip(change, -limit, limit) * dt_s
        self._position = np.clip(self._position + self._velocity * dt_s, _LOW, _HIGH)
        return self._position


def wave(now_s: float) -> np.ndarray:
    """A slow test motion, (6,) rad: each joint swings between rest and home pose with its own period."""
    rest, home = np.asarray(REST_POSE_RAD), np.asarray(HOME_POSE_RAD)
    middle, span = (rest + home) / 2, (home - rest) / 2
    span = np.where(np.abs(span) < 0.05, 0.35, span)
    periods = np.array([9.0, 7.0, 7.0, 6.0, 8.0, 4.0])
    return middle + span * np.sin(2 * math.pi * now_s / periods)
