"""A virtual operator's hand on the leader arm: follows a target the way a person does, smoothly and not too fast."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from grids_common.so100 import HOME_POSE_RAD, JOINT_LIMITS_RAD, REST_POSE_RAD

_LOW, _HIGH = np.transpose(np.asarray(JOINT_LIMITS_RAD, float))


@dataclass(frozen=True, slots=True)
class LeaderHandConfig:
    """Critically damped follower. Speed as a careful person moves a leader arm."""

    bandwidth_rad_s: float = 14.0
    speed_limit_rad_s: float = 1.8
    acceleration_limit_rad_s2: float = 18.0


class LeaderHand:
    """`target` gives the pose (6,) rad the operator wants at a time, or None for hands off."""

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
        """Where the hand holds the arm now, or None while it does not touch it."""
        goal = self._target(now_s)
        if goal is None:
            self._holding = False
            return None
        if not self._holding:
            self._holding = True
            self._position, self._velocity = measured_rad.copy(), np.zeros(6)
        config = self._config
        wanted = config.bandwidth_rad_s / 2 * (np.clip(goal, _LOW, _HIGH) - self._position)
        wanted = np.clip(wanted, -config.speed_limit_rad_s, config.speed_limit_rad_s)
        change = 2 * config.bandwidth_rad_s * (wanted - self._velocity)
        limit = config.acceleration_limit_rad_s2
        self._velocity = self._velocity + np.clip(change, -limit, limit) * dt_s
        self._position = np.clip(self._position + self._velocity * dt_s, _LOW, _HIGH)
        return self._position


def wave(now_s: float) -> np.ndarray:
    """A slow demonstration: joints swing between rest and home with different periods."""
    rest, home = np.asarray(REST_POSE_RAD), np.asarray(HOME_POSE_RAD)
    middle, span = (rest + home) / 2, (home - rest) / 2
    span = np.where(np.abs(span) < 0.05, 0.35, span)
    periods = np.array([9.0, 7.0, 7.0, 6.0, 8.0, 4.0])
    return middle + span * np.sin(2 * math.pi * now_s / periods)
