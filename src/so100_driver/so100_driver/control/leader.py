"""Reads a leader arm in its own thread, the only user of its bus: torque off, fixed rate, reconnect."""

import threading
import time
import traceback
from collections.abc import Callable

from grids_common.host.realtime import request_realtime, shorten_switch_interval
from grids_common.pacing import Pacer
from grids_data.calibration import JointMap
from so100_driver.bus.bus import ServoBus
from so100_driver.control import prepare
from so100_driver.errors import DriverError, OtherArmError, PortError
from so100_driver.guard.state import ArmState, update
from so100_driver.guard.teleop import GRIPPER, Squeezes
from so100_driver.params import LeaderParams

REOPEN_EVERY_S = 0.5
TORQUE_CHECK_TICKS = 100


class LeaderLoop:
    """Calls, from its thread, `on_state` for each tick in which every servo answered, and `on_squeezes` for a stop."""

    def __init__(
        self,
        bus: ServoBus,
        joints: JointMap,
        params: LeaderParams,
        *,
        eeprom: prepare.Eeprom,
        on_state: Callable[[ArmState], None],
        on_squeezes: Callable[[], None],
        on_event: Callable[[str, str], None],
    ) -> None:
        self.bus, self.joints, self.params = bus, joints, params
        self.eeprom = eeprom  # identifies the arm: after a replug no other one is accepted
        self.bus_problem = ""  # why the bus cannot be used, "" while it can
        self.seen = ArmState.unknown(6)
        self.ticks = self.late_ticks = 0
        self.connected = True
        self._on_state, self._on_squeezes, self._on_event = on_state, on_squeezes, on_event
        self._squeezes = Squeezes()
        self._reopen_s = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="so100-leader", daemon=True)

    def start(self) -> None:
        """Start the reading thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the reading thread; waits up to 2 s."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2.0)

    def _run(self) -> None:
        shorten_switch_interval()
        self._on_event("info", request_realtime(self.params.realtime_priority)[1])
        pacer = Pacer(self.params.rate_hz)
        while not self._stop.is_set():
            self.late_ticks += pacer.wait().missed
            self.ticks += 1
            try:
                self._tick()
            except PortError as error:
                self._lost(str(error))
            except Exception:
                # The thread must not end; the follower stops by itself when no samples come.
                self._on_event("error", f"reading the leader failed: {traceback.format_exc()}")

    def _tick(self) -> None:
        if not self.connected and not self._reconnect():
            return
        if self.ticks % TORQUE_CHECK_TICKS == 0:
            self._keep_free()
        reading = self.bus.read_state(budget_s=0.4 / self.params.rate_hz)
        self.seen = update(self.seen, reading, self.bus.ids, self.joints)
        if self.seen.valid.all():
            self._watch_squeezes(time.monotonic_ns())
            self._on_state(self.seen)

    def _keep_free(self) -> None:
        """Switch torque off where a servo has it (a former follower, or a restart), so that a person can move it."""
        for servo_id in self.bus.ids:
            control = self.bus.read_control(servo_id)
            if control is not None and control[0]:
                self.bus.set_torque({servo_id: False})

    def _watch_squeezes(self, now_ns: int) -> None:
        needed = self.params.estop_squeezes
        if not needed:
            return
        self._squeezes = self._squeezes.update(
            now_ns,
            float(self.seen.position[GRIPPER]),
            low=float(self.joints.swept[0, GRIPPER]),
            high=float(self.joints.swept[1, GRIPPER]),
            window_s=self.params.estop_window,
        )
        if len(self._squeezes.times_ns) >= needed:
            self._squeezes = Squeezes(closed=self._squeezes.closed)
            self._on_squeezes()

    def _lost(self, why: str) -> None:
        if self.bus_problem != why:
            self._on_event("error", why)
        self.connected, self.bus_problem = False, why
        self.bus.close()

    def _reconnect(self) -> bool:
        if time.monotonic() - self._reopen_s < REOPEN_EVERY_S:
            return False
        self._reopen_s = time.monotonic()
        try:
            self.bus.open()
            prepare.expect_same_arm(self.bus, self.eeprom)
            self.bus.set_torque(dict.fromkeys(self.bus.ids, False))
        except OtherArmError as error:
            self._lost(str(error))
            return False
        except DriverError:
            self.bus.close()
            return False
        self.connected, self.bus_problem = True, ""
        self._on_event("info", f"{self.bus.path}: the leader is back")
        return True
