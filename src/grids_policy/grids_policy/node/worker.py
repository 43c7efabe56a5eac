"""The inference thread: it turns the newest observation into a checked chunk while the last chunk runs. No ROS.

Callbacks of the node store frames and joints. The thread wakes on every new frame and infers when half of the last
chunk is executed. Nothing is queued: after an inference, the thread continues with the newest frames.
"""

import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from grids_common.chunk import Chunk, committed_actions
from grids_policy.node.latency import Percentiles, StageLatencies
from grids_policy.node.observation import (
    ImageFrame,
    Joints,
    Observation,
    Reason,
    Rejection,
    SyncLimits,
    select,
)
from grids_policy.node.schedule import due, refuse_output
from grids_policy.runtime.base import AbstractRuntime, PolicyInputs, PolicyOutputs
from grids_policy.runtime.bundle import PolicySpec
from grids_policy.runtime.inputs import prepare_inputs
from grids_policy.runtime.language import SentenceEncoder
from grids_policy.runtime.reuse import FrameReuse

_FRAMES_KEPT = 6
_JOINTS_KEPT = 256
_WAIT_S = 0.2


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """How to run. n_action_steps: executed per chunk; dt_s: between steps as executed (the bundle's x time_scale)."""

    limits: SyncLimits
    n_action_steps: int
    dt_s: float
    seed: int
    expected_latency_s: float
    epoch: int = 0
    reuse_threshold: float = 0.0
    max_committed: int = 0  # steps executed meanwhile that a new chunk is conditioned on (rtc); 0: none


@dataclass(frozen=True, slots=True)
class Result:
    """One published inference. outputs: the worker's own arrays, overwritten by the next inference."""

    chunk: Chunk
    observation: Observation
    epoch: int
    sequence: int
    seed: int
    committed_steps: int
    stages: dict[str, float]
    outputs: PolicyOutputs


@dataclass(slots=True)
class InferenceCounters:
    """Counts since activation; age and skew are those of the last inference's observation."""

    chunks: int = 0
    inferences: int = 0
    dropped_observations: int = 0
    refused_outputs: int = 0
    frames_superseded: int = 0
    observation_age_s: float = 0.0
    camera_skew_s: float = 0.0
    reused_cameras: int = 0


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A copy of the worker's state, for the node's status message."""

    counters: InferenceCounters
    stages: dict[str, Percentiles]
    reason: str  # why no inference runs, "" when all is well
    failure: str  # error that ended the inference thread, "" while it runs
    busy_s: float  # duration of the current inference so far, 0 when idle
    last_chunk: Chunk | None


@dataclass(slots=True)
class _Inbox:
    """State shared by callbacks and inference thread, guarded by the worker's condition."""

    frames: dict[str, deque]
    joints: deque
    instruction: str
    epoch: int
    running: bool
    fresh: int = 0
    closing: bool = False
    rejected: str = ""
    failure: str = ""
    busy_since_ns: int = 0
    counters: InferenceCounters = field(default_factory=InferenceCounters)
    stages: StageLatencies = field(default_factory=StageLatencies)
    last: Chunk | None = None


class PolicyWorker:
    """Runs inferences in its own thread, which alone uses `runtime` and `encoder` after `run`.

    publish: called with every accepted result. clock_ns: now, on the clock of the stamps. compare: called once, with
    the first observation and what the engine computed of it; nothing is published before it returns, and that
    observation, old by then, is not used. It raises ValueError when the engine is not to be used. All are called from
    the inference thread.
    """

    def __init__(
        self,
        runtime: AbstractRuntime,
        encoder: SentenceEncoder,
        options: WorkerOptions,
        publish: Callable[[Result], None],
        clock_ns: Callable[[], int],
        *,
        compare: Callable[[PolicyInputs, PolicyOutputs], None] | None = None,
        obstacle: Callable[[], str] | None = None,
    ) -> None:
        self._runtime, self._encoder, self._options = runtime, encoder, options
        self._publish, self._clock_ns, self._compare = publish, clock_ns, compare
        self._obstacle = obstacle or str
        self._spec: PolicySpec = runtime.spec
        names = [camera.name for camera in self._spec.cameras]
        self._changed = threading.Condition()
        self._inbox = _Inbox(
            {name: deque(maxlen=_FRAMES_KEPT) for name in names},
            deque(maxlen=_JOINTS_KEPT),
            instruction="",
            epoch=options.epoch,
            running=False,
        )
        self._outputs = PolicyOutputs.empty(self._spec)
        self._reuse = FrameReuse(len(names), options.reuse_threshold)
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)

    # Called from the node's thread.

    def start(self) -> None:
        """Start the inference thread; it waits until `run` is called."""
        self._thread.start()

    def run(self, instruction: str) -> None:
        """Start or continue to follow `instruction`. Raises ValueError for an empty one."""
        self._encoder.check(instruction)
        with self._changed:
            self._inbox.instruction, self._inbox.running = instruction, True
            self._changed.notify()

    def pause(self) -> int:
        """Publish nothing from now on; the result of a running inference is dropped. Returns the new, higher epoch."""
        with self._changed:
            self._inbox.running = False
            self._inbox.epoch += 1
            self._inbox.last = None
            return self._inbox.epoch

    def add_frame(self, camera: str, frame: ImageFrame) -> None:
        """Store a frame. A stamp more than 1 s older than the last (a restarted source) drops all earlier frames."""
        with self._changed:
            frames = self._inbox.frames[camera]
            if frames and frame.stamp_ns <= frames[-1].stamp_ns:
                if frames[-1].stamp_ns - frame.stamp_ns < 1_000_000_000:
                    return
                frames.clear()
            frames.append(frame)
            self._inbox.fresh += 1
            self._changed.notify()

    def add_joints(self, joints: Joints) -> None:
        """Store a joint state; stamps that go back are treated as in `add_frame`."""
        with self._changed:
            samples = self._inbox.joints
            if samples and joints.stamp_ns <= samples[-1].stamp_ns:
                if samples[-1].stamp_ns - joints.stamp_ns < 1_000_000_000:
                    return
                samples.clear()
            samples.append(joints)

    def status(self) -> WorkerStatus:
        """A copy of counters, latencies and errors."""
        now_ns = time.monotonic_ns()
        with self._changed:
            box = self._inbox
            busy_s = (now_ns - box.busy_since_ns) * 1e-9 if box.busy_since_ns else 0.0
            return WorkerStatus(
                InferenceCounters(**{n: getattr(box.counters, n) for n in InferenceCounters.__slots__}),
                box.stages.percentiles(now_ns),
                box.rejected,
                box.failure,
                busy_s,
                box.last,
            )

    def newest_joints(self) -> Joints | None:
        """The last joint state received, None before the first."""
        with self._changed:
            return self._inbox.joints[-1] if self._inbox.joints else None

    def close(self, timeout_s: float = 2.0) -> bool:
        """End the thread; False when it is still inside the engine after `timeout_s`."""
        with self._changed:
            self._inbox.closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # The inference thread.

    def _run(self) -> None:
        try:
            while (work := self._next()) is not None:
                self._infer(*work)
        except Exception as error:
            known = isinstance(error, (RuntimeError, ValueError))
            text = str(error) if known else "".join(traceback.format_exception(error))
            with self._changed:
                self._inbox.failure = text.strip()
                self._inbox.busy_since_ns = 0

    def _next(self) -> tuple[Observation, str, int, Chunk | None] | None:
        """Wait until an observation is due for an inference; None when closing."""
        box = self._inbox
        while True:
            with self._changed:
                self._changed.wait_for(lambda: box.closing or (box.running and box.fresh), _WAIT_S)
                if box.closing:
                    return None
                if not box.running:
                    box.rejected = ""
                    continue
                fresh, box.fresh = box.fresh, 0
                frames = {name: tuple(kept) for name, kept in box.frames.items()}
                joints = tuple(box.joints)
                instruction, epoch, last = box.instruction, box.epoch, box.last
            problem = self._obstacle()
            chosen = (
                Rejection(Reason.CLOCK, problem)
                if problem
                else select(frames, joints, self._clock_ns(), self._options.limits)
            )
            if self._accept(chosen, fresh, last):
                return chosen, instruction, epoch, last

    def _accept(self, chosen: Observation | Rejection, fresh: int, last: Chunk | None) -> bool:
        """Update counters and reason for one selection; True when `chosen` starts an inference."""
        with self._changed:
            box = self._inbox
            if isinstance(chosen, Rejection):
                box.rejected = chosen.text
                box.counters.dropped_observations += fresh > 0
                return False
            box.rejected = ""
            if not due(chosen.stamp_ns, last, self._options.n_action_steps):
                box.counters.frames_superseded += fresh
                return False
            box.busy_since_ns = time.monotonic_ns()
            return True

    def _inputs(self, seen: Observation, instruction: str, last: Chunk | None, seed: int) -> PolicyInputs:
        """One observation for the runtime, with the steps of the last chunk that are executed during the inference."""
        options = self._options
        delay_s = seen.age_s + options.expected_latency_s
        return prepare_inputs(
            self._spec,
            frames=tuple(None if frame is None else frame.image for frame in seen.frames),
            present=seen.present,
            position_rad=seen.position_rad,
            encoder=self._encoder,
            instruction=instruction,
            noise_seed=seed,
            committed_rad=committed_actions(last, seen.stamp_ns, options.dt_s, delay_s, options.max_committed),
            reuse=self._reuse,
        )

    def _compare_once(self, compare: Callable[[PolicyInputs, PolicyOutputs], None], inputs: PolicyInputs) -> None:
        with self._changed:
            self._inbox.busy_since_ns = 0  # the reference may take longer than an engine may hang
            self._inbox.rejected = "comparing the engine with the CPU engine on the first images"
        compare(inputs, self._outputs)
        self._compare = None
        self._reuse = FrameReuse(len(self._spec.cameras), self._options.reuse_threshold)

    def _infer(self, seen: Observation, instruction: str, epoch: int, last: Chunk | None) -> None:
        spec, options = self._spec, self._options
        seed = options.seed + self._inbox.counters.inferences
        began = time.perf_counter()
        inputs = self._inputs(seen, instruction, last, seed)
        stages = self._runtime.infer(inputs, self._outputs)
        if self._compare is not None:
            self._compare_once(self._compare, inputs)
            return
        stages["total"] = time.perf_counter() - began
        positions = spec.action_units.to_rad(self._outputs.actions.astype(np.float64))
        refusal = refuse_output(positions, spec.joints, np.array(spec.position_low), np.array(spec.position_high))
        chunk = Chunk(seen.stamp_ns, options.dt_s, positions)
        with self._changed:
            box = self._inbox
            box.busy_since_ns = 0
            box.counters.inferences += 1
            box.counters.observation_age_s = seen.age_s
            box.counters.camera_skew_s = seen.skew_s
            box.counters.reused_cameras += sum(not r for r in inputs.refresh or ())
            box.stages.add(time.monotonic_ns(), stages)
            if not box.running or epoch != box.epoch:
                return
            if refusal:
                box.counters.refused_outputs += 1
                box.rejected = refusal
                return
            box.last = chunk
            box.counters.chunks += 1
            sequence = box.counters.chunks
        result = Result(chunk, seen, epoch, sequence, seed, inputs.committed_steps, stages, self._outputs)
        self._publish(result)
