"""Inverse kinematics of one ViperX arm of gym-aloha, and the command that makes the arm stand where it is asked to.

Runs in the suite's own environment: numpy and mujoco only. `ViperArm` works on a copy of the data and never moves the
simulation.
"""

from dataclasses import dataclass

import mujoco
import numpy as np

JOINTS = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate")
PINCH_M = 0.137  # from the frame of gripper_link along x to where the finger tips meet; tips end at 0.154
_DAMPING, _STEPS, _STEP_RAD = 0.02, 60, 0.25


@dataclass(frozen=True, slots=True)
class Target:
    """Where the finger tips are to be: position (3,) m and rotation (3, 3) of gripper_link, in the world."""

    position: np.ndarray
    rotation: np.ndarray


def pointing(side: str, pitch_rad: float, roll_rad: float) -> np.ndarray:
    """Rotation of a gripper that looks along its arm's x (left: +x, right: -x), turned down, then about its own x."""
    c, s = np.cos(pitch_rad), np.sin(pitch_rad)
    down = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    cr, sr = np.cos(roll_rad), np.sin(roll_rad)
    rolled = down @ np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    return rolled if side == "left" else np.diag([-1.0, -1.0, 1.0]) @ rolled


class ViperArm:
    """One arm; side: left or right."""

    def __init__(self, model: mujoco.MjModel, side: str) -> None:
        self._model, self._data = model, mujoco.MjData(model)
        joints = [model.joint(f"vx300s_{side}/{name}") for name in JOINTS]
        self._at = np.array([joint.qposadr[0] for joint in joints])
        self._dof = np.array([joint.dofadr[0] for joint in joints])
        self._low, self._high = np.array([joint.range for joint in joints]).T
        self._gripper = model.body(f"vx300s_{side}/gripper_link").id
        drives = [next(i for i in range(model.nu) if model.actuator_trnid[i, 0] == joint.id) for joint in joints]
        self._stiffness = model.actuator_gainprm[drives, 0]

    def pose(self, angles: np.ndarray) -> Target:
        """Where the finger tips are at joint angles (6,) rad."""
        self._data.qpos[self._at] = angles
        mujoco.mj_kinematics(self._model, self._data)
        rotation = self._data.xmat[self._gripper].reshape(3, 3).copy()
        return Target(self._data.xpos[self._gripper] + PINCH_M * rotation[:, 0], rotation)

    def solve(self, target: Target, start: np.ndarray) -> np.ndarray:
        """Joint angles (6,) rad near `start` at which the finger tips are at `target`, by damped least squares."""
        angles = np.array(start, float)
        jacobian = np.zeros((6, self._model.nv))
        for _ in range(_STEPS):
            now = self.pose(angles)
            error = np.concatenate([target.position - now.position, _turn(target.rotation, now.rotation)])
            if np.abs(error).max() < 1e-5:
                break
            mujoco.mj_comPos(self._model, self._data)
            mujoco.mj_jac(self._model, self._data, jacobian[:3], jacobian[3:], now.position, self._gripper)
            own = jacobian[:, self._dof]
            step = own.T @ np.linalg.solve(own @ own.T + _DAMPING**2 * np.eye(6), error)
            angles += np.clip(step, -_STEP_RAD, _STEP_RAD)
            angles = np.clip(angles, self._low, self._high)
        return angles

    def sag(self, qpos: np.ndarray, angles: np.ndarray) -> np.ndarray:
        """(6,) rad by which a position servo gives way to gravity at `angles`; qpos: the whole simulation's."""
        self._data.qpos[:] = qpos
        self._data.qpos[self._at] = angles
        self._data.qvel[:] = 0
        mujoco.mj_forward(self._model, self._data)
        return self._data.qfrc_bias[self._dof] / self._stiffness


def _turn(wanted: np.ndarray, now: np.ndarray) -> np.ndarray:
    """Rotation vector (3,) that turns `now` into `wanted`, in the world."""
    quaternion, vector = np.zeros(4), np.zeros(3)
    mujoco.mju_mat2Quat(quaternion, (wanted @ now.T).ravel())
    mujoco.mju_quat2Vel(vector, quaternion, 1.0)
    return vector
