"""The scripted expert as a policy node: reads the twin's ground truth and publishes ActionChunks like a learned policy.

Plain node, one thread. It publishes no chunk while truth or joints are missing or old; the driver then holds.
"""

import time
from array import array
from dataclasses import dataclass

import numpy as np
from grids_msgs.msg import ActionChunk, PolicyStatus, TaskState
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from visualization_msgs.msg import MarkerArray

from grids_common import params
from grids_common.lifecycle import run_node
from grids_common.params import param
from grids_common.so100 import JOINT_NAMES
from grids_common.stamps import stamp_ns, to_stamp
from grids_common.tasks import TASKS
from grids_common.topics import publisher, subscription
from grids_sim.expert.expert import ScriptedExpert, ScriptedExpertConfig
from grids_sim.nodes.truth_message import ObjectTracker
from grids_sim.physics.world import Truth
from grids_sim.tasks.judge import ObjectPose

BUNDLE_ID = "expert"
# Fast enough for the driver to notice within its heartbeat timeout that this process is gone.
STATUS_HZ = 20.0
MAX_AGE_S = 0.5


@dataclass(frozen=True)
class ExpertParams:
    """Parameters of the node."""

    task: str = param("", "expected task of the twin; empty: any", choices=("", *TASKS))
    rate_hz: float = param(5.0, "chunks per second", unit="Hz", lo=2.0, hi=30.0)
    horizon: int = param(45, "action steps per chunk", lo=10, hi=200)
    dt: float = param(1 / 30, "time between two action steps", unit="s", lo=0.01, hi=0.1)
    speed: float = param(1.0, "factor on the expert's normal speed", lo=0.2, hi=1.5)


class ExpertNode(Node):
    """The node `policy` with the scripted expert. All callbacks run in the executor's thread."""

    def __init__(self) -> None:
        super().__init__("policy")
        self._params = params.declare(self, ExpertParams, "policy")
        self._tracker = ObjectTracker()
        self._task: TaskState | None = None
        self._joints: tuple[np.ndarray, int, float] | None = None  # rad, stamp ns, arrival s
        self._expert: ScriptedExpert | None = None
        self._scene: tuple | None = None
        self._epoch = self._sequence = 0
        self._reason = "waiting for the twin"
        self._chunks = publisher(self, "/policy/action_chunk", ActionChunk)
        self._status = publisher(self, "/policy/status", PolicyStatus)
        self._instruction = publisher(self, "/policy/instruction", String)
        subscription(self, "/twin/objects", MarkerArray, self._on_objects)
        subscription(self, "/twin/task_state", TaskState, self._on_task)
        subscription(self, "/follower/joint_states", JointState, self._on_joints)
        self.create_timer(1 / self._params.rate_hz, self._publish_chunk)
        self.create_timer(1 / STATUS_HZ, self._report)

    def _on_objects(self, message: MarkerArray) -> None:
        self._tracker.update(message, time.monotonic())

    def _on_joints(self, message: JointState) -> None:
        angles = dict(zip(message.name, message.position, strict=False))
        if not set(JOINT_NAMES) <= set(angles):
            self.get_logger().error(
                f"joint states: expected {', '.join(JOINT_NAMES)}, got {', '.join(message.name)}",
                throttle_duration_sec=5.0,
            )
            return
        position = np.array([angles[name] for name in JOINT_NAMES])
        self._joints = (position, stamp_ns(message.header.stamp), time.monotonic())

    def _on_task(self, message: TaskState) -> None:
        self._task = message
        scene = (message.task, message.seed, message.episode)
        if scene == self._scene:
            return
        if message.task not in TASKS:
            self._expert, self._scene = None, None
            return
        if self._params.task not in ("", message.task):
            self.get_logger().warning(
                f"expected task {self._params.task}, the twin is set up for {message.task}: doing that"
            )
        config = ScriptedExpertConfig(self._params.horizon, self._params.dt, self._params.speed)
        self._expert = ScriptedExpert(message.task, message.seed % 2**63, config)
        self._tracker = ObjectTracker()
        # A new epoch: the driver discards chunks that were planned for the old scene.
        self._epoch += self._scene is not None
        self._scene = scene
        self._instruction.publish(String(data=message.instruction))

    def _problem(self, now_s: float) -> str:
        """Why no chunk can be computed now, or an empty string."""
        if self._task is None or self._expert is None:
            return "waiting for twin/task_state of a known task"
        if self._joints is None or now_s - self._joints[2] > MAX_AGE_S:
            return f"no follower/joint_states within {MAX_AGE_S} s"
        moved, goal = TASKS[self._task.task].objects
        missing = [name for name in (moved, goal) if name not in self._tracker.poses]
        if missing or now_s - self._tracker.arrival_s > MAX_AGE_S:
            return f"no twin/objects with {moved} and {goal} within {MAX_AGE_S} s"
        return ""

    def _publish_chunk(self) -> None:
        began_s = time.monotonic()
        self._reason = self._problem(began_s)
        if self._reason:
            self.get_logger().info(self._reason, throttle_duration_sec=5.0)
            return
        position, observed_ns, _ = self._joints
        truth = _truth(self._task, self._tracker.poses)
        steps, dt_s = self._expert.chunk(truth, position, observed_ns * 1e-9)
        message = ActionChunk(
            joint_names=list(JOINT_NAMES),
            dt=dt_s,
            horizon=len(steps),
            sequence=self._sequence,
            epoch=self._epoch,
            bundle_id=BUNDLE_ID,
            noise_seed=self._task.seed,
            stage_names=["plan"],
        )
        message.header.stamp = to_stamp(observed_ns)
        message.positions = array("d", steps.ravel())
        message.stage_s = array("f", [time.monotonic() - began_s])
        self._chunks.publish(message)
        self._sequence += 1

    def _report(self) -> None:
        message = PolicyStatus(
            state="armed" if self._reason else "running",
            reason=self._reason,
            bundle_id=BUNDLE_ID,
            provider="script",
            instruction=self._task.instruction if self._task else "",
            chunks=self._sequence,
            inferences=self._sequence,
        )
        message.header.stamp = self.get_clock().now().to_msg()
        self._status.publish(message)


def _truth(task: TaskState, poses: dict[str, ObjectPose]) -> Truth:
    return Truth(
        time_s=task.time,
        task=task.task,
        instruction=task.instruction,
        seed=task.seed,
        episode=task.episode,
        objects=dict(poses),
        held=None,
        success=task.success,
        success_time_s=task.success_time,
    )


def main(args=None) -> int:
    """Run the node; returns the exit code."""
    return run_node(ExpertNode, args)


if __name__ == "__main__":
    raise SystemExit(main())
