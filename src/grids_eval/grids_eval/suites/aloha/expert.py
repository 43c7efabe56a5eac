"""A scripted expert for both ALOHA tasks: the whole episode is planned from the objects' places at its start.

Waypoints of the finger tips, smooth between them, become joint targets by inverse kinematics. Nothing is random, every
episode has the same phases at the same times, and nobody waits, so that a policy can tell from one image where it is.
"""

from dataclasses import dataclass

import mujoco
import numpy as np

from grids_eval.suites.aloha.kinematics import Target, ViperArm, pointing

START = (0.0, -0.96, 1.16, 0.0, -0.3, 0.0)  # START_ARM_POSE of gym_aloha/constants.py
DT_S = 0.02  # DT of gym_aloha/constants.py
OPEN, HOLD_CUBE, HOLD_PEG, HOLD_SOCKET = 1.0, 0.1, 0.0, 0.2  # of the gripper: 0 closed, 1 open
SIDES = ("left", "right")


@dataclass(frozen=True, slots=True)
class Way:
    """Be at `position` (3,) m at time_s, pitched down by pitch_rad, rolled by roll_rad, gripper at `gripper`."""

    time_s: float
    position: np.ndarray
    pitch_rad: float
    gripper: float
    roll_rad: float = 0.0


def _ease(share: float) -> float:
    """Minimum-jerk course from 0 to 1 (Flash and Hogan 1985)."""
    return share**3 * (10 - 15 * share + 6 * share**2)


def _beside(place: np.ndarray, x_m: float, z_m: float) -> np.ndarray:
    return place + np.array([x_m, 0.0, z_m])


def transfer_cube(cube: np.ndarray) -> dict[str, list[Way]]:
    """The ways of both arms for a cube at `cube` (3,) m: the right one lifts it, the left one takes it."""
    down, meet = np.deg2rad(60), np.array([0.0, 0.5, 0.25])
    cube = np.array([cube[0], cube[1], 0.02])
    right = [
        Way(1.2, _beside(cube, 0, 0.09), down, OPEN),
        Way(1.8, cube, down, OPEN),
        Way(2.2, cube, down, HOLD_CUBE),
        Way(3.7, meet, 0.3, HOLD_CUBE),
        Way(4.7, meet, 0.3, HOLD_CUBE),
        Way(5.1, meet, 0.3, OPEN),
        Way(5.8, _beside(meet, 0.12, 0), 0.3, OPEN),
    ]
    side = np.pi / 2  # so that the two grippers hold the cube by different faces
    left = [
        Way(1.8, np.array([-0.2, 0.5, 0.25]), 0.15, OPEN, side),
        Way(3.5, _beside(meet, -0.1, 0), 0.1, OPEN, side),
        Way(4.2, meet, 0.1, OPEN, side),
        Way(4.6, meet, 0.1, HOLD_CUBE, side),
        Way(5.1, meet, 0.1, HOLD_CUBE, side),
        Way(5.8, _beside(meet, -0.1, 0), 0.1, HOLD_CUBE, side),
    ]
    return {"left": left, "right": right}


def insertion(peg: np.ndarray, socket: np.ndarray) -> dict[str, list[Way]]:
    """The ways of both arms: the right one puts the peg at `peg` into the socket at `socket` (3,) m each."""
    down, meet = np.deg2rad(60), np.array([0.0, 0.5, 0.15])
    ways = {}
    # rest: height of the grasp; below: how far the part then hangs below the finger tips.
    for side, part, rest, below, hold, sign in (
        ("right", peg, 0.02, 0.013, HOLD_PEG, 1),
        ("left", socket, 0.022, 0.0, HOLD_SOCKET, -1),
    ):
        place = np.array([part[0], part[1], rest])
        ways[side] = [
            Way(1.2, _beside(place, 0, 0.09), down, OPEN),
            Way(1.8, place, down, OPEN),
            Way(2.3, place, down, hold),
            Way(3.8, _beside(meet, sign * 0.1, below), down, hold),
            Way(5.2, _beside(meet, sign * 0.045, below), down, hold),
            Way(5.8, _beside(meet, sign * 0.045, below), down, hold),
        ]
    return ways


class Expert:
    """The commands of one episode. model, qpos: of the simulation at its start."""

    def __init__(self, model: mujoco.MjModel, qpos: np.ndarray, task: str) -> None:
        objects = qpos[16:]
        ways = transfer_cube(objects[:3]) if task == "transfer_cube" else insertion(objects[:3], objects[7:10])
        self.commands = np.concatenate([_commands(model, qpos, side, ways[side]) for side in SIDES], axis=1)

    def action(self, tick: int) -> np.ndarray:
        """The command (14,) of one control step, in gym-aloha's order and units; after the plan its last."""
        return self.commands[min(tick, len(self.commands) - 1)]


def _commands(model: mujoco.MjModel, qpos: np.ndarray, side: str, ways: list[Way]) -> np.ndarray:
    """(T, 7): six joint targets in rad and the gripper, one row per control step."""
    arm = ViperArm(model, side)
    angles = np.array(START)
    first = arm.pose(angles)
    place, pitch, roll, gripper = first.position, float(np.arcsin(-first.rotation[2, 0])), 0.0, 0.1
    rows, begin = [], 0.0
    for way in ways:
        count = round((way.time_s - begin) / DT_S)
        for number in range(1, count + 1):
            share = _ease(number / count)
            position = place + share * (way.position - place)
            turned = pointing(side, pitch + share * (way.pitch_rad - pitch), roll + share * (way.roll_rad - roll))
            angles = arm.solve(Target(position, turned), angles)
            rows.append([*(angles + arm.sag(qpos, angles)), gripper + share * (way.gripper - gripper)])
        place, pitch, roll, gripper, begin = way.position, way.pitch_rad, way.roll_rad, way.gripper, way.time_s
    return np.array(rows)
