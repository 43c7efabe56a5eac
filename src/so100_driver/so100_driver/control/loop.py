"""The control loop: one thread, absolute deadlines, the only user of the bus while it runs.

Each tick writes the goal first, at the deadline, and then reads the state: a slow or lost reply then delays nobody's
goal.
The thread never dies: what a tick raises becomes a fault of the arm, and a lost port is reopened every half second.
"""

import contextlib
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from grids_common.pacing import Pacer
from grids_common.realtime import request_realtime, shorten_switch_interval
from grids_data.calibration import JointMap
from so100_driver.bus.bus import ServoBus
from so100_driver.bus.registers import GOAL_POSITION, TORQUE_ENABLE
from so100_driver.control import prepare
from so100_driver.errors import DriverError, NoReplyError, OtherArmError, PortError
from so100_driver.guard.arbiter import LATCHED
from so100_driver.guard.arm import Arm, Output
from so100_driver.guard.state import Snapshot, update
from so100_driver.params import DriverParams

REOPEN_EVERY_S = 0.5
CONTROL_EVERY = 10  # ticks between slow reads of one servo's torque and goal registers
LATENESS_WINDOW_S = 10.0


@dataclass(frozen=True, slots=True)
class Record:
    """What one tick did, for publishers. Instants monotonic ns; `sent` is `goal` rounded to ticks, rad."""

    woke_ns: int
    sent_ns: int
    output: Output
    sent: np.ndarray | None
    seen: Snapshot
    mode: str
    human: bool


class ControlLoop:
    """Runs an `Arm` on a `ServoBus`. `lock` guards the arm; every callback takes it around its call."""

    def __init__(
        self,
        bus: ServoBus,
        arm: Arm,
        joints: JointMap,
        params: DriverParams,
        *,
        eeprom: prepare.Eeprom,
        on_tick: Callable[[Record], None],
        on_event: Callable[[str, str], None],
        lateness_window_s: float = LATENESS_WINDOW_S,
    ) -> None:
        self.bus, self.arm, self.joints, self.params = bus, arm, joints, params
        self.eeprom = eeprom  # of the arm this loop is for: after a replug no other is accepted
        self.lock = threading.Lock()
        self.late_ticks = 0
        self.connected = True
        self.realtime = (False, "")
        self.held = np.full(6, np.nan)  # goal of each servo whose torque is on, rad
        self._on_tick, self._on_event = on_tick, on_event
        self._lateness: deque[float] = deque(maxlen=max(1, round(lateness_window_s * params.rate_hz)))
        self._torque = False
        self._clinging: set[int] = set()  # servos told to let go that have not confirmed it
        self._away = np.zeros(6, bool)  # servos that fell silent and have not been rejoined
        self._engagement = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="so100-loop", daemon=True)
        self._sent_ns = self._written_ns = 0
        self._reopen_ns = 0
        self._turn = 0
        self._woke_ns = 0
        self._said = ""  # the last fault

    # -- any thread --------------------------------------------------------------------------------------------------
    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the loop; servos keep holding their last goal."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2.0)

    def let_go(self) -> None:
        """Torque off on every servo, also where it was found on. The caller holds `lock` and has released the arm."""
        self._clinging = set(self.bus.ids)

    @property
    def clinging(self) -> bool:
        """Torque was asked off and some servo has not confirmed it yet."""
        return bool(self._clinging)

    def lateness_p99_s(self) -> float:
        values = sorted(self._lateness.copy())
        return values[int(0.99 * (len(values) - 1))] if values else 0.0

    @property
    def lateness_room(self) -> int:
        """How many ticks `lateness` remembers."""
        return self._lateness.maxlen

    def lateness(self) -> list[float]:
        """Seconds of the last ticks, oldest first."""
        return list(self._lateness.copy())

    # -- the loop thread ---------------------------------------------------------------------------------------------
    def _run(self) -> None:
        shorten_switch_interval()
        self.realtime = request_realtime(self.params.realtime_priority)
        self._on_event("info", self.realtime[1])
        pacer = Pacer(self.params.rate_hz)
        while not self._stop.is_set():
            tick = pacer.wait()
            self.late_ticks += tick.missed
            self._lateness.append(tick.lateness_s)
            self._woke_ns = tick.woke_ns
            try:
                self._tick()
            except PortError as error:
                self._lost(str(error))
            except Exception:
                text = traceback.format_exc().strip()
                self._fault(f"the control loop failed: {text.splitlines()[-1]}", details=text)
                with contextlib.suppress(Exception):  # it may be the reporting that fails
                    self._report_nothing()

    def _tick(self) -> None:
        if not self.connected and not self._reconnect():
            self._report_nothing()
            return
        now_ns = time.monotonic_ns()
        # Time since the last goal reached the bus; a stall counts as one and a half ticks, never as a leap.
        elapsed_s = (now_ns - self._sent_ns) * 1e-9
        dt_s = min(max(elapsed_s, 0.2 * self.params.period_s), 1.5 * self.params.period_s)
        with self.lock:
            output = self.arm.tick(now_ns, dt_s)
        self._apply_torque(output)
        sent = None
        if output.goal is not None and self._torque:
            ticks = self._clip(self.joints.to_ticks(output.goal))
            goals = zip(self.bus.ids, ticks.tolist(), self._away.tolist(), strict=True)
            present = {servo_id: goal for servo_id, goal, away in goals if not away}
            if present:
                self.bus.write_goals(present)
            self._written_ns = time.monotonic_ns()
            sent = self.joints.to_rad(ticks)
        self._sent_ns = now_ns
        reading = self.bus.read_state(budget_s=0.4 * self.params.period_s)
        seen = update(self.arm.seen, reading, self.bus.ids, self.joints)
        self._check_control(seen)
        with self.lock:
            self.arm.observe(time.monotonic_ns(), seen)
        self._rejoin(seen)
        self._report(output, sent)

    @staticmethod
    def _clip(ticks: np.ndarray) -> np.ndarray:
        return np.clip(ticks, 0, 4095)

    def _report_nothing(self) -> None:
        """A tick that came to nothing is reported too: what was read before counts no more."""
        with self.lock:
            self.arm.seen = replace(self.arm.seen, valid=np.zeros(6, bool))
        self._report(Output(None, self._torque, "hold", None, -1.0, 0), None)

    def _report(self, output: Output, sent: np.ndarray | None) -> None:
        with self.lock:
            arm = self.arm
            record = Record(
                self._woke_ns,
                self._written_ns,
                output,
                sent,
                arm.seen,
                str(arm.mode),
                arm.human,
            )
        self._on_tick(record)

    def _apply_torque(self, output: Output) -> None:
        """Bring the servos' torque to what the arm wants; goals are written, acknowledged, before torque goes on."""
        if not output.torque:
            self._release(first=self._torque)
            return
        if self._torque and output.engagement == self._engagement:
            return
        self._engagement = output.engagement
        ticks = self._clip(self.joints.to_ticks(output.goal))
        try:
            for servo_id, goal in zip(self.bus.ids, ticks.tolist(), strict=True):
                self.bus.write(servo_id, GOAL_POSITION, goal, tries=4)
        except NoReplyError as error:
            self._not_engaged(str(error))
            return
        self._clinging = set()
        failed = self.bus.set_torque(dict.fromkeys(self.bus.ids, True))
        self._torque = True
        self.held = np.where(np.isin(self.bus.ids, failed), np.nan, self.joints.to_rad(ticks))
        if failed:
            self._fault(f"servos {failed} did not confirm torque on")

    def _not_engaged(self, why: str) -> None:
        """A servo did not take its goal: torque stays as it is, and only a reset and a new mode try again."""
        self._fault(f"{why}: torque was not switched on")
        if not self._torque:
            # The pose decided on is of now; whenever the servo answers again, the arm may hang elsewhere.
            with self.lock:
                self.arm.release(time.monotonic_ns(), self.arm.reason)

    def _release(self, *, first: bool) -> None:
        """Torque off, asked of each servo every tick until it confirms; a silent one is told without waiting for it."""
        if first:
            # Remembered before anything is sent: the port may go away in the middle.
            self._torque, self.held, self._clinging = False, np.full(6, np.nan), set(self.bus.ids)
        if not self._clinging:
            return
        silent = set(np.array(self.bus.ids)[self.arm.seen.misses >= self.params.miss_hold].tolist())
        asked = sorted(self._clinging if first else self._clinging - silent)
        if self._clinging & silent:
            self.bus.sync_write(TORQUE_ENABLE, dict.fromkeys(sorted(self._clinging & silent), 0))
        failed = self.bus.set_torque(dict.fromkeys(asked, False)) if asked else []
        with self.lock:
            self._clinging = self._clinging - (set(asked) - set(failed))
        if failed and first:
            self._fault(f"servos {failed} did not confirm torque off: asking again until they do")

    def _check_control(self, seen: Snapshot) -> None:
        """Slow round-robin: a servo that lost its torque by itself has restarted (brown-out, loose plug)."""
        self._turn += 1
        if self._turn % CONTROL_EVERY:
            return
        index = self._turn // CONTROL_EVERY % len(self.bus.ids)
        if not seen.valid[index]:
            return
        servo_id = self.bus.ids[index]
        control = self.bus.read_control(servo_id)
        if control is None:
            return
        on, goal = control
        self.held[index] = self.joints.to_rad(np.full(6, goal))[index] if on else np.nan
        if self._torque and not on:
            self._fault(f"servo {servo_id} has no torque although it was switched on: it restarted (supply or plug?)")

    def _rejoin(self, seen: Snapshot) -> None:
        """Servos that were silent and answer again go on from the goal they really have, so that none of them jumps.

        Until that goal has been read they get none: the arm has braked without them meanwhile.
        """
        self._away |= seen.misses >= self.params.miss_hold
        if not self._torque:
            self._away[:] = False
        for index in np.flatnonzero(self._away & seen.valid).tolist():
            control = self.bus.read_control(self.bus.ids[index])
            if control is None:
                continue
            on, ticks = control
            goal = self.joints.to_rad(np.full(6, ticks))[index] if on else np.nan
            with self.lock:
                self.arm.rejoin(index, float(goal))
            self._away[index] = False

    def _fault(self, why: str, details: str = "") -> None:
        """Latch a fault; it is said once, however often the same is found until a reset."""
        with self.lock:
            known = self.arm.mode in LATCHED and why == self._said
            self.arm.fault(time.monotonic_ns(), why)
        if not known:
            self._said = why
            self._on_event("error", f"{why}\n{details}" if details else why)

    def _lost(self, why: str) -> None:
        """The port is gone: close it, remember to reopen, and tell the arm."""
        if self.connected:
            self._on_event("error", why)
        self.connected = False
        self.bus.close()
        with self.lock:
            self.arm.lose(time.monotonic_ns(), why)

    def _reconnect(self) -> bool:
        """Try to reopen, twice a second. On success the arm stands at its measured pose, still faulted."""
        now_ns = time.monotonic_ns()
        if now_ns - self._reopen_ns < REOPEN_EVERY_S * 1e9:
            return False
        self._reopen_ns = now_ns
        try:
            self.bus.open()
            prepare.expect_same_arm(self.bus, self.eeprom)
            reading = self.bus.read_state()
            seen = update(Snapshot.unknown(6), reading, self.bus.ids, self.joints)
        except DriverError as error:
            self.bus.close()
            if isinstance(error, OtherArmError):
                self._not_ours(str(error))
            return False
        if not seen.complete:
            self.bus.close()
            return False
        self.read_held()
        self.connected = True
        with self.lock:
            self.arm.resume(now_ns, seen, self.held)
            # As found: servos that hold although the arm was never armed must not be let go by a replug.
            self._torque = self.arm.torque
        self._on_event("info", f"{self.bus.path}: the serial device is back and every servo answers")
        return True

    def _not_ours(self, why: str) -> None:
        with self.lock:
            known, self.arm.gone = self.arm.gone, why
        if known != why:
            self._on_event("error", why)

    def read_held(self) -> None:
        """Read which servos hold torque and at which goal. Also called by the owner before `start`."""
        for index, servo_id in enumerate(self.bus.ids):
            control = self.bus.read_control(servo_id) or self.bus.read_control(servo_id)
            on, goal = control or (False, 0)
            self.held[index] = self.joints.to_rad(np.full(6, goal))[index] if on else np.nan
