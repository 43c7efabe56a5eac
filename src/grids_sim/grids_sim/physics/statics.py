"""Static position error of the servos under gravity: a proportional position servo rests below its target."""

import mujoco
import numpy as np

from grids_sim.physics.arm import ServoConfig, build_arm

ARM_JOINTS = 5


class Statics:
    """Gravity load of the arm alone, without a scene. Not thread-safe: owns one MjData."""

    def __init__(self, servo: ServoConfig | None = None) -> None:
        servo = servo if servo is not None else ServoConfig()
        spec = mujoco.MjSpec()
        build_arm(spec, servo, None)
        self._model = spec.compile()
        self._data = mujoco.MjData(self._model)
        self._kp = np.array(servo.kp)

    def sag_rad(self, joints_rad: np.ndarray) -> np.ndarray:
        """Target minus measured angle at rest, (N, 6) rad -> (N, 6) rad; the gripper's column is 0."""
        sag = np.zeros_like(joints_rad, dtype=float)
        self._data.qvel[:] = 0
        for row, joints in enumerate(joints_rad):
            self._data.qpos[:] = joints
            mujoco.mj_kinematics(self._model, self._data)
            mujoco.mj_comPos(self._model, self._data)
            mujoco.mj_fwdVelocity(self._model, self._data)
            sag[row, :ARM_JOINTS] = (self._data.qfrc_bias / self._kp)[:ARM_JOINTS]
        return sag
