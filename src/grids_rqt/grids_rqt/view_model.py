"""The view model: stores the latest messages and returns frozen snapshots for the widgets. No Qt, no ROS, no clock.

Messages are accessed by attribute only, so rclpy's and rosbags' classes both work. `now_ns` is ROS time (for a bag, its
log time). One thread calls `take`, another `snapshot`; a lock protects each call.

`ros2 bag play` publishes messages with their old stamps, and jumps back when it starts again (--loop). So stamps are
shown relative to those of the joint states that arrive now, and a jump clears what came before it.
"""

import threading
from collections import deque
from dataclasses import dataclass, field, replace

import numpy as np

from grids_common.images import to_rgb
from grids_common.so100 import JOINT_NAMES
from grids_common.stamps import stamp_ns
from grids_perception.overlay.messages import samples_from_message
from grids_perception.overlay.samples import ImageSamples

TRAIL = 9
JOINT_PERIOD_NS = 30_000_000
HISTORY_NS = 5_000_000_000
IMAGE_SILENT_NS = 1_000_000_000
STATE_SILENT_NS = 2_000_000_000
REPLAY_NS = 2_000_000_000  # stamps further from the arrival than this are those of a replay
BACK_NS = 500_000_000  # stamps that go back by more than this: a replay has started again
# The field that is reset, and its value, if there was no message on a topic for STATE_SILENT_NS.
SILENT = {
    "/follower/status": ("driver", None),
    "/policy/status": ("policy", None),
    "/follower/servo_state": ("servos", ()),
}


@dataclass(frozen=True, slots=True)
class CameraState:
    """One camera. image: RGB uint8 (H, W, 3) or None; samples: oldest first; silent_s: 0 while images arrive."""

    image: np.ndarray | None = None
    image_ns: int = 0
    samples: tuple[ImageSamples, ...] = ()
    rate_hz: float = 0.0
    silent_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ChunkState:
    """The newest chunk. positions: (H, J) rad; action step i is meant for stamp_ns + i · dt_s. stages: (name, s)."""

    stamp_ns: int
    dt_s: float
    positions: np.ndarray
    sequence: int
    stages: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class DriverState:
    """The fields of grids_msgs/DriverStatus that are shown; bus_errors is the sum over all servos."""

    mode: str
    state: str
    reason: str
    queue_s: float
    chunk_age_s: float
    ticks: int
    late_ticks: int
    lateness_p99_ms: float
    empty_ticks: int
    bus_errors: int
    refused: int
    last_refusal: str


@dataclass(frozen=True, slots=True)
class PolicyState:
    """The fields of grids_msgs/PolicyStatus that are shown. stages: (name, p50, p95, p99) in s over the last minute."""

    state: str
    reason: str
    provider: str
    bundle: str
    chunks: int
    dropped: int
    stages: tuple[tuple[str, float, float, float], ...]
    observation_age_s: float
    skew_s: float


@dataclass(frozen=True, slots=True)
class Servo:
    """One servo of grids_msgs/ServoState. errors: bits of the status register; answers: the values are current."""

    name: str
    position_rad: float
    load: float
    current_a: float
    temperature_c: float
    voltage_v: float
    errors: int
    torque: bool
    answers: bool


@dataclass(frozen=True, slots=True)
class ViewState:
    """All data on screen at one instant. joints_ns: (N,) and joints_rad: (N, 6), oldest first."""

    now_ns: int = 0
    cameras: dict[str, CameraState] = field(default_factory=dict)
    chunk: ChunkState | None = None
    driver: DriverState | None = None
    policy: PolicyState | None = None
    servos: tuple[Servo, ...] = ()
    joints_ns: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    joints_rad: np.ndarray = field(default_factory=lambda: np.zeros((0, len(JOINT_NAMES))))
    instruction: str = ""
    success: bool | None = None
    problems: tuple[str, ...] = ()


def _rate_hz(stamps: deque) -> float:
    if len(stamps) < 2 or stamps[-1] <= stamps[0]:
        return 0.0
    return (len(stamps) - 1) / ((stamps[-1] - stamps[0]) * 1e-9)


class Model:
    """Call `take` with each message of `topics` (live) or `bag_topics`, and `snapshot` for each refresh."""

    def __init__(self, cameras: tuple[str, ...]) -> None:
        self._lock = threading.Lock()
        self._state = ViewState(cameras={name: CameraState() for name in cameras})
        self._samples = {name: deque(maxlen=TRAIL) for name in cameras}
        self._arrivals = {name: deque(maxlen=40) for name in cameras}
        self._joints: deque = deque(maxlen=600)  # arrival ns, stamp ns, positions
        self._shift_ns = 0  # from stamps to now; 0 unless they are a replay's
        self._newest = (0, 0)  # arrival and stamp of the last joint state, ns
        self._diagnostics: dict[str, tuple[int, str]] = {}
        self._heard: dict[str, int] = {}
        self.rejected = 0
        self._handlers = {
            "/follower/joint_states": self._joint_states,
            "/follower/servo_state": self._servo_state,
            "/follower/status": self._driver_status,
            "/policy/action_chunk": self._action_chunk,
            "/policy/sampled_tokens": self._sampled_tokens,
            "/policy/status": self._policy_status,
            "/policy/instruction": self._policy_instruction,
            "/twin/task_state": self._task_state,
            "/diagnostics": self._diagnostic_array,
        }
        self.cameras = cameras
        self.topics = tuple(self._handlers)  # without the images
        for name in cameras:
            for topic in (f"/{name}/color/image_raw", f"/{name}/color/image_raw/compressed"):
                self._handlers[topic] = lambda m, t, name=name: self._image(name, m, t)
        self.bag_topics = tuple(self._handlers)

    def take(self, topic: str, message, now_ns: int) -> None:
        """Store one message; a malformed one is counted and shown as a problem, never raised."""
        with self._lock:
            try:
                self._handlers[topic](message, now_ns)
                self._heard[topic] = now_ns
            except (ValueError, IndexError) as error:
                self.rejected += 1
                self._diagnostics[topic] = (now_ns, f"{topic}: {error}")

    def snapshot(self, now_ns: int) -> ViewState:
        """The state at `now_ns`, without the data of topics that have been silent for STATE_SILENT_NS."""
        with self._lock:
            shift_ns, chunk = self._shift_ns, self._state.chunk
            joints = [row for row in self._joints if now_ns - row[1] - shift_ns < HISTORY_NS]
            problems = [text for t, text in self._diagnostics.values() if text and now_ns - t < 5_000_000_000]
            if shift_ns:
                problems.append(f"stamps differ from this clock by {shift_ns * 1e-9:.0f} s: a replay, or a wrong clock")
            return replace(
                self._state,
                now_ns=now_ns,
                cameras={name: self._camera(name, now_ns) for name in self._state.cameras},
                **self._silent(now_ns),
                chunk=chunk and replace(chunk, stamp_ns=chunk.stamp_ns + shift_ns),
                joints_ns=np.array([row[1] + shift_ns for row in joints], np.int64),
                joints_rad=np.array([row[2] for row in joints]).reshape(-1, len(JOINT_NAMES)),
                problems=tuple(problems),
            )

    def _follow(self, stamp: int, now_ns: int) -> None:
        """Learn from the stamp of a joint state which stamps belong to now; forget everything before a jump."""
        arrived, newest = self._newest
        self._newest = now_ns, stamp
        back = now_ns < arrived - BACK_NS or stamp < newest - BACK_NS
        if back or abs(now_ns - self._shift_ns - stamp) > REPLAY_NS:
            self._shift_ns = now_ns - stamp if abs(now_ns - stamp) > REPLAY_NS else 0
            self._forget()

    def _forget(self) -> None:
        """Drop what would lie in the future, or be taken for silence, after a jump of the stamps or of the clock."""
        self._joints.clear()
        self._heard.clear()
        self._diagnostics.clear()
        for name in self.cameras:
            self._samples[name].clear()
            self._arrivals[name].clear()
            self._state.cameras[name] = replace(self._state.cameras[name], samples=())
        self._set(chunk=None)

    def _camera(self, name: str, now_ns: int) -> CameraState:
        camera, arrivals = self._state.cameras[name], self._arrivals[name]
        silent_ns = now_ns - arrivals[-1] if arrivals else 0
        return camera if silent_ns <= IMAGE_SILENT_NS else replace(camera, rate_hz=0.0, silent_s=silent_ns * 1e-9)

    def _silent(self, now_ns: int) -> dict:
        heard = self._heard
        return dict(row for topic, row in SILENT.items() if now_ns - heard.get(topic, now_ns) > STATE_SILENT_NS)

    def _set(self, **fields) -> None:
        self._state = replace(self._state, **fields)

    def _image(self, name: str, message, now_ns: int) -> None:
        image = to_rgb(message)
        arrivals = self._arrivals[name]
        if arrivals and not 0 <= now_ns - arrivals[-1] <= IMAGE_SILENT_NS:
            arrivals.clear()  # the time without images does not count in the rate
        arrivals.append(now_ns)
        self._state.cameras[name] = replace(
            self._state.cameras[name],
            image=image,
            image_ns=stamp_ns(message.header.stamp),
            rate_hz=_rate_hz(arrivals),
        )

    def _sampled_tokens(self, message, now_ns: int) -> None:
        samples = samples_from_message(message)
        if samples.camera not in self._samples:
            return
        self._samples[samples.camera].append(samples)
        self._state.cameras[samples.camera] = replace(
            self._state.cameras[samples.camera], samples=tuple(self._samples[samples.camera])
        )

    def _joint_states(self, message, now_ns: int) -> None:
        if self._joints and 0 <= now_ns - self._joints[-1][0] < JOINT_PERIOD_NS:
            return
        index = {name: i for i, name in enumerate(message.name)}
        position = np.asarray(message.position, float)
        if not set(JOINT_NAMES) <= set(index) or len(position) < len(index):
            raise ValueError(f"expected positions of {', '.join(JOINT_NAMES)}, got {', '.join(index) or 'none'}")
        stamp = stamp_ns(message.header.stamp)
        self._follow(stamp, now_ns)
        self._joints.append((now_ns, stamp, position[[index[n] for n in JOINT_NAMES]]))

    def _servo_state(self, message, now_ns: int) -> None:
        rows = zip(
            message.joint_names,
            message.position,
            message.load,
            message.current,
            message.temperature,
            message.voltage,
            message.error_bits,
            message.torque_enabled,
            message.valid,
            strict=True,
        )
        self._set(
            servos=tuple(
                Servo(str(n), float(p), float(lo), float(c), float(t), float(v), int(e), bool(on), bool(ok))
                for n, p, lo, c, t, v, e, on, ok in rows
            )
        )

    def _action_chunk(self, message, now_ns: int) -> None:
        horizon, joints = int(message.horizon), len(message.joint_names)
        flat = np.asarray(message.positions, float)
        if flat.size != horizon * joints or not message.dt > 0:
            raise ValueError(f"expected {horizon} × {joints} positions and dt > 0, got {flat.size} and {message.dt}")
        stages = tuple(zip(map(str, message.stage_names), map(float, message.stage_s), strict=True))
        positions = flat.reshape(horizon, joints)
        sequence, start = int(message.sequence), stamp_ns(message.header.stamp)
        self._set(chunk=ChunkState(start, float(message.dt), positions, sequence, stages))

    def _driver_status(self, m, now_ns: int) -> None:
        errors = int(np.sum(np.asarray(m.bus_errors, np.int64)))
        self._set(
            driver=DriverState(
                m.mode, m.state, m.reason, float(m.queue_s), float(m.chunk_age), int(m.ticks), int(m.late_ticks),
                float(m.lateness_p99_ms), int(m.empty_ticks), errors, int(m.chunks_refused), m.last_refusal,
            )
        )  # fmt: skip

    def _policy_status(self, m, now_ns: int) -> None:
        columns = (map(float, m.stage_p50), map(float, m.stage_p95), map(float, m.stage_p99))
        stages = tuple(zip(map(str, m.stage_names), *columns, strict=True))
        dropped = int(m.dropped_observations) + int(m.refused_outputs)
        self._set(
            policy=PolicyState(
                m.state, m.reason, m.provider, m.bundle_id, int(m.chunks), dropped, stages,
                float(m.observation_age), float(m.camera_skew),
            )
        )  # fmt: skip
        if m.instruction:
            self._set(instruction=m.instruction)

    def _policy_instruction(self, message, now_ns: int) -> None:
        self._set(instruction=message.data)

    def _task_state(self, message, now_ns: int) -> None:
        self._set(success=bool(message.success))
        if not self._state.instruction:
            self._set(instruction=message.instruction or message.task)

    def _diagnostic_array(self, message, now_ns: int) -> None:
        for status in message.status:
            level = status.level[0] if isinstance(status.level, bytes) else int(status.level)
            text = f"{status.name}: {status.message}" if level else ""
            self._diagnostics[status.name] = (now_ns, text)
