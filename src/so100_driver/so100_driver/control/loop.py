"""The control loop of the follower: one thread at a fixed rate, the only user of the bus while it runs.

Each tick first writes the goal, at the deadline, and then reads the state, so a slow or lost reply delays no goal. The
thread does not end on errors: an exception in a tick latches a fault, and a lost port is reopened every half second.
"""

import contextlib
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from grids_common.host.realtime import request_realtime, shorten_switch_interval
from grids_common.pacing import Pacer
from grids_data.calibration import JointMap
from so100_driver.bus.bus import ServoBus
from so100_driver.bus.registers import GOAL_POSITION, TORQUE_ENABLE
from so100_driver.bus.users import users_of
from so100_driver.control import prepare
from so100_driver.errors import DriverError, NoReplyError, OtherArmError, PortError
from so100_driver.guard.arbiter import LATCHED
from so100_driver.guard.arm import Arm
from so100_driver.guard.state import ArmState, update
from so100_driver.guard.torque import Order
from so100_driver.guard.view import NO_OUTPUT, ArmView, Output
from so100_driver.params import DriverParams

REOPEN_EVERY_S = 0.5
CONTROL_EVERY = 10  # ticks between reads of the torque and goal registers of one servo
LATENESS_WINDOW_S = 10.0


@dataclass(frozen=True, slots=True)
class TickRecord:
    """What one tick did, for publishers. Times monotonic ns. `sent`: the goal rounded to ticks, (joints,) rad."""

    woke_ns: int
    sent_ns: int
    output: Output
    sent: np.ndarray | None
    view: ArmView


class ControlLoop:
    """Runs an `Arm` on a `ServoBus`. `lock` guards the arm: hold it around every call of the arm."""

    def __init__(
        self,
        bus: ServoBus,
        arm: Arm,
        joints: JointMap,
        params: DriverParams,
        *,
        eeprom: prepare.Eeprom,
        on_tick: Callable[[TickRecord], None],
        on_event: Callable[[str, str], None],
        lateness_window_s: float = LATENESS_WINDOW_S,
    ) -> None:
        self.bus, self.arm, self.joints, self.params = bus, arm, joints, params
        self.eeprom = eeprom  # identifies the arm: after a replug no other one is accepted
        self.lock = threading.Lock()
        self.late_ticks = 0
        self.connected = True
        self.realtime = (False, "")
        self._on_tick, self._on_event = on_tick, on_event
        self._lateness: deque[float] = deque(maxlen=max(1, round(lateness_window_s * params.rate_hz)))
        self._away = np.zeros(6, bool)  # servos that were silent and whose goal has not been read since
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="so100-loop", daemon=True)
        self._sent_ns = self._written_ns = 0
        self._reopen_ns = 0
        self._turn = 0
        self._woke_ns = 0
        self._reported_fault = ""  # the last fault given to on_event
        self._quiet = False  # a servo is silent, and who else uses the port was looked for

    # -- any thread --------------------------------------------------------------------------------------------------
    def start(self) -> None:
        """Start the loop thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the loop; servos keep holding their last goal."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2.0)

    def lateness_p99_s(self) -> float:
        """99th percentile of how late the last ticks began, s."""
        values = sorted(self._lateness.copy())
        return values[int(0.99 * (len(values) - 1))] if values else 0.0

    @property
    def lateness_room(self) -> int:
        """Number of ticks that `lateness` keeps."""
        return self._lateness.maxlen

    def lateness(self) -> list[float]:
        """How late each of the last ticks began, s, oldest first."""
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
                with contextlib.suppress(Exception):  # reporting itself may have failed
                    self._report_nothing()

    def _tick(self) -> None:
        if not self.connected and not self._reconnect():
            self._report_nothing()
            return
        now_ns = time.monotonic_ns()
        # Time since the last goal; a stall counts as at most 1.5 ticks, so the goal never jumps.
        elapsed_s = (now_ns - self._sent_ns) * 1e-9
        dt_s = min(max(elapsed_s, 0.2 * self.params.period_s), 1.5 * self.params.period_s)
        with self.lock:
            output = self.arm.tick(now_ns, dt_s)
        self._carry_out(output)
        sent = None
        if output.goal is not None and self.arm.servo_torque.driven:
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
        self._look_for_others(seen)
        self._rejoin(seen)
        self._report(output, sent)

    @staticmethod
    def _clip(ticks: np.ndarray) -> np.ndarray:
        return np.clip(ticks, 0, 4095)

    def _report_nothing(self) -> None:
        """Report a tick without a reading: the last state is no longer valid."""
        with self.lock:
            self.arm.forget_seen()
        self._report(replace(NO_OUTPUT, torque=self.arm.torque, source="hold"), None)

    def _report(self, output: Output, sent: np.ndarray | None) -> None:
        with self.lock:
            view = self.arm.view()
        self._on_tick(TickRecord(self._woke_ns, self._written_ns, output, sent, view))

    def _carry_out(self, output: Output) -> None:
        """Switch torque as ordered and report to the arm what the servos confirm."""
        if output.order is None:
            return
        if output.order.on:
            self._engage(output.order, output.goal)
        else:
            self._release(output.order)

    def _engage(self, order: Order, goal: np.ndarray) -> None:
        """Write every servo's goal, acknowledged, then switch torque on."""
        ticks = self._clip(self.joints.to_ticks(goal))
        try:
            for servo_id, position in zip(self.bus.ids, ticks.tolist(), strict=True):
                self.bus.write(servo_id, GOAL_POSITION, position, tries=4)
        except NoReplyError as error:
            with self.lock:
                self.arm.servo_torque.refused(order)
            self._fault(f"{error}: torque was not switched on")
            return
        failed = self.bus.set_torque(dict.fromkeys(self.bus.ids, True))
        with self.lock:
            self.arm.servo_torque.engaged(order, self.joints.to_rad(ticks), self._indices(failed))
        if failed:
            self._fault(f"servos {failed} did not confirm torque on")

    def _release(self, order: Order) -> None:
        """Switch torque off: read it back from the confirming servos, do not wait for the silent ones."""
        confirming, silent = ([self.bus.ids[i] for i in indices] for indices in (order.confirming, order.silent))
        if silent:
            self.bus.sync_write(TORQUE_ENABLE, dict.fromkeys(silent, 0))
        failed = self.bus.set_torque(dict.fromkeys(confirming, False)) if confirming else []
        with self.lock:
            self.arm.servo_torque.released(order, self._indices(failed))
        if failed and order.first:
            self._fault(f"servos {failed} did not confirm torque off: repeating until they do")

    def _indices(self, servo_ids: list[int]) -> list[int]:
        return [self.bus.ids.index(servo_id) for servo_id in servo_ids]

    def _check_control(self, seen: ArmState) -> None:
        """Read back one servo after the other: one that lost its torque by itself has restarted (supply, plug)."""
        self._turn += 1
        if self._turn % CONTROL_EVERY:
            return
        index = self._turn // CONTROL_EVERY % len(self.bus.ids)
        if not seen.valid[index]:
            return
        servo_id = self.bus.ids[index]
        goal = self._goal_of(index)
        if goal is None:
            return
        with self.lock:
            lost = self.arm.servo_torque.read_back(index, goal)
        if lost:
            self._fault(f"servo {servo_id} has no torque although it was switched on: it restarted (supply or plug?)")

    def _look_for_others(self, seen: ArmState) -> None:
        """Name a program that takes the replies away, once for each silence; outside the loop, as /proc takes 10 ms."""
        quiet = bool((seen.misses >= self.params.miss_hold).any())
        if quiet and not self._quiet:
            threading.Thread(target=self._name_others, name="so100-port-users", daemon=True).start()
        self._quiet = quiet

    def _name_others(self) -> None:
        if taken := users_of(self.bus.path).sentence(self.bus.path):
            self._on_event("error", taken)

    def _goal_of(self, index: int) -> float | None:
        """Goal of one servo, rad, NaN when it has no torque; None without a reply."""
        control = self.bus.read_control(self.bus.ids[index])
        if control is None:
            return None
        on, ticks = control
        return float(self.joints.to_rad(np.full(6, ticks))[index]) if on else float("nan")

    def _rejoin(self, seen: ArmState) -> None:
        """Let servos that answer again continue from the goal they really have, so that none of them jumps.

        They get no new goal before theirs has been read: the arm has braked without them.
        """
        self._away |= seen.misses >= self.params.miss_hold
        if not self.arm.servo_torque.driven:
            self._away[:] = False
        for index in np.flatnonzero(self._away & seen.valid).tolist():
            goal = self._goal_of(index)
            if goal is None:
                continue
            with self.lock:
                self.arm.rejoin(index, goal)
            self._away[index] = False

    def _fault(self, why: str, details: str = "") -> None:
        """Latch a fault and report it; the same fault is reported once until a reset."""
        with self.lock:
            known = self.arm.mode in LATCHED and why == self._reported_fault
            self.arm.fault(time.monotonic_ns(), why)
        if not known:
            self._reported_fault = why
            self._on_event("error", f"{why}\n{details}" if details else why)

    def _lost(self, why: str) -> None:
        """The port failed: close it for a later reopen and latch a fault."""
        if self.connected:
            self._on_event("error", why)
        self.connected = False
        self.bus.close()
        with self.lock:
            self.arm.lose(time.monotonic_ns(), why)

    def _reconnect(self) -> bool:
        """Try to reopen, twice a second. On success the arm stands at its measured pose; the fault stays latched."""
        now_ns = time.monotonic_ns()
        if now_ns - self._reopen_ns < REOPEN_EVERY_S * 1e9:
            return False
        self._reopen_ns = now_ns
        try:
            self.bus.open()
            prepare.expect_same_arm(self.bus, self.eeprom)
            reading = self.bus.read_state()
            seen = update(ArmState.unknown(6), reading, self.bus.ids, self.joints)
        except DriverError as error:
            self.bus.close()
            if isinstance(error, OtherArmError):
                self._report_other_arm(str(error))
            return False
        if not seen.complete:
            self.bus.close()
            return False
        held = self._held()
        self.connected = True
        with self.lock:
            self.arm.resume(now_ns, seen, held)
        self._on_event("info", f"{self.bus.path}: the serial device is back and every servo answers")
        return True

    def _report_other_arm(self, why: str) -> None:
        with self.lock:
            changed = self.arm.still_without_bus(why)
        if changed:
            self._on_event("error", why)

    def _held(self) -> np.ndarray:
        """Goal of each servo with torque (joints,) rad; NaN without torque or after two reads without a reply."""
        held = np.full(len(self.bus.ids), np.nan)
        for index in range(len(held)):
            goal = self._goal_of(index)
            goal = self._goal_of(index) if goal is None else goal
            held[index] = np.nan if goal is None else goal
        return held

    def read_held(self) -> None:
        """Read which servos have torque and at which goal. Call it before `start`."""
        self.arm.servo_torque.returned(self._held())
