"""Policy node: images and joints in, action chunks out. Wiring only; the work is in worker, runtime and schedule.

Unconfigured: nothing is loaded. Inactive: the bundle is verified, the engine warm, the latency measured; only the
status is published. Active: chunks are published while an instruction runs. Any failure of the engine ends the process
with code 1; the driver holds on its own when chunks stop.
"""

import os
import sys
import time
from pathlib import Path

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from grids_msgs.msg import ActionChunk, PolicyStatus, SampledTokens
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from grids_common.image_topics import ImageSubscription
from grids_common.lifecycle import ManagedNode, SetupError, run_node
from grids_common.params import declare
from grids_common.so100 import JOINT_NAMES
from grids_common.stamps import to_stamp
from grids_common.topics import CAMERAS, diagnostic_name, publisher, subscription
from grids_policy.node import messages
from grids_policy.node.observation import SyncLimits
from grids_policy.node.params import PolicyParams
from grids_policy.node.robot_clock import RobotClock
from grids_policy.node.run_task import TaskProgress, TaskServer
from grids_policy.node.schedule import Arming, check_arming
from grids_policy.node.worker import PolicyWorker, Result, WorkerOptions, WorkerStatus
from grids_policy.runtime.base import PolicyInputs, PolicyOutputs
from grids_policy.runtime.language import SentenceEncoder
from grids_policy.runtime.onnx import EngineOptions, OnnxRuntime
from grids_policy.runtime.warmup import measure_latency

# The heartbeat: the driver holds when a policy that reported at 10 Hz or faster publishes nothing for 0.2 s.
_HEARTBEAT_PERIOD_S = 0.05
_STATUS_EVERY = 10  # heartbeats per status with fresh latency percentiles and diagnostics
_FAILURE_GRACE_S = 1.0  # time for status and diagnostics to be sent before the process ends
_REMAP = "export it again with --cameras NAME:CHECKPOINT_CAMERA=WIDTHxHEIGHT"


class PolicyNode(ManagedNode):
    """All methods run in the executor's thread except `_publish` and `_compare`, which the inference thread calls."""

    def __init__(self) -> None:
        super().__init__("policy")
        self._params = declare(self, PolicyParams, "policy", apply=self._apply)
        self._state, self._reason = "inactive", "not configured"
        self._runtime: OnnxRuntime | None = None
        self._worker: PolicyWorker | None = None
        self._arming: Arming | None = None
        self._tasks: TaskServer | None = None
        self._robot_clock = RobotClock(self, self._params.max_clock_offset_s) if self._params.robot_clock else None
        self._inputs: list = []
        self._images: list[ImageSubscription] = []
        self._own_timers: list = []
        self._instruction = ""
        self._decided_ns = 0  # wall clock; instructions published before this are ignored
        self._beats = 0
        self._last_status: PolicyStatus | None = None
        self._hang_s = float("inf")
        self._last_epoch = 0
        self._status = publisher(self, "/policy/status", PolicyStatus)
        self._diagnostics = publisher(self, "/diagnostics", DiagnosticArray)
        self._chunks = publisher(self, "/policy/action_chunk", ActionChunk)
        self._samples = publisher(self, "/policy/sampled_tokens", SampledTokens)
        self._echo = publisher(self, "/policy/instruction", String)
        self._trajectory = None
        if self._params.publish_trajectory:
            self._trajectory = publisher(self, "/policy/joint_trajectory", JointTrajectory)

    # Lifecycle.

    def configure(self) -> None:
        """Load and verify the bundle, measure the latency. Raises SetupError or BundleError."""
        params = self._params
        if not params.bundle:
            raise SetupError("expected parameter 'bundle' to name a policy bundle folder, got none")
        os.nice(params.nice)
        self._set_state("warming_up", f"loading {params.bundle}")
        options = EngineOptions(params.engine, params.threads, Path(params.engine_cache), device=params.engine_device)
        self._runtime = OnnxRuntime(Path(params.bundle).expanduser(), options, keep_reference=True)
        self.get_logger().info(f"{self._runtime.bundle.bundle_id}: {self._runtime.note}")
        self._check_against_bundle()
        bundle = self._runtime.bundle
        latency_s = measure_latency(self._runtime, params.arming_runs, params.arming_budget_s)
        n_action_steps = params.n_action_steps or bundle.n_action_steps
        self._arming = check_arming(latency_s, n_action_steps, bundle.dt * params.time_scale)
        self._hang_s = params.hang_timeout_s or max(5.0, 20 * latency_s)
        self._worker = self._make_worker(n_action_steps, latency_s)
        self._tasks = TaskServer(self, self._begin, self._stop, self._progress, self._ready)
        self._set_state("inactive", self._arming.text)
        self._own_timers = [self.create_timer(_HEARTBEAT_PERIOD_S, self._beat)]

    def _check_against_bundle(self) -> None:
        """Refuse parameters that this bundle or this robot does not support. Raises SetupError."""
        params, bundle = self._params, self._runtime.bundle
        if bundle.joints != JOINT_NAMES:
            raise SetupError(f"the bundle moves {', '.join(bundle.joints)}, this robot has {', '.join(JOINT_NAMES)}")
        if unknown := [camera.name for camera in bundle.cameras if camera.name not in CAMERAS]:
            raise SetupError(f"the bundle needs camera {unknown[0]!r}, this robot has {', '.join(CAMERAS)}: {_REMAP}")
        lost = params.lost_camera
        if lost != "hold" and lost not in bundle.missing_camera:
            raise SetupError(
                f"lost_camera {lost!r}: expected one this bundle was trained for "
                f"({', '.join(bundle.missing_camera) or 'none'}) or 'hold'"
            )
        if params.n_action_steps > bundle.chunk_size:
            raise SetupError(
                f"n_action_steps: expected at most {bundle.chunk_size} (the chunk), got {params.n_action_steps}"
            )
        if params.reuse_threshold > 0 and not bundle.reusable:
            raise SetupError(
                "reuse_threshold: this bundle runs all cameras in one vision call; export it with --per-camera"
            )
        if params.switching == "rtc" and bundle.max_committed == 0:
            raise SetupError(
                "switching 'rtc': this bundle was trained without committed action steps (max_committed 0); use 'blend'"
            )

    def _make_worker(self, n_action_steps: int, latency_s: float) -> PolicyWorker:
        params, bundle = self._params, self._runtime.bundle
        encoder = SentenceEncoder(Path(params.bundle).expanduser(), bundle.language)
        limits = SyncLimits(
            max_age_s=params.max_image_age_s,
            max_skew_s=params.max_camera_skew_s,
            max_joint_gap_s=params.max_joint_gap_s,
            lost_camera=params.lost_camera,
        )
        options = WorkerOptions(
            limits=limits,
            n_action_steps=n_action_steps,
            dt_s=bundle.dt * params.time_scale,
            seed=params.seed,
            expected_latency_s=latency_s,
            # Larger than any epoch of an earlier process or activation: the driver drops chunks of smaller epochs.
            epoch=max(self._now_ns() // 1_000_000_000, self._last_epoch + 1) % 2**32,
            reuse_threshold=params.reuse_threshold,
            max_committed=bundle.max_committed if params.switching == "rtc" else 0,
        )
        compare = self._compare if self._runtime.to_compare else None
        obstacle = self._robot_clock.problem if self._robot_clock else None
        return PolicyWorker(
            self._runtime, encoder, options, self._publish, self._now_ns, compare=compare, obstacle=obstacle
        )

    def _compare(self, inputs: PolicyInputs, outputs: PolicyOutputs) -> None:
        """Called once per start from the inference thread, before anything is published. Raises BundleError."""
        self.get_logger().info(f"on the first images: {self._runtime.compare_live(inputs, outputs)}")

    def activate(self) -> None:
        """Subscribe and start the inference thread. Raises SetupError when inference is too slow."""
        if not self._arming.allowed:
            if not self._params.arm_when_slow:
                self._set_state("refused", self._arming.text)
                raise SetupError(self._arming.text)
            self.get_logger().warning(f"arm_when_slow: {self._arming.text}")
        bundle = self._runtime.bundle
        transport = self._params.image_transport
        self._images = [
            ImageSubscription(self, c.name, transport, lambda msg, c=c: self._on_image(c, msg)) for c in bundle.cameras
        ]
        self._inputs = [
            subscription(self, "/follower/joint_states", JointState, self._on_joints),
            subscription(self, "/policy/instruction", String, self._on_instruction),
        ]
        self._worker.start()
        self._decided_ns = time.time_ns()
        self._set_state("armed", "")
        if self._params.run_on_activate:
            self._begin(self._params.instruction or bundle.language.instruction)

    def deactivate(self) -> None:
        """Make the arm hold and end the inference thread. Raises SetupError when the engine hangs."""
        self._unsubscribe()
        self._stop()
        if not self._worker.close(min(self._hang_s, 4.5)):
            # A second worker on the same session would share its buffers with the one that hangs.
            raise SetupError("the engine is still busy with an inference: restart the policy process")
        n_action_steps = self._params.n_action_steps or self._runtime.bundle.n_action_steps
        self._worker = self._make_worker(n_action_steps, self._arming.latency_s)
        self._set_state("inactive", "deactivated")

    def _unsubscribe(self) -> None:
        for images in self._images:
            images.close()
        for entity in self._inputs:
            self.destroy_subscription(entity)
        self._images, self._inputs = [], []

    def cleanup(self) -> None:
        """Free the engine."""
        self.make_safe()
        self._set_state("inactive", "not configured")

    def make_safe(self) -> None:
        """Stop publishing and free everything; also called after a failed transition."""
        for timer in self._own_timers:
            self.destroy_timer(timer)
        self._own_timers = []
        self._unsubscribe()
        if self._tasks is not None:
            self._tasks.close()
        if self._worker is not None and not self._worker.close():
            self.get_logger().error("the engine hangs; its thread is abandoned")
        if self._runtime is not None:
            self._runtime.close()
        self._tasks = self._worker = self._runtime = None
        if self._state != "inactive" and self.context.ok():
            self._status.publish(PolicyStatus(state=self._state, reason=self._reason))

    # Running and stopping.

    def _begin(self, instruction: str) -> None:
        self._worker.run(instruction)
        self._instruction = instruction
        self._echo.publish(String(data=instruction))
        self._decided_ns = time.time_ns()
        self._set_state("running", "")
        self.get_logger().info(f"running: {instruction.strip()!r}")

    def _stop(self) -> None:
        """Drop all earlier chunks: publish a hold at the measured pose in a higher epoch."""
        epoch, joints = self._worker.pause(), self._worker.newest_joints()
        self._last_epoch, self._decided_ns = epoch, time.time_ns()
        if self._state == "running":
            self._set_state("armed", "waiting for an instruction")
        if joints is not None and np.isfinite(joints.position_rad).all():
            bundle = self._runtime.bundle
            self._chunks.publish(messages.hold_message(joints, self._now_ns(), epoch, bundle))

    def _ready(self) -> str:
        if self._state in ("armed", "running"):
            return ""
        return f"the policy is {self._state}" + (f": {self._reason}" if self._reason else "")

    def _progress(self) -> TaskProgress:
        worker = self._worker.status()
        total = worker.stages.get("total")
        latency_s = total.p95 if total else self._arming.latency_s
        return TaskProgress(worker.counters.chunks, latency_s, self._state, worker.failure)

    # Callbacks.

    def _on_image(self, camera, msg: Image | CompressedImage) -> None:
        frame = messages.frame_from(msg, camera.name, camera.width, camera.height)
        if isinstance(frame, str):
            self.get_logger().error(frame, throttle_duration_sec=2.0)
            self._reason = frame
            return
        self._worker.add_frame(camera.name, frame)

    def _on_joints(self, msg: JointState) -> None:
        joints = messages.joints_from(msg, self._runtime.bundle.joints)
        if isinstance(joints, str):
            self.get_logger().error(joints, throttle_duration_sec=2.0)
            self._reason = joints
            return
        self._worker.add_joints(joints)

    def _apply(self, params: PolicyParams) -> None:
        """Follow the sentence that was set at run time, at once if one is followed, else from the next activation."""
        self._params = params
        if self._state != "running" or not params.instruction.strip():
            return
        if self._tasks.busy:
            self.get_logger().warning("parameter instruction: a task is running; it holds after the task")
            return
        self._begin(params.instruction)

    def _on_instruction(self, msg: String, info: dict) -> None:
        """A new sentence from another node starts the policy or changes its instruction.

        The topic is latched and this node publishes on it too. So a sentence published before the last start, stop or
        activation (our own echo, or one left from an earlier run) is ignored: it must not move the arm.
        """
        if self._state not in ("armed", "running") or 0 < info["source_timestamp"] <= self._decided_ns:
            return
        if self._tasks.busy:
            self.get_logger().warning(f"policy/instruction {msg.data!r} ignored: a task is running, cancel it first")
            return
        try:
            self._begin(msg.data)
        except ValueError as error:
            self.get_logger().error(f"policy/instruction: {error}", throttle_duration_sec=2.0)

    def _publish(self, result: Result) -> None:
        bundle = self._runtime.bundle
        chunk = messages.chunk_message(result, bundle)
        self._chunks.publish(chunk)
        if self._trajectory is not None:
            self._trajectory.publish(messages.trajectory_message(chunk))
        maps = {"retention": self._params.publish_retention, "similarity": self._params.publish_self_similarity}
        for sample in messages.sample_messages(result, bundle, **maps):
            self._samples.publish(sample)

    # Status.

    def _now_ns(self) -> int:
        """Now on the clock of the images' stamps."""
        return self._robot_clock.now_ns() if self._robot_clock else self.get_clock().now().nanoseconds

    def _set_state(self, state: str, reason: str) -> None:
        self._state, self._reason = state, reason

    def _beat(self) -> None:
        """Heartbeat, 20 Hz: every tenth is a full report, the others repeat the last report under a new stamp."""
        self._beats += 1
        if self._last_status is None or self._beats % _STATUS_EVERY == 0:
            self._report()
            return
        self._last_status.header.stamp = to_stamp(self._now_ns())
        self._last_status.state = self._state
        self._status.publish(self._last_status)

    def _report(self) -> None:
        worker = self._worker.status()
        self._watch(worker)
        status = messages.status_message(
            worker, self._runtime.bundle, self._runtime.provider, self._arming, self._now_ns()
        )
        status.state, status.instruction = self._state, self._instruction
        status.reason = self._reason or worker.reason
        if self._state == "running":
            self._reason = ""  # an error about one message is reported once
        self._last_status = status
        self._status.publish(status)
        report = messages.diagnostics_message(diagnostic_name(self, "inference"), status)
        if self._robot_clock:
            report.status = [*report.status, self._robot_clock.diagnostics()]
        self._diagnostics.publish(report)

    def _watch(self, worker: WorkerStatus) -> None:
        """Report a crash or hang of the engine, then end the process so that the supervisor notices it."""
        if self._state == "failed":
            return
        problem = f"the engine failed: {worker.failure}" if worker.failure else ""
        if worker.busy_s > self._hang_s:
            problem = f"the engine hangs: {worker.busy_s:.1f} s in one inference, limit {self._hang_s:.1f} s"
        if problem:
            self._set_state("failed", problem)
            self.get_logger().fatal(problem)
            self._own_timers.append(self.create_timer(_FAILURE_GRACE_S, self._give_up))

    def _give_up(self) -> None:
        raise SystemExit(1)


def main(args=None) -> int:
    """Entry point of the node; returns its exit code."""
    code = run_node(PolicyNode, args)
    # A hung engine thread would keep the interpreter from ending.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
