"""Plays recorded commands through a running driver as action chunks, so that every guard of the driver applies."""

import sys
import time
from pathlib import Path

import numpy as np
import rclpy
from grids_msgs.msg import ActionChunk, CommandTrace, DriverStatus
from grids_msgs.srv import SetMode
from rclpy.node import Node

from grids_common import services, topics
from grids_common.so100 import JOINT_NAMES
from grids_common.stamps import to_stamp
from grids_data.bag.reader import Bag
from grids_data.bag.series import JOINTS, TRACE, read_series
from grids_data.errors import DataError
from grids_recorder.replay.guard import ARRIVED_RAD, ChunkAcceptance, break_in, distance

DT_S = 0.02
HORIZON = 60
PERIOD_S = 0.2
DRIVER_WAIT_S = 5.0
# The driver ramps from the present pose to the first action step, at first at 0.5 rad/s; at most 12 s.
APPROACH_WAIT_S = 20.0


def recorded_commands(bag: Bag) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The commands of an episode and its measured joints.

    Returns (goals sent to the servos, resampled to one action step per DT_S: (n, 6) rad; times of the measured joints
    in s since the first command: (m,); measured joints: (m, 6) rad). DataError if commands are missing or interrupted.
    """
    series = read_series(bag, images=False)
    if TRACE not in series.streams or len(series.sent) < 2:
        raise DataError(f"{bag.folder}: expected recorded commands on {TRACE}, found none")
    stamps = series.streams[TRACE].stamp_ns
    times = (stamps - stamps[0]) * 1e-9
    problem = break_in(times)
    if problem:
        raise DataError(f"{bag.folder}: {problem}, so its motion is not known: replay another episode")
    grid = np.arange(0.0, times[-1], DT_S)
    steps = np.stack([np.interp(grid, times, series.sent[:, j]) for j in range(len(JOINT_NAMES))], axis=1)
    measured = (series.streams[JOINTS].stamp_ns - stamps[0]) * 1e-9 if JOINTS in series.streams else np.empty(0)
    return steps, measured, series.joints


def first_measured(steps: np.ndarray, times: np.ndarray, joints: np.ndarray) -> np.ndarray:
    """Measured pose at the first action step, (6,) rad; the step itself if no joints were recorded. `times` in s."""
    return joints[int(np.abs(times).argmin())] if len(joints) else steps[0]


def window(steps: np.ndarray, at_s: float, speed: float) -> np.ndarray:
    """The next HORIZON action steps (HORIZON, 6) from playing time `at_s` (s); clamped to the first and last step.

    `speed` scales the recorded speed; steps between two recorded ones are interpolated linearly.
    """
    index = (at_s + np.arange(HORIZON) * DT_S) * speed / DT_S
    index = np.clip(index, 0, len(steps) - 1)
    low = index.astype(int)
    high = np.minimum(low + 1, len(steps) - 1)
    part = (index - low)[:, None]
    return (1 - part) * steps[low] + part * steps[high]


class Player(Node):
    """The ROS client that sends the chunks. Single-threaded: it spins itself between two chunks."""

    def __init__(self, robot: str = "") -> None:
        super().__init__("replay", namespace=robot)
        self.status: DriverStatus | None = None
        self.measured: list[tuple[float, np.ndarray]] = []
        self._acceptance = ChunkAcceptance(0.0, 0, 0)
        self._sequence, self._epoch = 0, int(time.time()) % 2**32
        self._chunks = topics.publisher(self, "/policy/action_chunk", ActionChunk)
        topics.subscription(self, "/follower/status", DriverStatus, self._on_status)
        topics.subscription(self, TRACE, CommandTrace, self._on_trace)
        self._modes = services.client(self, "/driver/set_mode", SetMode)

    def _on_status(self, message: DriverStatus) -> None:
        self.status = message

    def _on_trace(self, message: CommandTrace) -> None:
        self.measured.append((time.monotonic(), np.array(message.measured)))

    def spin_for(self, seconds: float, until=lambda: False) -> bool:
        """Run callbacks for `seconds` (monotonic) or until the condition is true; returns its last value."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not until():
            rclpy.spin_once(self, timeout_sec=min(0.02, max(end - time.monotonic(), 0.0)))
        return until()

    def set_mode(self, mode: str) -> None:
        """Switch the driver to this mode; DataError if it does not answer or refuses."""
        if not self._modes.wait_for_service(timeout_sec=DRIVER_WAIT_S):
            raise DataError(
                f"no driver offers {self._modes.srv_name}: start one first, for example ./grids teleop operator:=none "
                "in another terminal"
            )
        for _ in range(2):  # a response is lost if the driver has not discovered this client yet
            future = self._modes.call_async(SetMode.Request(mode=mode))
            if self.spin_for(DRIVER_WAIT_S / 2, future.done):
                break
        else:
            raise DataError(f"the driver did not answer to set_mode {mode!r} within {DRIVER_WAIT_S:.0f} s")
        if not future.result().success:
            raise DataError(f"the driver refused mode {mode!r}: {future.result().message}")

    def send(self, steps: np.ndarray, sequence: int, epoch: int) -> None:
        """Publish action steps (n, 6) rad as one chunk whose first step is due now."""
        now_ns = self.get_clock().now().nanoseconds
        chunk = ActionChunk(
            joint_names=list(JOINT_NAMES), dt=DT_S, horizon=len(steps), positions=steps.ravel().tolist(),
            sequence=sequence, epoch=epoch, bundle_id="replay",
        )  # fmt: skip
        chunk.header.stamp = to_stamp(now_ns)
        self._chunks.publish(chunk)

    def play(self, steps: np.ndarray, reached: np.ndarray, speed: float) -> tuple[float, str]:
        """Move to the first action step, then play all `steps` (n, 6) rad at `speed` times the recorded speed.

        `reached` (6,) rad: measured pose at the first step when it was recorded. Returns (monotonic s at which playing
        began, "" or why it ended early). DataError if the driver does not enter mode policy.
        """
        if not self.spin_for(DRIVER_WAIT_S, lambda: self.status is not None and self.status.mode == "policy"):
            raise DataError(f"the driver did not report mode 'policy' within {DRIVER_WAIT_S:.0f} s")
        self._acceptance = ChunkAcceptance(time.monotonic(), self.status.chunks_accepted, self.status.chunks_refused)
        ended = self._approach(steps[0], reached)
        start = time.monotonic()
        while not ended and (at_s := time.monotonic() - start) < len(steps) * DT_S / speed:
            ended = self._send_and_watch(window(steps, at_s, speed))
        return start, ended

    def _approach(self, first: np.ndarray, reached: np.ndarray) -> str:
        """Send the first action step until the arm has reached it; returns why it could not, or an empty string."""
        deadline = time.monotonic() + APPROACH_WAIT_S
        while not (ended := self._send_and_watch(np.tile(first, (HORIZON, 1)))):
            away, joint = distance(self.measured[-1][1], first, reached) if self.measured else (np.inf, "the arm")
            if away <= ARRIVED_RAD:
                return ""
            if time.monotonic() > deadline:
                where = f"{joint} is {away:.2f} rad away"
                return f"the arm did not come to the first pose within {APPROACH_WAIT_S:.0f} s: {where}"
        return ended

    def _send_and_watch(self, steps: np.ndarray) -> str:
        """Send one chunk and spin for PERIOD_S; returns why the episode cannot go on, or an empty string."""
        self._sequence += 1
        self.send(steps, self._sequence, self._epoch)
        self.spin_for(PERIOD_S)
        status = self.status
        if status.mode != "policy":
            return f"the driver went to {status.mode}: {status.reason}"
        taken = status.chunks_accepted, status.chunks_refused
        return self._acceptance.problem(time.monotonic(), *taken, status.last_refusal)


def tracking(player: Player, start: float, speed: float, times: np.ndarray, joints: np.ndarray) -> np.ndarray | None:
    """Mean absolute difference between measured and recorded joints, (6,) rad, over the playing time.

    `start` in monotonic s, `times` in s of the recording, `joints` (m, 6) rad. None without overlap.
    """
    if not len(joints):
        return None
    inside = [((at - start) * speed, rad) for at, rad in player.measured if 0 <= (at - start) * speed <= times[-1]]
    if not inside:
        return None
    at, now = np.array([t for t, _ in inside]), np.stack([rad for _, rad in inside])
    then = np.stack([np.interp(at, times, joints[:, j]) for j in range(now.shape[1])], axis=1)
    return np.abs(now - then).mean(axis=0)


def replay_arm(folder: Path, speed: float, robot: str = "") -> int:
    """Replay the commands of the bag in `folder`; returns the exit code. DataError if it cannot begin.

    robot: its namespace, "" for one without a name. ValueError if it is no namespace.
    """
    with Bag(folder) as bag:
        steps, times, joints = recorded_commands(bag)
    rclpy.init()
    player = Player(robot)
    try:
        player.set_mode("policy")
        sys.stdout.write(f"playing {len(steps) * DT_S / speed:.1f} s, once the arm has come to the first pose\n")
        sys.stdout.flush()
        start, ended = player.play(steps, first_measured(steps, times, joints), speed)
        if ended:
            sys.stderr.write(f"ended early: {ended}\n")
            return 1
        difference = tracking(player, start, speed, times, joints)
        if difference is not None:
            cells = "  ".join(f"{n} {1000 * d:.0f}" for n, d in zip(JOINT_NAMES, difference, strict=True))
            sys.stdout.write(f"mean distance from the recorded motion in mrad: {cells}\n")
        return 0
    except KeyboardInterrupt:
        sys.stderr.write("\nstopped: the driver holds when no more chunks come\n")
        return 1
    finally:
        player.destroy_node()
        rclpy.try_shutdown()
