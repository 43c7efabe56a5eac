"""The run manager: lifecycle bring-up in order, monitoring, shutdown in reverse order, and the summary of the run.

It works the same under ros2 launch and under `./grids deploy`. The process that started the nodes records each exit in
exits.jsonl; missing status messages show that a node hangs. Exit codes: 0 success, 1 failure, 3 task not done.
"""

import contextlib
import json
import os
import signal
import sys
import threading
import time
import traceback

import rclpy
from lifecycle_msgs.msg import Transition
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions
from std_srvs.srv import Trigger

from grids_bringup.run.manager_node import START_WAIT_S, RunManagerNode
from grids_bringup.run.record_session import RecordSession
from grids_bringup.run.summary import driver_summary
from grids_common.signals import STOP_SIGNALS

CONFIGURE_WAIT_S = 120.0  # in this transition a full-size bundle is loaded, its engines are built and warmed up
TRANSITION_WAIT_S = 30.0
HEARTBEAT_S = {"driver": 2.0, "policy": 6.0, "twin": 4.0}  # longest time without a status message
CAMERA_SILENT_S = 3.0
OWN_STALL_S = 0.5  # a longer pause between two checks means that this process did not run
AFTER_SUCCESS_S = 1.0  # from success to the end of the run
REST_WAIT_S = 8.0
STATUS_PERIOD_S = {True: 0.2, False: 2.0}  # on a terminal, in a log


class RunError(RuntimeError):
    """The run cannot continue. The message is the one sentence shown to the user."""


class RunManager:
    """One run, from bring-up to summary. All methods run in the main thread; `node` is spun by another one."""

    def __init__(self, node: RunManagerNode, stop: threading.Event, session: RecordSession | None = None) -> None:
        self.node = node
        self.session = session
        self.params = node.params
        self.stop = stop
        self.activated: list[str] = []  # names of lifecycle nodes that are, or may be, active
        self.created = time.monotonic()
        self.watch_began: float | None = None
        self.ended_by = ""
        self.failure = ""
        self.warnings: list[str] = []
        self.exited: set[str] = set()
        self.arm = "not touched"
        self.held = False
        self._exits_read = 0
        self._last_check = self._awake_since = self.created
        self._silent_cameras: set[str] = set()
        self._next_status = 0.0
        self._parent = os.getppid()

    def bring_up(self) -> None:
        """Wait for the twin, then configure and activate the managed nodes in list order.

        Raises RunError at the first failure; returns early if a stop is requested.
        """
        if self.params.twin:
            self._wait_for("twin", lambda: self.node.task is not None, START_WAIT_S)
        for name in self.params.managed:
            self.print_line(f"{name}: configure")
            steps = (
                ("configure", Transition.TRANSITION_CONFIGURE, CONFIGURE_WAIT_S),
                ("activate", Transition.TRANSITION_ACTIVATE, TRANSITION_WAIT_S),
            )
            for verb, number, timeout_s in steps:
                if self._stop_requested():
                    return
                if verb == "activate":
                    self.activated.append(name)  # before the call: if it is interrupted, the node may be active
                    self.arm = "held" if name == "driver" else self.arm
                done = self.node.transition(name, number, timeout_s, self._stop_requested)
                if self._stop_requested():
                    return
                if not done:
                    self.activated = [other for other in self.activated if other != name]
                    raise RunError(self._reason(name, f"{name} did not {verb}"))
        if self.params.policy == "expert":  # not a lifecycle node: wait for its first message
            self._wait_for("policy", lambda: self.node.policy is not None, START_WAIT_S)

    def _stop_requested(self) -> bool:
        """Whether a stop signal was received. Raises RunError if a required process has exited."""
        if not self.stop.is_set():
            self._check_exits()
        return self.stop.is_set()

    def _wait_for(self, name: str, ready, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not ready() and not self._stop_requested():
            if time.monotonic() > deadline:
                raise RunError(self._reason(name, f"{name} sent no message within {timeout_s:.0f} s"))
            time.sleep(0.05)

    def _reason(self, name: str, otherwise: str) -> str:
        """The last error that the node logged, else `otherwise` and the name of its log file."""
        time.sleep(0.3)  # /rosout may arrive after the service response
        with self.node.lock:
            own = [text for text in self.node.errors if text.startswith(f"{name}:")]
        return own[-1] if own else f"{otherwise}; see logs/{name}.log"

    def watch(self) -> None:
        """Monitor the run until the task is done, the time limit is reached or a stop is requested.

        Sets `ended_by`; raises RunError on a failure.
        """
        self.watch_began = self._last_check = self._awake_since = time.monotonic()
        success_at = None
        while not self._stop_requested():
            self._check_heartbeats()
            self._check_cameras()
            self._check_driver()
            elapsed = time.monotonic() - self.watch_began
            with self.node.lock:
                success = bool(self.node.task and self.node.task.success)
            if success and success_at is None:
                success_at = elapsed
            done = success_at is not None and elapsed > success_at + AFTER_SUCCESS_S
            if done and self.params.must_succeed:
                self.ended_by = "task done"
                return
            if self.params.limit_s and elapsed >= self.params.limit_s:
                self.ended_by = "time limit"
                return
            if os.getppid() != self._parent:
                raise RunError("the process that started this run has exited")
            if self.session is not None and self._session_ended():
                return
            self.status_line(elapsed)
            time.sleep(0.03)
        self.ended_by = "stopped"

    def _session_ended(self) -> bool:
        if self.session.failure:
            raise RunError(f"recorder: {self.session.failure}")
        self.ended_by = self.session.poll()
        return bool(self.ended_by)

    def _check_exits(self) -> None:
        path = self.node.folder / "exits.jsonl"
        rows = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        for text in rows[self._exits_read :]:
            row = json.loads(text)
            self._exits_read += 1
            self.exited.add(row["name"])
            code = row["code"]
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
            if row["required"]:
                self._hold()
                raise RunError(self._reason(row["name"], f"{row['name']} {how}"))
            self.warnings.append(f"{row['name']} {how}")

    def _hold(self) -> None:
        """Deactivate the driver, so that the arm holds with torque on. The first action after a failure."""
        if "driver" in self.activated and "driver" not in self.exited and not self.held:
            self.held = self.node.transition("driver", Transition.TRANSITION_DEACTIVATE, 2.0)

    def _check_driver(self) -> None:
        """Raise RunError if the driver has latched a fault: it refuses commands until it is reset."""
        with self.node.lock:
            driver = self.node.driver
        if driver is not None and driver.mode == "fault":
            raise RunError(self._reason("driver", f"driver: {driver.reason}"))

    def _check_heartbeats(self) -> None:
        """Raise RunError if driver, policy or twin has sent no message for HEARTBEAT_S."""
        now = time.monotonic()
        if now - self._last_check > OWN_STALL_S:  # this process did not run either, and could not receive messages
            self._awake_since = now
        self._last_check = now
        for name, timeout_s in HEARTBEAT_S.items():
            silence_s = self.node.silent_for(name)
            if silence_s is not None and min(silence_s, now - self._awake_since) > timeout_s:
                self._hold()
                raise RunError(
                    f"{name} has been silent for {silence_s:.1f} s (expected a message every {timeout_s:.0f} s)"
                )

    def _check_cameras(self) -> None:
        """Warn once about a camera without images. The policy decides whether the arm stops."""
        now = time.monotonic()
        for camera in self.node.statistics.cameras:
            heard_s = self.node.silent_for(f"{camera} camera")
            silence_s = now - self.watch_began if heard_s is None else heard_s
            if min(silence_s, now - self._awake_since) < CAMERA_SILENT_S:
                self._silent_cameras.discard(camera)
            elif camera not in self._silent_cameras:
                self._silent_cameras.add(camera)
                lost = f"stopped sending {max(now - silence_s - self.watch_began, 0.0):.1f} s into the run"
                how = f"sent nothing in the first {CAMERA_SILENT_S:.0f} s" if heard_s is None else lost
                self.warnings.append(f"the {camera} camera {how}")

    def tear_down(self) -> None:
        """Deactivate and clean up the nodes in reverse order.

        After a normal end the arm is first moved to rest; after a failure or a stop signal it holds with torque on.
        """
        names = [name for name in reversed(self.activated) if name not in self.exited]
        if self.failure:
            names.sort(key=lambda name: name != "driver")  # hold first: other nodes may take seconds
        for name in names:
            if name == "driver" and not self.failure and self.ended_by != "stopped":
                self._rest()
            # cleanup closes the serial port; the servos keep holding without it.
            steps = (("deactivate", Transition.TRANSITION_DEACTIVATE), ("clean up", Transition.TRANSITION_CLEANUP))
            for verb, number in steps[1:] if name == "driver" and self.held else steps:
                if not self.node.transition(name, number, 5.0):
                    self.warnings.append(f"{name} did not {verb}")
                    break
        if not self.failure:
            self._stop_requested()  # raises if a process failed during the shutdown

    def _rest(self) -> None:
        """Move the arm to its rest pose at limited speed, then switch torque off. Adds a warning if that fails."""
        response = self.node.call(Trigger, "driver/rest", Trigger.Request(), REST_WAIT_S, self._stop_requested)
        if response is None or not response.success:
            self.warnings.append(
                f"the arm did not reach its rest pose: {response.message if response else 'no response'}"
            )
            return
        deadline = time.monotonic() + REST_WAIT_S
        moving = False
        while time.monotonic() < deadline and not self._stop_requested():
            state = self.node.driver.state if self.node.driver else ""
            moving |= state == "resting"
            if state == "released":
                self.arm = "at rest"
                return
            if moving and state != "resting":
                break
            time.sleep(0.05)
        reason = "interrupted" if self.stop.is_set() else self.node.driver.reason if self.node.driver else ""
        self.warnings.append(f"the arm did not reach its rest pose: {reason}")

    def exit_code(self) -> int:
        """0: success; 1: failure; 3: time limit reached before the task was done."""
        if self.failure:
            return 1
        task = self.node.task
        undone = self.params.must_succeed and self.ended_by == "time limit" and not (task and task.success)
        return 3 if undone else 0

    def summary(self) -> dict:
        """The content of summary.json."""
        task, driver, policy = self.node.task, self.node.driver, self.node.policy
        with self.node.lock:
            statistics = self.node.statistics.summary()
        elapsed = time.monotonic() - self.watch_began if self.watch_began else 0.0
        reached = float(task.success_time) if task and task.success else None
        return {
            "task": self.params.task,
            "instruction": task.instruction if task else "",
            "policy": self.params.policy,
            "seed": self.params.seed,
            "success": bool(task and task.success) if self.params.twin else None,
            "success_time_s": reached,
            "ended_by": "failure" if self.failure else self.ended_by,
            "failure": self.failure,
            "warnings": self.warnings,
            "exit_code": self.exit_code(),
            "elapsed_s": round(elapsed, 3),
            "arm": self.arm,
            **statistics,
            "driver": driver_summary(driver),
            "policy_status": {
                "state": policy.state,
                "reason": policy.reason,
                "provider": policy.provider,
            }
            if policy
            else {},
            **({"recording": self.session.summary()} if self.session is not None else {}),
        }

    def print_line(self, text: str, *, end: bool = False) -> None:
        """Print a line; on a terminal the next one replaces it unless `end`. A closed terminal does not end the run."""
        start, stop = ("\r\033[K", "\n" if end else "") if sys.stdout.isatty() else ("", "\n")
        with contextlib.suppress(OSError):
            sys.stdout.write(start + text + stop)
            sys.stdout.flush()

    def status_line(self, elapsed_s: float) -> None:
        """Print time, policy, chunks, arm state, chunk age, late ticks and camera rates in one line."""
        now = time.monotonic()
        if now < self._next_status:
            return
        self._next_status = now + STATUS_PERIOD_S[sys.stdout.isatty()]
        if self.session is not None:
            self.print_line(self.session.line())
            return
        with self.node.lock:
            driver, task = self.node.driver, self.node.task
            statistics = self.node.statistics
            now_ns = self.node.get_clock().now().nanoseconds
            rates = " ".join(f"{n} {c.recent_rate_hz(now_ns):.0f}" for n, c in sorted(statistics.cameras.items()))
            chunks = statistics.chunks
        parts = [f"{elapsed_s:6.1f} s", self.params.policy, f"chunks {chunks}"]
        if driver:
            parts += [
                f"arm {driver.state}",
                f"chunk age {max(driver.chunk_age, 0.0):.2f} s",
                f"late {driver.late_ticks}",
            ]
        parts.append(f"cameras {rates} Hz")
        if task:
            parts.append(f"{task.task}: {'done' if task.success else 'not yet'}")
        self.print_line(" | ".join(parts))


def execute(run: RunManager) -> int:
    """Bring up, watch, tear down, write summary.json (also after a failure). Returns the exit code."""

    def attempt(step) -> None:
        try:
            step()
        except RunError as failure:
            run.failure = run.failure or str(failure)
        except Exception as error:  # even after a bug here the arm must hold and the summary be written
            run.failure = run.failure or "".join(traceback.format_exception(error)).strip()

    attempt(run.bring_up)
    if not run.failure:
        attempt(run.watch)
    attempt(run.tear_down)
    summary = run.summary()
    path = run.node.folder / "summary.json"
    path.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    task = {True: "; task done", False: "; task not done", None: ""}[summary["success"]]
    verdict = run.failure or f"{run.ended_by}{task}"
    run.print_line(f"{'FAILED: ' if run.failure else ''}{verdict}", end=True)
    torque = {"at rest": ", torque off", "held": " with torque on"}.get(run.arm, "")
    run.print_line(f"arm {run.arm}{torque} · {summary['chunks']} chunks · {path}", end=True)
    return summary["exit_code"]


def main() -> int:
    """Entry point of the executable `run_manager`."""
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    stop = threading.Event()
    for number in STOP_SIGNALS:
        signal.signal(number, lambda *_: stop.set())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)  # scripts/run_manager blocked them during the imports
    node = RunManagerNode()
    session = RecordSession(node) if node.params.record else None
    executor = SingleThreadedExecutor()
    executor.add_node(node)

    def spin() -> None:
        try:
            executor.spin()
        except ExternalShutdownException:
            return

    thread = threading.Thread(target=spin, name="executor", daemon=True)
    thread.start()
    try:
        return execute(RunManager(node, stop, session))
    finally:
        if session is not None:
            session.close()
        executor.shutdown()
        thread.join(2.0)
        node.destroy_node()
        rclpy.try_shutdown()
