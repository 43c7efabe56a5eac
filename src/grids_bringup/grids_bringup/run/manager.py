"""Makes a run out of processes: brings them up in order, watches, ends, and writes the summary.

It behaves the same under ros2 launch and under `./grids deploy`. Whoever started the processes notes each exit in
exits.jsonl; hangs are noticed by missing heartbeats. Exit codes: 0 fine, 1 something failed, 3 the task was not done.
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

from grids_bringup.run.manager_node import START_WAIT_S, RunManager
from grids_bringup.run.record_session import RecordSession
from grids_bringup.run.summary import driver_summary

CONFIGURE_WAIT_S = 120.0  # a full-size bundle loads, builds engines and warms up here
TRANSITION_WAIT_S = 30.0
HEARTBEAT_S = {"driver": 2.0, "policy": 6.0, "twin": 4.0}
CAMERA_SILENT_S = 3.0
OWN_STALL_S = 0.5
AFTER_SUCCESS_S = 1.0
REST_WAIT_S = 8.0
END_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STATUS_PERIOD_S = {True: 0.2, False: 2.0}  # on a terminal, in a log


class RunError(RuntimeError):
    """The run cannot go on; the message is the one sentence the user sees."""


class Run:
    """One run from bring-up to summary, in the main thread."""

    def __init__(self, node: RunManager, stop: threading.Event, session: RecordSession | None = None) -> None:
        self.node = node
        self.session = session
        self.params = node.params
        self.stop = stop
        self.up: list[str] = []
        self.started = time.monotonic()
        self.began: float | None = None
        self.ended_by = ""
        self.failure = ""
        self.warnings: list[str] = []
        self.dead: set[str] = set()
        self.arm = "not touched"
        self.held = False
        self._exits_read = 0
        self._looked = self._awake = self.started
        self._mute: set[str] = set()
        self._next_status = 0.0
        self._parent = os.getppid()

    def bring_up(self) -> None:
        """Twin first, then the managed nodes in list order; stops at the first that fails."""
        if self.params.twin:
            self._wait_for("twin", lambda: self.node.task is not None, START_WAIT_S)
        for name in self.params.managed:
            self.say(f"{name}: configure")
            steps = (
                ("configure", Transition.TRANSITION_CONFIGURE, CONFIGURE_WAIT_S),
                ("activate", Transition.TRANSITION_ACTIVATE, TRANSITION_WAIT_S),
            )
            for verb, number, patience_s in steps:
                if self._over():
                    return
                if verb == "activate":
                    self.up.append(name)  # from here on it may be active, whatever interrupts
                    self.arm = "held" if name == "driver" else self.arm
                done = self.node.transition(name, number, patience_s, self._over)
                if self._over():
                    return
                if not done:
                    self.up = [other for other in self.up if other != name]
                    raise RunError(self._sentence(name, f"{name} did not {verb}"))
        if self.params.policy == "expert":  # no lifecycle node: its first word says that it is there
            self._wait_for("policy", lambda: self.node.policy is not None, START_WAIT_S)

    def _over(self) -> bool:
        """Whether waiting has become pointless: somebody asked to stop. RunError when a needed process ended."""
        if not self.stop.is_set():
            self._check_exits()
        return self.stop.is_set()

    def _wait_for(self, name: str, ready, patience_s: float) -> None:
        deadline = time.monotonic() + patience_s
        while not ready() and not self._over():
            if time.monotonic() > deadline:
                raise RunError(self._sentence(name, f"{name} was not heard within {patience_s:.0f} s"))
            time.sleep(0.05)

    def _sentence(self, name: str, otherwise: str) -> str:
        """The node's own last error if it said one, else `otherwise`."""
        time.sleep(0.3)  # /rosout may trail the service answer
        with self.node.lock:
            own = [text for text in self.node.said if text.startswith(f"{name}:")]
        return own[-1] if own else f"{otherwise}; see logs/{name}.log"

    def watch(self) -> None:
        """Until the task is done, the time is up, somebody stops it or something fails."""
        self.began = self._looked = self._awake = time.monotonic()
        success_at = None
        while not self._over():
            self._check_heartbeats()
            self._check_cameras()
            self._check_driver()
            elapsed = time.monotonic() - self.began
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
                raise RunError("the process that started this run is gone")
            if self.session is not None and self._session_over():
                return
            self.status_line(elapsed)
            time.sleep(0.03)
        self.ended_by = "stopped"

    def _session_over(self) -> bool:
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
            self.dead.add(row["name"])
            code = row["code"]
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
            if row["required"]:
                self._hold()
                raise RunError(self._sentence(row["name"], f"{row['name']} {how}"))
            self.warnings.append(f"{row['name']} {how}")

    def _hold(self) -> None:
        """The driver holds from here on: the first thing to do when something is wrong."""
        if "driver" in self.up and "driver" not in self.dead and not self.held:
            self.held = self.node.transition("driver", Transition.TRANSITION_DEACTIVATE, 2.0)

    def _check_driver(self) -> None:
        """A driver that latched a fault moves no more until somebody resets it: waiting would be pointless."""
        with self.node.lock:
            driver = self.node.driver
        if driver is not None and driver.mode == "fault":
            raise RunError(self._sentence("driver", f"driver: {driver.reason}"))

    def _check_heartbeats(self) -> None:
        now = time.monotonic()
        if now - self._looked > OWN_STALL_S:  # this process did not run either: it could not have heard anybody
            self._awake = now
        self._looked = now
        for name, patience_s in HEARTBEAT_S.items():
            silence_s = self.node.silent_for(name)
            if silence_s is not None and min(silence_s, now - self._awake) > patience_s:
                self._hold()
                raise RunError(
                    f"{name} has been silent for {silence_s:.1f} s (expected every {patience_s:.0f} s at most)"
                )

    def _check_cameras(self) -> None:
        """A camera that falls silent is a warning: what it means for the arm is the policy's business."""
        now = time.monotonic()
        for camera in self.node.statistics.cameras:
            heard_s = self.node.silent_for(f"{camera} camera")
            silence_s = now - self.began if heard_s is None else heard_s
            if min(silence_s, now - self._awake) < CAMERA_SILENT_S:
                self._mute.discard(camera)
            elif camera not in self._mute:
                self._mute.add(camera)
                fell = f"fell silent {max(now - silence_s - self.began, 0.0):.1f} s into the run"
                how = f"sent nothing in the first {CAMERA_SILENT_S:.0f} s" if heard_s is None else fell
                self.warnings.append(f"the {camera} camera {how}")

    def tear_down(self) -> None:
        """Reverse order. A clean end brings the arm to rest; any other end leaves it holding with torque on."""
        names = [name for name in reversed(self.up) if name not in self.dead]
        if self.failure:
            names.sort(key=lambda name: name != "driver")  # hold first, whatever else takes its time
        for name in names:
            if name == "driver" and not self.failure and self.ended_by != "stopped":
                self._rest()
            # cleanup closes the serial port (the servos keep holding), so its end is no fault of the driver's.
            steps = (("deactivate", Transition.TRANSITION_DEACTIVATE), ("clean up", Transition.TRANSITION_CLEANUP))
            for verb, number in steps[1:] if name == "driver" and self.held else steps:
                if not self.node.transition(name, number, 5.0):
                    self.warnings.append(f"{name} did not {verb}")
                    break
        if not self.failure:
            self._over()  # what died on the way down is a failure too

    def _rest(self) -> None:
        """Rest pose at limited speed, then torque off; a warning says why when the arm does not get there."""
        response = self.node.call(Trigger, "driver/rest", Trigger.Request(), REST_WAIT_S, self._over)
        if response is None or not response.success:
            self.warnings.append(f"the arm was not brought to rest: {response.message if response else 'no answer'}")
            return
        deadline = time.monotonic() + REST_WAIT_S
        moving = False
        while time.monotonic() < deadline and not self._over():
            state = self.node.driver.state if self.node.driver else ""
            moving |= state == "resting"
            if state == "released":
                self.arm = "at rest"
                return
            if moving and state != "resting":
                break
            time.sleep(0.05)
        reason = "stopped on the way" if self.stop.is_set() else self.node.driver.reason if self.node.driver else ""
        self.warnings.append(f"the arm was not brought to rest: {reason}")

    def exit_code(self) -> int:
        if self.failure:
            return 1
        task = self.node.task
        undone = self.params.must_succeed and self.ended_by == "time limit" and not (task and task.success)
        return 3 if undone else 0

    def summary(self) -> dict:
        task, driver, policy = self.node.task, self.node.driver, self.node.policy
        with self.node.lock:
            statistics = self.node.statistics.summary()
        elapsed = time.monotonic() - self.began if self.began else 0.0
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

    def say(self, text: str, *, end: bool = False) -> None:
        """One line, redrawn in place on a terminal until `end`. A closed terminal does not end the run."""
        start, stop = ("\r\033[K", "\n" if end else "") if sys.stdout.isatty() else ("", "\n")
        with contextlib.suppress(OSError):
            sys.stdout.write(start + text + stop)
            sys.stdout.flush()

    def status_line(self, elapsed_s: float) -> None:
        """Time, mode, chunks, ages, camera rates: everything an operator glances at, in one line."""
        now = time.monotonic()
        if now < self._next_status:
            return
        self._next_status = now + STATUS_PERIOD_S[sys.stdout.isatty()]
        if self.session is not None:
            self.say(self.session.line())
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
        self.say(" | ".join(parts))


def conduct(run: Run) -> int:
    """Bring up, watch, tear down, sum up. Returns the exit code; the summary is written in every case."""

    def attempt(step) -> None:
        try:
            step()
        except RunError as failure:
            run.failure = run.failure or str(failure)
        except Exception as error:  # a bug here must still end in a held arm and a summary
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
    run.say(f"{'FAILED: ' if run.failure else ''}{verdict}", end=True)
    torque = {"at rest": ", torque off", "held": " with torque on"}.get(run.arm, "")
    run.say(f"arm {run.arm}{torque} · {summary['chunks']} chunks · {path}", end=True)
    return summary["exit_code"]


def main() -> int:
    """Entry point of the executable `run_manager`."""
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    stop = threading.Event()
    for number in END_SIGNALS:
        signal.signal(number, lambda *_: stop.set())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, END_SIGNALS)  # blocked by the executable while it was starting
    node = RunManager()
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
        return conduct(Run(node, stop, session))
    finally:
        if session is not None:
            session.close()
        executor.shutdown()
        thread.join(2.0)
        node.destroy_node()
        rclpy.try_shutdown()
