"""The recorder node: `recorder`. Writes every recorded topic to one bag per episode; services start and stop it.

Plain node in its own process, so that neither disk nor JPEG work can delay the control loop. Callbacks only queue
messages; the writer thread of `Recording` and a saving thread do the rest.
"""

import threading
import time
from pathlib import Path

from grids_msgs.msg import EpisodeStatus, TaskState
from grids_msgs.srv import StartEpisode, StopEpisode, TwinReset
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node
from rclpy.task import Future

from grids_common import services, topics
from grids_common.lifecycle import SetupError, run_node
from grids_common.params import declare
from grids_data.bag import cdr
from grids_data.bag.writer import BagWriter
from grids_data.errors import DataError
from grids_recorder.node import metadata
from grids_recorder.node.inputs import Inputs
from grids_recorder.node.node_parameters import NodeParameters
from grids_recorder.node.params import RecorderParams
from grids_recorder.node.recording import Recording, require_space, too_little_space
from grids_recorder.node.saving import Saved, save
from grids_recorder.node.session import FAILED, IDLE, OUTCOMES, REJECTS_IN_A_ROW, RESETTING, Session, SessionPlan
from grids_recorder.recover import recover_all

TICK_S = 0.1
STATUS_S = 0.2
RESET_WAIT_S = 5.0
JUDGE_WAIT_S = 1.0  # at shutdown; a run ends within 5 s of Ctrl-C
NEEDED = (
    *(f"/{camera}/color/image_raw" for camera in topics.CAMERAS),
    "/follower/joint_states",
    "/follower/command_trace",
)


class RecorderNode(Node):
    """The node `recorder`. Callbacks run in the executor's thread; episodes are saved in another one, which is polled.

    SetupError if the folder or the calibration cannot be used.
    """

    def __init__(self, **options) -> None:
        super().__init__("recorder", **options)
        self.params = p = declare(self, RecorderParams, "recorder", apply=self._apply)
        self.folder = Path(p.folder).expanduser().resolve()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._calibration = metadata.calibration(p.calibration)
        except OSError as error:
            raise SetupError(f"expected a writable folder: {error}") from error
        except DataError as error:
            raise SetupError(str(error)) from error
        for found in recover_all(self.folder):
            self.get_logger().warning(f"left over from a crash: {found.folder or found.partial}: {found.note}")
        self.session = Session(SessionPlan(p.episodes, p.episode_s, p.reset_s, p.automatic))
        self._recording: Recording | None = None
        self._saving: tuple[threading.Thread, list[Saved], str, Future] | None = None
        self._closed = threading.Event()  # set once the bag of the episode that is being saved is whole
        self._ending = threading.Event()
        self._reason = self._waiting = self._full = self._episode = self._task = ""
        self._latched: dict[str, bytes] = {}
        self._task_state: TaskState | None = None
        self._started_ns = self._clock_offset_ns = 0
        self._old_scene: int | None = None
        self._reset_requested_s = 0.0
        self.inputs = Inputs(self, self._take)
        self.node_parameters = NodeParameters(self)
        self._status = topics.publisher(self, "/recorder/status", EpisodeStatus)
        topics.subscription(self, "/twin/task_state", TaskState, self._on_task_state)
        self._reset_client = services.client(self, "/twin/reset", TwinReset)
        services.serve(self, "/recorder/start", StartEpisode, self._serve_start)
        # Its own callback group: the timers must keep running while the callback waits for the saving thread.
        waiting = MutuallyExclusiveCallbackGroup()
        services.serve(self, "/recorder/stop", StopEpisode, self._serve_stop, callback_group=waiting)
        self.create_timer(TICK_S, self._tick)
        self.create_timer(STATUS_S, self._publish_status)

    # -- messages ----------------------------------------------------------------------------------------------------
    def _take(self, topic: topics.Topic, raw: bytes, monotonic_ns: int) -> None:
        if topic.offered == "LATCHED":
            self._latched[topic.name] = raw
        # Messages that arrived before the start belong to no episode.
        if self._recording is not None and monotonic_ns >= self._started_ns:
            # System time at the episode's start plus monotonic time since: setting the clock cannot disorder a bag.
            self._recording.put(topic.name, topic.type, monotonic_ns + self._clock_offset_ns, raw)

    def _on_task_state(self, message: TaskState) -> None:
        self._task_state = message
        if self._old_scene not in (None, message.episode):
            self._tick()

    @property
    def success(self) -> bool | None:
        """Whether the twin's judge reports success for the current scene; None without a judge."""
        state = self._task_state
        return bool(state.success) if self.params.twin and state is not None else None

    # -- episodes ----------------------------------------------------------------------------------------------------
    def start_episode(self, task: str, operator: str, extra: dict[str, str]) -> str:
        """Begin recording and return the episode's name; DataError with the reason if that is not possible."""
        p = self.params
        if self._recording is not None or self._saving is not None:
            raise DataError(f"{self._episode} is still {self.session.state}: stop it first")
        require_space(self.folder, p.min_free_mb)
        instruction = self._task_state.instruction if self._task_state else ""
        self._task = task or p.task or instruction
        name = self._free_name()
        episode = metadata.begin(
            name,
            task=self._task,
            operator=operator or p.operator_name,
            index=self.session.index,
            calibration=self._calibration,
            parameters=self.node_parameters.known,
            twin=p.twin,
            expected_hz={"images": p.image_hz, "joints": p.joint_hz},
            seed=int(self._task_state.seed) if self._task_state else None,
            **extra,
        )
        bag = BagWriter(self.folder / name, self._connections(), episode)
        quality = p.jpeg_quality if p.images == "jpeg" else None
        limits = {"queue_bytes": p.queue_mb << 20, "min_free_bytes": p.min_free_mb << 20}
        recording = Recording(bag, jpeg_quality=quality, **limits)
        self._old_scene = None
        self._started_ns = time.monotonic_ns()
        self._clock_offset_ns = time.time_ns() - self._started_ns
        for topic_name, raw in self._latched.items():
            recording.put(topic_name, topics.topic(topic_name).type, time.time_ns(), raw)
        self.inputs.lost.clear()
        self._recording, self._episode, self._reason, self._full = recording, name, "", ""
        self.session.started(time.monotonic())
        self.node_parameters.refresh()
        self.get_logger().info(f"recording {name}: {self._task or 'no task text'}")
        return name

    def _apply(self, params: RecorderParams) -> None:
        """Take over the parameters that were set at run time; a running episode keeps its own."""
        self.params = params

    def _free_name(self) -> str:
        base = f"episode_{time.strftime('%Y-%m-%d_%H-%M-%S')}"
        name, number = base, 1
        while any(self.folder.glob(f"{name}*")) or any(self.folder.glob(f"discarded/{name}*")):
            number += 1
            name = f"{base}_{number}"
        return name

    def _connections(self) -> list[tuple[str, str, bool]]:
        jpeg = self.params.images == "jpeg"
        connections = []
        for topic in cdr.recorded_topics():
            if topic.type == cdr.IMAGE and jpeg:
                connections.append((topic.name + cdr.COMPRESSED_SUFFIX, cdr.COMPRESSED, False))
            else:
                connections.append((topic.name, topic.type, topic.offered == "LATCHED"))
        return connections

    def stop_episode(self, outcome: str) -> Future:
        """End the episode; the future's result is a `Saved`. DataError when there is nothing to stop."""
        if outcome not in OUTCOMES:
            raise DataError(f"outcome: expected one of {', '.join(map(repr, OUTCOMES))}, got {outcome!r}")
        if self._recording is None:
            raise DataError("no episode is being recorded: start one first")
        recording, self._recording = self._recording, None
        recording.lost.update(self.inputs.lost)
        self.session.stopping()
        label = {"success": True, "fail": False}.get(outcome)
        changes = {
            "outcome": outcome,
            "success": label,
            "judged_success": self.success,
            "parameters": self.node_parameters.known,
        }
        results: list[Saved] = []
        self._closed = closed = threading.Event()
        thread = threading.Thread(
            target=lambda: results.append(save(recording, outcome, changes, closed, self._ending)),
            name="saving",
            daemon=True,
        )
        future = Future(executor=self.executor)
        self._saving = (thread, results, outcome, future)
        thread.start()
        return future

    def _poll_saving(self) -> None:
        if self._saving is None or self._saving[0].is_alive():
            return
        thread, results, outcome, future = self._saving
        thread.join()
        self._saving = None
        saved = results[0] if results else Saved(None, "REJECT", "saving failed; see the log", failed=True)
        self._reason = saved.note
        if saved.failed:
            self._fail(saved.note)
        else:
            self.session.saved(time.monotonic(), outcome, saved.level)
            where = saved.folder.name if saved.folder else self._episode
            self.get_logger().info(f"{where}: {saved.level} {saved.note}")
            if self.session.hopeless:
                self._fail(f"{REJECTS_IN_A_ROW} episodes in a row were rejected, the last: {saved.note}")
        future.set_result(saved)

    def _fail(self, reason: str) -> None:
        """The session cannot go on by itself; the status is "failed" until a client starts an episode."""
        self._reason = reason
        self.session.failed()
        self.get_logger().error(reason)

    def _scene_is_new(self) -> bool:
        """On an automatic twin: a scene that nothing has moved yet, requested as late as possible.

        An automatic demonstrator starts as soon as a scene appears, so recording has to start with it.
        """
        state, now_s = self._task_state, time.monotonic()
        if not (self.params.twin and self.params.automatic) or state is None:
            return True
        if self._old_scene is not None and state.episode != self._old_scene and not state.success:
            return True
        if self._old_scene is None or now_s - self._reset_requested_s > RESET_WAIT_S:
            self._old_scene, self._reset_requested_s = state.episode, now_s
            self._reset_client.call_async(TwinReset.Request(keep_seed=True))
            self._reason = "waiting for the twin's next scene"
        return False

    def _ready(self) -> bool:
        """Everything an episode needs is arriving."""
        missing = self.inputs.silent(NEEDED)
        between = self.session.state in (IDLE, RESETTING)
        self._waiting = f"waiting for {', '.join(missing)}" if missing and between else ""
        return not missing and (not self.params.twin or self._task_state is not None)

    def _tick(self) -> None:
        self.inputs.discover()
        self._poll_saving()
        recording = self._recording
        if recording is not None and (recording.failure or recording.full):
            self._full = recording.failure or too_little_space(self.folder, self.params.min_free_mb)
            self.get_logger().error(f"{self._episode} is ended: {self._full}")
            self.session.halt()
            self.stop_episode("")
            return
        step = self.session.tick(time.monotonic(), ready=self._ready(), success=bool(self.success))
        try:
            if step.do == "start" and self._scene_is_new():
                self.start_episode("", "", {})
            elif step.do == "stop":
                self.stop_episode(step.outcome)
            elif step.do == "done":
                self._reason = f"{self.session.kept} episodes are recorded"
                self.get_logger().info(self._reason)
        except DataError as error:
            self._fail(str(error))

    # -- services ----------------------------------------------------------------------------------------------------
    def _serve_start(self, request: StartEpisode.Request, response: StartEpisode.Response):
        try:
            extra = {"extra": metadata.pairs(request.metadata_keys, request.metadata_values)}
            response.episode = self.start_episode(request.task, request.operator_name, extra)
            response.success, response.message = True, f"recording {response.episode}: {self._task or 'no task text'}"
        except DataError as error:
            response.success, response.message = False, str(error)
        return response

    async def _serve_stop(self, request: StopEpisode.Request, response: StopEpisode.Response):
        try:
            saved: Saved = await self.stop_episode(request.outcome)
        except DataError as error:
            response.success, response.message = False, str(error)
            return response
        response.success, response.message = not saved.failed, saved.note
        response.path, response.verdict = str(saved.folder or ""), saved.level
        return response

    # -- status ------------------------------------------------------------------------------------------------------
    def _publish_status(self) -> None:
        now_s, recording, session = time.monotonic(), self._recording, self.session
        state = "full" if self._full and session.state in (IDLE, FAILED) else session.state
        message = EpisodeStatus(
            state=state,
            reason=self._full or self._waiting or self._reason,
            episode=self._episode,
            task=self._task,
            index=session.index,
            total=session.plan.total,
            elapsed=session.elapsed_s(now_s),
            remaining=session.remaining_s(now_s),
            messages=recording.messages if recording else 0,
            bytes=recording.bytes if recording else 0,
            lost=sum(recording.lost.values()) + sum(self.inputs.lost.values()) if recording else 0,
            verdicts=session.verdicts,
        )
        message.header.stamp = self.get_clock().now().to_msg()
        self._status.publish(message)

    def destroy_node(self) -> None:
        """Shut down; an episode that is being recorded is closed and kept, without a label and not judged."""
        self._ending.set()
        if self._recording is not None:
            self.stop_episode("")
        if self._saving is not None:
            self._closed.wait()
            thread, results, _, _ = self._saving
            thread.join(JUDGE_WAIT_S)
            if results:
                self.get_logger().info(results[0].note)
        super().destroy_node()


def main() -> int:
    """Run the node; returns the exit code."""
    return run_node(RecorderNode)
