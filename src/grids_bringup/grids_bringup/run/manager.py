"""The run manager: lifecycle bring-up in order, monitoring, shutdown in reverse order, and the summary of the run.

It works the same under ros2 launch and under `./grids deploy`. The process that started the nodes records each exit in
exits.jsonl; missing status messages show that a node hangs. Exit codes: 0 success, 1 failure, 3 task not done.

Under ros2 launch Ctrl-C reaches every node at once, so after a stop nothing may wait for a node that has ended.
"""

import contextlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from functools import partial
from pathlib import Path

import rclpy
from lifecycle_msgs.msg import Transition
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions
from std_srvs.srv import Trigger

from grids_bringup.run import verdict
from grids_bringup.run.manager_node import LOST_S, START_WAIT_S, RunManagerNode
from grids_bringup.run.meeting import Meeting
from grids_bringup.run.record_session import RecordSession
from grids_bringup.run.summary import driver_summary
from grids_common.signals import STOP_SIGNALS, ignore_from_now_on

CONFIGURE_WAIT_S = 120.0  # in this transition a full-size bundle is loaded, its engines are built and warmed up
TRANSITION_WAIT_S = 30.0
HEARTBEAT_S = {"driver": 2.0, "policy": 6.0, "twin": 4.0}  # longest time without a status message
OWN_STALL_S = 0.5  # a longer pause between two checks means that this process did not run
AFTER_SUCCESS_S = 1.0  # from success to the end of the run
REST_WAIT_S = 8.0
TAKE_DOWN_WAIT_S = 5.0
HOLD_WAIT_S = 2.0  # launch sends SIGTERM 5 s after Ctrl-C
SIGNAL_GRACE_S = 0.5  # between the first and the last process that a Ctrl-C reaches
ASKED_TO_END = (0, -signal.SIGINT, -signal.SIGTERM)  # exit codes of a process that a stop signal ended
CUT_OFF = "the run manager was ended before all nodes had been stopped"
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
        self.verdict = ""
        self._meeting = Meeting(node, self.print_line)
        self._hold_asked = False
        self._exits_read = 0
        self._exits: list[dict] = []  # read, but not yet judged
        self._watched_s = 0.0
        self._driver_before = None
        self._last_check = self._awake_since = self.created
        self._next_status = 0.0
        self._parent = os.getppid()

    def bring_up(self) -> None:
        """Wait for the twin, then configure and activate the managed nodes in list order.

        Raises RunError at the first failure; returns early if a stop is requested.
        """
        if self.params.twin:
            self._wait_for("twin", lambda: self.node.task is not None, START_WAIT_S)
        self._refuse(self._meeting.namesake(self.stop))
        if self.params.part == "robot":  # torque comes on once there is a policy, and every node could be configured
            if not all(self._configure(name) for name in self.params.managed):
                return
            self._meet()
        for name in self.params.managed:
            if not (self._configure(name) and self._activate(name)):
                return
        if self.params.policy == "expert":  # not a lifecycle node: wait for its first message
            self._wait_for("policy", lambda: self.node.policy is not None, START_WAIT_S)

    def _configure(self, name: str) -> bool:
        """Bring a node into the state inactive; False if a stop was requested. Raises RunError."""
        self.print_line(f"{name}: configure")
        if self._stop_requested():
            return False
        done = self.node.transition(name, Transition.TRANSITION_CONFIGURE, CONFIGURE_WAIT_S, self._stop_requested)
        if not self._stop_requested() and not done:
            raise RunError(self._reason(name, f"{name} did not configure"))
        return not self._stop_requested()

    def _activate(self, name: str) -> bool:
        """Activate a configured node; False if a stop was requested. Raises RunError."""
        if name == "policy" and self.params.part == "policy":
            self._meet()
        if self._stop_requested():
            return False
        self.activated.append(name)  # before the call: if it is interrupted, the node may be active
        self.arm = "held" if name == "driver" else self.arm
        done = self.node.transition(name, Transition.TRANSITION_ACTIVATE, TRANSITION_WAIT_S, self._stop_requested)
        if not self._stop_requested() and not done:
            self.activated = [other for other in self.activated if other != name]
            raise RunError(self._reason(name, f"{name} did not activate"))
        return not self._stop_requested()

    def _meet(self) -> None:
        """Wait for the other part of this run. Raises RunError if it does not come or other runs are in the way."""
        self.node.announce("ready")
        self._refuse(self._meeting.wait(self._stop_requested))

    def _refuse(self, problem: str) -> None:
        """Raise RunError if there is a problem, after the arm holds."""
        if problem:
            self._hold()
            raise RunError(problem)

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
        self.node.announce("running")
        with self.node.lock:
            self._driver_before = self.node.driver
            self.node.statistics.watching = True
        try:
            self._watch()
        finally:
            with self.node.lock:
                self.node.statistics.watching = False
            self._judge()

    def _watch(self) -> None:
        success_at = None
        while not self._stop_requested():
            self._check_heartbeats()
            self._check_driver()
            self._refuse(self._meeting.conflict())
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
            if self._meeting.ended():
                self.ended_by = self._meeting.ended()
                return
            if os.getppid() != self._parent:
                raise RunError("the process that started this run has exited")
            if self.session is not None and self._session_ended():
                return
            self.status_line(elapsed)
            time.sleep(0.03)
        self.ended_by = "stopped"

    def _judge(self) -> None:
        """Derive warnings and the verdict from everything that was counted, before the arm moves to rest."""
        self._watched_s = time.monotonic() - self.watch_began
        with self.node.lock:
            facts = verdict.RunFacts(
                self.node.statistics,
                self._watched_s,
                self.node.get_clock().now().nanoseconds,
                with_policy=self.params.with_policy,
                succeeded=bool(self.node.task and self.node.task.success),
                before=self._driver_before,
                driver=self.node.driver,
                policy=self.node.policy,
            )
            self.warnings += verdict.warnings(facts)
            self.verdict = verdict.failure(facts)

    def _session_ended(self) -> bool:
        if self.session.failure:
            raise RunError(f"recorder: {self.session.failure}")
        self.ended_by = self.session.poll()
        return bool(self.ended_by)

    def _read_exits(self) -> None:
        """Read the exits that were recorded since the last call."""
        path = self.node.folder / "exits.jsonl"
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        rows = text[: text.rfind("\n") + 1].splitlines()  # the last line may still be being written
        for row in map(json.loads, rows[self._exits_read :]):
            self.exited.add(row["name"])
            self._exits.append(row)
        self._exits_read = len(rows)

    def _gone(self, name: str) -> bool:
        """Whether the process of a node has ended."""
        self._read_exits()
        return name in self.exited

    def _check_exits(self) -> None:
        """Warn about an optional process that has ended; raise RunError, after the arm holds, if it was required."""
        self._read_exits()
        while self._exits:
            row = self._exits.pop(0)
            if not row["required"]:
                self.warnings.append(f"{row['name']} {_how(row['code'])}")
                continue
            self._hold()
            if row["code"] in ASKED_TO_END and self.stop.wait(SIGNAL_GRACE_S):
                return  # the stop signal reached that process before this one
            raise RunError(self._reason(row["name"], f"{row['name']} {_how(row['code'])}"))

    def _hold(self) -> None:
        """Deactivate the driver, so that the arm holds with torque on. The first action after a failure or a stop.

        A driver that has ended was made safe by its own end.
        """
        if "driver" not in self.activated or self._hold_asked:
            return
        self._hold_asked = True
        gone = partial(self._gone, "driver")
        if not self.node.transition("driver", Transition.TRANSITION_DEACTIVATE, HOLD_WAIT_S, gone) and not gone():
            self.warnings.append(f"the driver did not confirm within {HOLD_WAIT_S:.0f} s that the arm holds")

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
        for name, timeout_s in (HEARTBEAT_S | self._meeting.heartbeats).items():
            silence_s = self.node.silent_for(name)
            if silence_s is not None and min(silence_s, now - self._awake_since) > timeout_s:
                self._hold()
                raise RunError(
                    f"{name} has been silent for {silence_s:.1f} s (expected a message every {timeout_s:.0f} s)"
                )

    @property
    def _abrupt(self) -> bool:
        """Whether the run has failed or a stop was requested: the arm holds, and nothing else takes time."""
        return bool(self.failure) or self.stop.is_set()

    def tear_down(self) -> None:
        """After a normal end: move the arm to rest, deactivate and clean up the nodes in reverse order.

        After a failure or a stop signal the arm holds with torque on. The other nodes then get a stop signal as well,
        on which they release everything by themselves.
        """
        self.node.announce("ended", self.failure or self.verdict or self.ended_by)
        for name in reversed(self.activated):
            if self._abrupt:
                break
            if not self._gone(name):
                self._take_down(name)
        if self._abrupt:
            self._hold()
        else:
            self._stop_requested()  # raises if a process failed during the shutdown
        self._read_exits()
        self.warnings += [
            f"{row['name']} {_how(row['code'])}" for row in self._exits if row["code"] not in ASKED_TO_END
        ]

    def _take_down(self, name: str) -> None:
        """Deactivate and clean up one node; given up when it ends, or when a stop is requested."""
        if name == "driver":
            self._rest()

        def given_up() -> bool:
            return self._abrupt or self._gone(name)

        # cleanup closes the serial port; the servos keep holding without it.
        steps = (("deactivate", Transition.TRANSITION_DEACTIVATE), ("clean up", Transition.TRANSITION_CLEANUP))
        for verb, number in steps:
            if given_up():
                return
            if not self.node.transition(name, number, TAKE_DOWN_WAIT_S, given_up):
                if not given_up():
                    self.warnings.append(f"{name} did not {verb}")
                return

    def _rest(self) -> None:
        """Move the arm to its rest pose at limited speed, then switch torque off. Adds a warning if that fails."""
        response = self.node.call(
            Trigger, "driver/rest", Trigger.Request(), REST_WAIT_S, self._stop_requested, repeat_s=LOST_S
        )
        if response is None:
            self.warnings.append("the arm did not reach its rest pose: no response")
            return
        if not response.success and self._driver_state() != "released":  # a second request finds it at rest
            self.warnings.append(f"the arm did not reach its rest pose: {response.message}")
            return
        deadline = time.monotonic() + REST_WAIT_S
        moving = False
        while time.monotonic() < deadline and not self._stop_requested():
            state = self._driver_state()
            moving |= state == "resting"
            if state == "released":
                self.arm = "at rest"
                return
            if moving and state != "resting":
                break
            time.sleep(0.05)
        reason = "interrupted" if self.stop.is_set() else self.node.driver.reason if self.node.driver else ""
        self.warnings.append(f"the arm did not reach its rest pose: {reason}")

    def _driver_state(self) -> str:
        return self.node.driver.state if self.node.driver else ""

    def exit_code(self) -> int:
        """0: success; 1: failure; 3: time limit reached before the task was done."""
        if self.failure or self.verdict:
            return 1
        task = self.node.task
        undone = self.params.must_succeed and self.ended_by == "time limit" and not (task and task.success)
        return 3 if undone else 0

    def summary(self) -> dict:
        """The content of summary.json."""
        task, driver, policy = self.node.task, self.node.driver, self.node.policy
        with self.node.lock:
            statistics = self.node.statistics.summary()
        reached = float(task.success_time) if task and task.success else None
        return {
            "task": self.params.task,
            "instruction": task.instruction if task else "",
            "policy": self.params.policy,
            "seed": self.params.seed,
            "success": bool(task and task.success) if self.params.twin else None,
            "success_time_s": reached,
            "ended_by": "failure" if self.failure else self.ended_by,
            "failure": self.failure or self.verdict,
            "warnings": self.warnings,
            "exit_code": self.exit_code(),
            "elapsed_s": round(self._watched_s, 3),
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


def _how(code: int) -> str:
    """How a process ended, as the predicate of a sentence."""
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"


def _write(folder: Path, summary: dict) -> Path:
    """Write summary.json; whoever reads it, or ends this process meanwhile, finds a whole one."""
    path = folder / "summary.json"
    unfinished = path.with_suffix(".partial")
    unfinished.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    unfinished.replace(path)
    return path


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
    unfinished = run.summary()
    _write(run.node.folder, unfinished | {"failure": unfinished["failure"] or CUT_OFF, "exit_code": 1})
    attempt(run.tear_down)
    summary = run.summary()
    path = _write(run.node.folder, summary)
    task = {True: "; task done", False: "; task not done", None: ""}[summary["success"]]
    for text in run.warnings:
        run.print_line(f"warning: {text}", end=True)
    failure = summary["failure"]
    run.print_line(f"FAILED: {failure}" if failure else f"{run.ended_by}{task}", end=True)
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
        ignore_from_now_on()
