"""The RunTask action: one instruction at a time, with progress, a time limit and cancel."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from grids_msgs.action import RunTask
from grids_msgs.msg import TaskState
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.task import Future

from grids_common import services
from grids_common.topics import subscription

ACTION = services.relative("/policy/run_task")
_TICK_S = 0.1


@dataclass(frozen=True, slots=True)
class TaskProgress:
    """The policy's state while a task runs. chunks: published since activation; failure: "" when there is none."""

    chunks: int
    latency_p95_s: float
    state: str
    failure: str


class TaskServer:
    """The action server of policy/run_task. Runs in the node's executor thread; the coroutine waits on a timer.

    start(instruction) begins motion and may raise ValueError; stop() makes the arm hold its pose. progress() is read
    every tick. ready() returns why the policy cannot run, or "". Success is reported only where the twin publishes
    twin/task_state: nothing judges the task on a real arm.
    """

    def __init__(
        self,
        node,
        start: Callable[[str], None],
        stop: Callable[[], None],
        progress: Callable[[], TaskProgress],
        ready: Callable[[], str],
    ) -> None:
        self._node, self._start, self._stop = node, start, stop
        self._progress, self._ready = progress, ready
        self._busy = False
        self._closed = False
        self._timer = None
        self._judged: TaskState | None = None
        self._judge = subscription(node, "/twin/task_state", TaskState, self._on_task_state)
        self._server = ActionServer(
            node, RunTask, ACTION, self._execute,
            goal_callback=self._on_goal, cancel_callback=lambda _: CancelResponse.ACCEPT,
        )  # fmt: skip

    @property
    def busy(self) -> bool:
        """True while an accepted task has not ended."""
        return self._busy

    def _on_task_state(self, msg: TaskState) -> None:
        self._judged = msg

    def _on_goal(self, goal: RunTask.Goal) -> GoalResponse:
        problem = self._ready()
        if self._busy:
            problem = "another task is running; cancel it first"
        elif not goal.instruction.strip():
            problem = "expected an instruction, got an empty one"
        elif not goal.timeout >= 0:
            problem = f"expected a timeout of 0 or more seconds, got {goal.timeout}"
        if problem:
            self._node.get_logger().warning(f"{ACTION} refused: {problem}")
            return GoalResponse.REJECT
        self._busy = True
        return GoalResponse.ACCEPT

    async def _execute(self, handle) -> RunTask.Result:
        goal, began = handle.request, time.monotonic()
        before = self._progress().chunks
        judged_before = self._judged
        try:
            self._start(goal.instruction)
            while True:
                await self._tick()
                progress, elapsed = self._progress(), time.monotonic() - began
                chunks = max(0, progress.chunks - before)  # deactivation resets the count
                judged = self._judged
                succeeded = judged is not judged_before and judged is not None and judged.success
                if succeeded:
                    handle.succeed()
                    return RunTask.Result(success=True, message="done", chunks=chunks)
                if handle.is_cancel_requested:
                    handle.canceled()
                    return RunTask.Result(success=False, message="cancelled", chunks=chunks)
                problem = progress.failure or self._ready()
                if not problem and 0 < goal.timeout <= elapsed:
                    problem = f"time limit of {goal.timeout:.0f} s reached"
                if problem:
                    handle.abort()
                    return RunTask.Result(success=False, message=problem, chunks=chunks)
                handle.publish_feedback(
                    RunTask.Feedback(
                        elapsed=elapsed,
                        chunks=chunks,
                        latency_p95=progress.latency_p95_s,
                        state=progress.state,
                    )
                )
        finally:
            self._busy = False
            if not self._closed:
                self._stop()

    async def _tick(self) -> None:
        """Wait one tick without blocking the executor."""
        done = Future()
        self._timer = self._node.create_timer(_TICK_S, lambda: done.set_result(None))
        await done
        self._node.destroy_timer(self._timer)
        self._timer = None

    def close(self) -> None:
        """Destroy the action server. A running task never resumes, because what it uses is about to be freed."""
        self._closed = True
        if self._timer is not None:
            self._node.destroy_timer(self._timer)
            self._timer = None
        self._node.destroy_subscription(self._judge)
        self._server.destroy()
