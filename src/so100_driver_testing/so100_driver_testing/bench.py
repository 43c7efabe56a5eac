"""`./grids bench driver`: bus rate, CPU use and lateness of the driver, on the twin or on a real arm.

Three parts: the rate of one write-and-read cycle on the bus, in this project's bus layer and with Feetech's SDK as
LeRobot uses it; the lateness of the control loop, alone and beside a one-thread inference load; the age of a command
when it reaches the servos (`./grids bench graph` measures the age of the image). The arm holds its pose. The last line
is one JSON object. `--campaign [--short]` runs the fault campaign instead.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from scservo_sdk import GroupSyncRead, GroupSyncWrite, PacketHandler, PortHandler

from grids_common.errors import GridsError
from grids_common.process import Child
from grids_common.so100 import JOINT_NAMES, SERVO_IDS
from so100_driver.bus.bus import ServoBus
from so100_driver.bus.registers import GOAL_POSITION, PRESENT_POSITION
from so100_driver.control import prepare
from so100_driver.control.loop import ControlLoop, TickRecord
from so100_driver.errors import DriverError
from so100_driver.guard.arm import Arm
from so100_driver.guard.intake import Request
from so100_driver.params import DriverParams

# About the load of policy inference: matrix products in one thread, without end.
LOAD = (
    "import os; os.environ.update(OMP_NUM_THREADS='1', OPENBLAS_NUM_THREADS='1')\n"
    "import numpy as np\n"
    "a = np.ones((900, 900), np.float32)\n"
    "while True: a @ a\n"
)


class Meter:
    """Measures rate and CPU use of the calling thread, from construction on."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.monotonic(), time.thread_time()

    def read(self, count: int, cycles_s: list[float]) -> dict:
        """Rate Hz, CPU %, median and 99th percentile of `cycles_s`, ms, over `count` cycles."""
        wall = time.monotonic() - self._wall
        cpu = time.thread_time() - self._cpu
        p50, p99 = np.percentile(cycles_s, (50, 99)) * 1e3
        return {"hz": count / wall, "cpu_percent": 100 * cpu / wall, "p50_ms": float(p50), "p99_ms": float(p99)}


def _repeat(cycle, seconds: float) -> dict:
    meter, cycles, end = Meter(), [], time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.perf_counter()
        cycle()
        cycles.append(time.perf_counter() - began)
    return meter.read(len(cycles), cycles)


def our_cycles(path: str, seconds: float) -> dict[str, dict]:
    """Sync write and sync read with ServoBus: the whole state block, and only the position, as LeRobot reads it."""
    bus = ServoBus(path, SERVO_IDS)
    bus.open()
    try:
        goals = {i: state.position for i, state in bus.read_state().states.items()}
        ids = list(SERVO_IDS)

        def whole() -> None:
            bus.write_goals(goals)
            bus.read_state()

        def position() -> None:
            bus.write_goals(goals)
            bus.sync_read(ids, PRESENT_POSITION.address, PRESENT_POSITION.size)

        cycles = {"ours, position": _repeat(position, seconds), "ours, whole state": _repeat(whole, seconds)}
        errors = sum(c.errors for c in bus.counters.values())
        cycles["ours, whole state"]["bus_errors"] = errors
        return cycles
    finally:
        bus.close()


def sdk_cycles(path: str, seconds: float) -> dict[str, dict]:
    """The same with Feetech's SDK: sync read and sync write as LeRobot does, and one read for each servo."""
    port, packets = PortHandler(path), PacketHandler(0)
    port.openPort()
    try:
        reader = GroupSyncRead(port, packets, PRESENT_POSITION.address, PRESENT_POSITION.size)
        writer = GroupSyncWrite(port, packets, GOAL_POSITION.address, GOAL_POSITION.size)
        for servo_id in SERVO_IDS:
            position, _, _ = packets.read2ByteTxRx(port, servo_id, PRESENT_POSITION.address)
            reader.addParam(servo_id)
            writer.addParam(servo_id, [position & 0xFF, position >> 8])

        def together() -> None:
            writer.txPacket()
            reader.txRxPacket()

        def one_by_one() -> None:
            writer.txPacket()
            for servo_id in SERVO_IDS:
                packets.read2ByteTxRx(port, servo_id, PRESENT_POSITION.address)

        return {
            "SDK, position": _repeat(together, seconds),
            "SDK, one read per servo": _repeat(one_by_one, seconds),
        }
    finally:
        port.closePort()


class LoopBench:
    """Runs the control loop on the bus; chunks at 10 Hz hold the arm's pose."""

    def __init__(self, path: str, params: DriverParams, seconds: float) -> None:
        self.params, self.seconds = params, seconds
        self.bus = ServoBus(path, SERVO_IDS, reply_timeout_s=params.reply_timeout_ms * 1e-3)
        self.bus.open()
        prepare.find_servos(self.bus)
        self.found_torque = any(bool(self.bus.read(i, prepare.reg.TORQUE_ENABLE)) for i in SERVO_IDS)
        joints = prepare.load_calibration(self.bus, "follower", params.calibration, required=False)
        self.arm = Arm(params, joints.low_rad, joints.high_rad)
        self.loop = ControlLoop(
            self.bus,
            self.arm,
            joints,
            params,
            eeprom=prepare.read_eeprom(self.bus),
            on_tick=self._ticked,
            on_event=self._on_event,
            lateness_window_s=2 * seconds + 10,  # the whole run, also on a slow machine
        )
        self._offered: dict[int, int] = {}
        self._ages_s: list[float] = []
        self.events: list[str] = []

    def _on_event(self, _level: str, text: str) -> None:
        self.events.append(text)

    def _ticked(self, record: TickRecord) -> None:
        offered = self._offered.pop(record.output.sequence, None)
        if offered is not None and record.sent is not None:
            self._ages_s.append((record.sent_ns - offered) * 1e-9)

    def _offer(self, sequence: int) -> None:
        now_ns = time.monotonic_ns()
        positions = np.tile(self.arm.motion.position, 30)
        request = Request(JOINT_NAMES, 1 / 30, 30, positions, now_ns, sequence, 0)
        self._offered[sequence] = now_ns
        with self.loop.lock:
            self.arm.offer(now_ns, request)

    def run(self) -> dict:
        """Run for `seconds`: rate, lateness, command age, CPU use, bus errors. DriverError when no goal was sent."""
        self.loop.read_held()
        self.loop.start()
        time.sleep(0.3)
        with self.loop.lock:
            self.arm.activate(time.monotonic_ns(), self.arm.servo_torque.held, "policy")
        time.sleep(0.5)
        ticks, late, cpu, began = self.arm.totals.ticks, self.loop.late_ticks, time.process_time(), time.monotonic()
        errors = sum(c.errors for c in self.bus.counters.values())
        for sequence in range(1, round(self.seconds * 10) + 1):
            # Not a multiple of the loop's period: policies are not in step with it either.
            time.sleep(0.0973)
            self._offer(sequence)
        wall = time.monotonic() - began
        cpu_percent = 100 * (time.process_time() - cpu) / wall
        ticks, late = self.arm.totals.ticks - ticks, self.loop.late_ticks - late
        lateness_ms = np.percentile(self.loop.lateness()[-max(ticks, 1) :], (50, 99, 100)) * 1e3
        if not self._ages_s:
            raise DriverError(f"expected commands to reach the servos, got none: {self.arm.mode}: {self.arm.reason}")
        age_ms = np.percentile(self._ages_s, (50, 99)) * 1e3
        return {
            "rate_hz": ticks / wall,
            "missed_percent": 100 * late / max(ticks + late, 1),
            "lateness_p50_ms": float(lateness_ms[0]),
            "lateness_p99_ms": float(lateness_ms[1]),
            "lateness_max_ms": float(lateness_ms[2]),
            "command_to_servo_p50_ms": float(age_ms[0]),
            "command_to_servo_p99_ms": float(age_ms[1]),
            "cpu_percent": cpu_percent,
            "bus_errors": sum(c.errors for c in self.bus.counters.values()) - errors,
            "realtime": self.loop.realtime[0],
        }

    def close(self) -> None:
        """Switch torque off if it was off before, then close the bus."""
        if not self.found_torque and self.arm.active:
            with self.loop.lock:
                self.arm.release(time.monotonic_ns(), "the bench is over")
            time.sleep(0.1)
        self.loop.stop()
        self.bus.close()


def measure_loop(path: str, params: DriverParams, seconds: float) -> dict:
    """One LoopBench run, closed afterwards."""
    bench = LoopBench(path, params, seconds)
    try:
        return bench.run()
    finally:
        bench.close()


def measure(path: str, params: DriverParams, seconds: float, say) -> dict:
    """Measure all parts; `say` prints each result. DriverError without an arm."""
    result: dict = {"cycles": {}, "loops": {}}
    part = max(seconds / 5, 0.5)
    # Servo settings first: with factory settings a servo waits 0.5 ms before each reply.
    bus = ServoBus(path, SERVO_IDS)
    bus.open()
    try:
        prepare.find_servos(bus)
        prepare.apply_settings(bus, follower=True, write=True)
    finally:
        bus.close()
    say(f"{'bus cycle (write 6 goals, read 6 servos)':42} {'Hz':>7} {'CPU %':>6} {'p50 ms':>7} {'p99 ms':>7}")
    for name, row in (our_cycles(path, part) | sdk_cycles(path, part)).items():
        result["cycles"][name] = row
        say(f"{name:42} {row['hz']:7.0f} {row['cpu_percent']:6.0f} {row['p50_ms']:7.2f} {row['p99_ms']:7.2f}")
    say(
        f"{f'control loop at {params.rate_hz:g} Hz':42} {'Hz':>7} {'CPU %':>6} {'missed %':>8} {'late p50':>8} "
        f"{'p99':>7} {'max ms':>7} {'command to servo p50':>21} {'p99 ms':>7}"
    )
    for name in ("alone", "beside a one-thread inference load"):
        load = Child([sys.executable, "-c", LOAD]) if name != "alone" else None
        try:
            row = measure_loop(path, params, seconds)
        finally:
            if load is not None:
                load.kill()
        result["loops"][name] = row
        say(
            f"{name:42} {row['rate_hz']:7.1f} {row['cpu_percent']:6.0f} {row['missed_percent']:8.2f} "
            f"{row['lateness_p50_ms']:8.3f} {row['lateness_p99_ms']:7.2f} {row['lateness_max_ms']:7.2f} "
            f"{row['command_to_servo_p50_ms']:21.2f} {row['command_to_servo_p99_ms']:7.2f}"
        )
    return result


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main(argv: list[str] | None = None) -> int:
    """Exit code: 0, or 2 when the arm cannot be reached."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if "--campaign" in argv:
        from so100_driver_testing import campaign

        argv.remove("--campaign")
        return campaign.main(argv)
    parser = argparse.ArgumentParser(prog="grids bench driver", description=__doc__.splitlines()[0])
    parser.add_argument("--serial-port", default="", help="a real follower; default: a twin is started")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each control-loop part")
    parser.add_argument("--rate", type=float, default=100.0, help="control rate, Hz")
    parser.add_argument(
        "--campaign", action="store_true", help="run the fault campaign instead (then --help for more: --short …)"
    )
    chosen = parser.parse_args(argv)
    try:
        params = DriverParams(rate_hz=chosen.rate)
        if chosen.serial_port:
            result = measure(chosen.serial_port, params, chosen.seconds, _say)
        else:
            from so100_driver_testing.twin_process import TwinProcess

            with tempfile.TemporaryDirectory(prefix="grids-bench-") as folder:
                twin = TwinProcess(Path(folder))
                try:
                    result = measure(twin.paths["follower"], params, chosen.seconds, _say)
                finally:
                    twin.close()
    except GridsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    _say(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
