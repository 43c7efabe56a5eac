"""`./grids doctor`: checks everything that a run needs and prints a fix for each problem.

One line for each check: OK, WARN or FAIL, what was found, and the fix. Nothing is moved, written or configured.
"""

import argparse
import json
import os
import resource
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from xml.etree import ElementTree as Xml

import numpy as np

from grids_common.errors import GridsError
from grids_common.host import robots
from grids_common.host.middleware import installed_rmws, refuse_missing_rmw
from grids_common.params import NO_CLOCK, ParameterError
from grids_common.site_files import asks_for_sim_time
from grids_common.so100 import SERVO_IDS
from grids_data.calibration import FULL_TURN
from so100_driver.bus import registers as reg
from so100_driver.bus.bus import ServoBus
from so100_driver.bus.port import candidates
from so100_driver.bus.protocol import VOLTAGE_UNIT_V
from so100_driver.control import fitness, prepare
from so100_driver.errors import PortError
from so100_driver.guard.health import servo
from so100_driver.params import DriverParams
from so100_driver.setup import site

SEGMENT_BYTES = 4 << 20
LATENCY_TIMER_MS = 1
UDEV_RULE = 'SUBSYSTEM=="tty", ATTRS{idVendor}=="1a86", MODE="0666"'
UDEV_FIX = f"echo '{UDEV_RULE}' | sudo tee /etc/udev/rules.d/99-so100.rules && sudo udevadm control --reload"
RT_FIX = "printf '@dialout - rtprio 60\\n@dialout - memlock unlimited\\n' | sudo tee /etc/security/limits.d/so100.conf"
PATIENCE_S = 0.02


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check. `level`: OK, WARN (works, but not as well as it could) or FAIL (will not work)."""

    level: str
    what: str
    found: str
    fix: str = ""

    def __str__(self) -> str:
        arrow = f"\n       -> {self.fix}" if self.fix else ""
        return f"{self.level:4}  {self.what}: {self.found}{arrow}"


def ok(what: str, found: str) -> CheckResult:
    """A check without a problem."""
    return CheckResult("OK", what, found)


# -- the machine -------------------------------------------------------------------------------------------------------


def realtime() -> Iterable[CheckResult]:
    """Check the permission for SCHED_FIFO."""
    limit = resource.getrlimit(resource.RLIMIT_RTPRIO)[0]
    if os.geteuid() == 0 or limit >= DriverParams().realtime_priority or limit == resource.RLIM_INFINITY:
        yield ok("real-time", "SCHED_FIFO is permitted")
    else:
        yield CheckResult(
            "WARN", "real-time", f"rtprio limit is {limit}: ticks may be a few ms late under load", RT_FIX
        )


def middleware() -> Iterable[CheckResult]:
    """Check that the middleware named by RMW_IMPLEMENTATION is installed."""
    try:
        refuse_missing_rmw()
    except ParameterError as error:
        found, _, fix = str(error).partition("RMW_IMPLEMENTATION: ")[2].partition(": ")
        yield CheckResult("FAIL", "RMW_IMPLEMENTATION", found, fix)
    else:
        yield ok("RMW_IMPLEMENTATION", os.environ.get("RMW_IMPLEMENTATION") or f"not set; {installed_rmws()}")


def clock() -> Iterable[CheckResult]:
    """Check that no file of config/ asks for simulated time, which nobody in a run publishes."""
    folder = site.default_file().parent
    asking = [path.name for path in sorted(folder.glob("*.yaml")) if asks_for_sim_time(path)]
    if asking:
        yield CheckResult("FAIL", "clock", f"use_sim_time is set in {', '.join(asking)}", f"as a run says: {NO_CLOCK}")
    else:
        yield ok("clock", f"the computer's: no file in {folder} sets use_sim_time")


def dds() -> Iterable[CheckResult]:
    """Check the DDS profile (shared-memory segment) and the discovery range."""
    path = os.environ.get("FASTRTPS_DEFAULT_PROFILES_FILE") or os.environ.get("FASTDDS_DEFAULT_PROFILES_FILE")
    profile = site.default_file().with_name("fastdds.xml")
    fix = f"export FASTRTPS_DEFAULT_PROFILES_FILE={shlex.quote(str(profile))}, as ./grids does"
    if not path:
        yield CheckResult("WARN", "DDS profile", "none: images larger than 512 kB arrive late or not at all", fix)
    else:
        yield _profile(Path(path), fix)
    reach = os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")
    if reach in ("LOCALHOST", "OFF"):
        yield ok("DDS discovery", f"{reach}, domain {os.environ.get('ROS_DOMAIN_ID', '0')}")
    else:
        fix = "export ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST"
        yield CheckResult("WARN", "DDS discovery", f"{reach}: other machines can command this arm", fix)


def _profile(path: Path, fix: str) -> CheckResult:
    try:
        tree = Xml.parse(path)
    except (OSError, Xml.ParseError) as error:
        return CheckResult("FAIL", "DDS profile", f"{path}: {error}", fix)
    sizes = [
        int(e.text or 0) for e in tree.iter() if e.tag.endswith("segment_size") and (e.text or "").strip().isdigit()
    ]
    if not sizes or max(sizes) < SEGMENT_BYTES:
        found = f"{path}: shared-memory segment {max(sizes, default=0)} bytes, expected at least {SEGMENT_BYTES}"
        return CheckResult("WARN", "DDS profile", found, fix)
    return ok("DDS profile", f"{path}, {max(sizes) >> 20} MB segments")


def gpu() -> Iterable[CheckResult]:
    """Check the NVIDIA driver and ONNX Runtime."""
    if tool := shutil.which("nvidia-smi"):
        query = [tool, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=False)
        name = answer.stdout.strip() or answer.stderr.strip()
        yield (
            ok("GPU", name)
            if answer.returncode == 0
            else CheckResult("WARN", "GPU", name, "reinstall the NVIDIA driver")
        )
    else:
        fix = "sudo ubuntu-drivers install, then restart; without a GPU nothing needs to be done"
        yield CheckResult("WARN", "GPU", "no NVIDIA driver: policies run on the CPU, more slowly", fix)
    try:
        import onnxruntime
    except ImportError as error:
        yield CheckResult(
            "FAIL", "ONNX Runtime", f"{error}", "rm .grids/runtime.inputs; bash requirements/setup.sh runtime"
        )
        return
    yield ok("ONNX Runtime", f"{onnxruntime.__version__}: {', '.join(onnxruntime.get_available_providers())}")


def cameras() -> Iterable[CheckResult]:
    """Check the RealSense cameras: found, USB 3."""
    videos = sorted(str(p) for p in Path("/dev").glob("video*"))
    try:
        import pyrealsense2
    except ImportError as error:
        level = "WARN" if not videos else "FAIL"
        fix = "rm -f .grids/hardware.inputs; bash requirements/setup.sh hardware"
        yield CheckResult(level, "cameras", f"librealsense cannot be loaded ({error}); V4L2: {videos or 'none'}", fix)
        return
    info = pyrealsense2.camera_info
    devices = list(pyrealsense2.context().query_devices())
    if not devices:
        yield CheckResult(
            "WARN",
            "cameras",
            f"no RealSense found; V4L2: {videos or 'none'}",
            "not needed for the twin; else replug the camera",
        )
    for device in devices:
        name, serial = device.get_info(info.name), device.get_info(info.serial_number)
        usb, firmware = device.get_info(info.usb_type_descriptor), device.get_info(info.firmware_version)
        found = f"serial {serial}, firmware {firmware}, USB {usb}"
        slow = not usb.startswith("3")
        yield CheckResult("WARN", name, found, "use a USB 3 port and cable") if slow else ok(name, found)


# -- an arm ------------------------------------------------------------------------------------------------------------


def ports() -> Iterable[CheckResult]:
    """Check the serial devices and their permissions."""
    found = candidates()
    if not found:
        yield CheckResult("WARN", "serial devices", "none", "not needed for the twin; else plug the adapter in")
    for path in found:
        if os.access(path, os.R_OK | os.W_OK):
            yield ok("serial device", path)
        else:
            yield CheckResult(
                "FAIL", "serial device", f"{path}: not permitted", f"sudo usermod -aG dialout $USER, or {UDEV_FIX}"
            )
        yield from latency_timer(path)


def latency_timer(path: str) -> Iterable[CheckResult]:
    """Check the latency timer of an FTDI adapter: by default it collects received bytes for 16 ms."""
    timer = Path("/sys/bus/usb-serial/devices") / Path(os.path.realpath(path)).name / "latency_timer"
    if timer.is_file():
        value = int(timer.read_text())
        if value > LATENCY_TIMER_MS:
            yield CheckResult(
                "WARN", f"{path} latency timer", f"{value} ms", f"echo {LATENCY_TIMER_MS} | sudo tee {timer}"
            )


def arm(name: str, path: str, calibration: str = "") -> Iterable[CheckResult]:
    """Check one arm: servos, model, firmware, supply, temperature, status, position limits, calibration (if named)."""
    bus = ServoBus(path, SERVO_IDS, reply_timeout_s=PATIENCE_S)
    try:
        bus.open()
    except PortError as error:
        fix = f"as it says; or name another device: ./grids doctor --{name} PATH"
        yield CheckResult("FAIL", name, str(error), fix)
        return
    try:
        with bus.patient():
            yield from _examined(name, bus, calibration)
    except GridsError as error:
        yield CheckResult("FAIL", name, str(error), "as it says, then run this again")
    finally:
        bus.close()


def _examined(name: str, bus: ServoBus, calibration: str) -> Iterable[CheckResult]:
    """The checks of one arm on its open bus."""
    missing = prepare.silent(bus)
    found = [servo_id for i, servo_id in enumerate(SERVO_IDS) if i not in missing]
    if missing:
        cause = prepare.silence(bus, missing)
        what = cause.found or f"no answer from {[SERVO_IDS[i] for i in missing]}"
        yield CheckResult("FAIL", name, f"{bus.path}: expected servos {list(SERVO_IDS)}, {what}", cause.fix)
    else:
        yield ok(name, f"{bus.path}: servos {found} at {bus.port.baudrate} bit/s")
    if found:
        yield from _servos(name, bus, found)
    if len(found) == len(SERVO_IDS):
        yield from _range(name, bus, calibration)


def unexamined() -> Iterable[CheckResult]:
    """Warn that no arm was checked."""
    fix = "--follower PATH and --leader PATH, or serial_port of driver and leader in config/arm.yaml"
    there = len(candidates())
    fix = fix if there else "not needed for the twin; else plug the adapter in"
    yield CheckResult("WARN", "arms", f"none was examined: {there} serial devices and none chosen", fix)


def _servos(name: str, bus: ServoBus, found: list[int]) -> Iterable[CheckResult]:
    def read(register: reg.Register) -> dict[int, int]:
        return {i: bus.read(i, register) for i in found}

    wrong = {i: m for i, m in read(reg.MODEL_NUMBER).items() if m != reg.MODEL_STS3215}
    if wrong:
        found_models = f"expected {reg.MODEL_STS3215} (STS3215), got {wrong}"
        yield CheckResult(
            "FAIL", f"{name} model", found_models, "use STS3215 servos: others have different ticks and limits"
        )
    major, minor = read(reg.FIRMWARE_MAJOR), read(reg.FIRMWARE_MINOR)
    versions = {f"{major[i]}.{minor[i]}" for i in found}
    if len(versions) > 1:
        listed = ", ".join(f"id {i}: {major[i]}.{minor[i]}" for i in found)
        yield CheckResult(
            "WARN", f"{name} firmware", listed, "LeRobot refuses mixed versions: update with Feetech's FD tool"
        )
    else:
        yield ok(f"{name} firmware", versions.pop())
    yield from _condition(name, fitness.read(bus, found), torque=any(read(reg.TORQUE_ENABLE).values()))
    silent_writes = [servo(i - 1) for i, level in read(reg.RESPONSE_LEVEL).items() if not level]
    if silent_writes:
        what = f"Response_Status_Level is 0 in {', '.join(silent_writes)}: what is written is not confirmed"
        yield CheckResult("FAIL", f"{name} settings", what, "set it to 1 with Feetech's FD tool")


def _condition(name: str, servos: fitness.Servos, *, torque: bool) -> Iterable[CheckResult]:
    """Supply, temperature, status and settings of the servos, judged by their own limits."""
    params, problems = DriverParams(), fitness.judge(servos)
    volts = fitness.measured(servos, reg.PRESENT_VOLTAGE, VOLTAGE_UNIT_V)
    heat = fitness.measured(servos, reg.PRESENT_TEMPERATURE)
    wrong = {problem.what for problem in problems}
    if fitness.SUPPLY not in wrong:
        text = f"{np.nanmin(volts):.1f} to {np.nanmax(volts):.1f} V"
        low = np.nanmin(volts) < params.voltage_warn
        what = f"{name} supply"
        yield CheckResult("WARN", what, text, "use a stronger supply, shorter leads") if low else ok(what, text)
    if fitness.TEMPERATURE not in wrong:
        hot = int(np.nanargmax(heat))
        text, what = f"warmest {servo(hot)}, {heat[hot]:.0f} degC", f"{name} temperature"
        yield CheckResult("WARN", what, text, "let it cool") if heat[hot] >= params.temperature_warn else ok(what, text)
    for problem in problems:
        mended = problem.fix is fitness.BY_DRIVER and not torque  # at the driver's next start
        level = "FAIL" if problem.refused and not mended else "WARN"
        yield CheckResult(level, f"{name} {problem.what}", problem.found, problem.fix)


def _range(name: str, bus: ServoBus, calibration: str) -> Iterable[CheckResult]:
    """Check where the joints may be driven: by the named calibration, else by the servos' own limits."""
    eeprom, again = prepare.read_eeprom(bus), prepare.calibrate_command(name, bus.path)
    free = [joint for joint, (_, *ends) in eeprom.items() if tuple(ends) in prepare.UNLIMITED and joint != FULL_TURN]
    try:
        joints = prepare.load_calibration(bus, name, calibration, required=False)
    except GridsError as error:
        yield CheckResult("FAIL", f"{name} limits", str(error), f"as it says; or calibrate again: {again}")
        return
    if free and not calibration:
        found = f"no position limits in {', '.join(free)}: they are driven within the arm's mechanical limits"
        fix = f"not needed for the twin; a real arm: {again}"
        yield CheckResult("WARN", f"{name} limits", found, fix)
    for text in joints.out_of_reach():
        found, _, fix = text.rpartition(": ")
        yield CheckResult("WARN", f"{name} limits", found, fix)
    if joints.out_of_reach() or (free and not calibration):
        return
    ranges = zip(eeprom, joints.low_rad, joints.high_rad, strict=True)
    yield ok(f"{name} limits", ", ".join(f"{joint} {low:.2f} to {high:.2f} rad" for joint, low, high in ranges))


# -- command -----------------------------------------------------------------------------------------------------------


def examine(arms: dict[str, str], calibrations: dict[str, str] | None = None) -> Iterable[CheckResult]:
    """Run every check; one that raises an error gives a FAIL line.

    `arms`: serial device by arm. `calibrations`: LeRobot calibration (file or name) by arm, where one is named.
    """
    known = calibrations or {}
    checks: list[tuple[str, Callable[[], Iterable[CheckResult]]]] = [
        ("serial devices", ports),
        *((name, lambda name=name, path=path: arm(name, path, known.get(name, ""))) for name, path in arms.items()),
        *([] if arms else [("arms", unexamined)]),
        ("cameras", cameras),
        ("GPU", gpu),
        ("RMW_IMPLEMENTATION", middleware),
        ("clock", clock),
        ("DDS", dds),
        ("real-time", realtime),
    ]
    for name, check in checks:
        try:
            yield from check()
        except (OSError, ValueError, RuntimeError, subprocess.SubprocessError) as error:
            fix = "remove the cause, then run this again; the other lines are valid"
            yield CheckResult("FAIL", name, f"could not be checked: {error}", fix)


def choose(chosen: argparse.Namespace) -> dict[str, str]:
    """Serial device by arm: command line, else config/arm.yaml, else the only device as the follower."""
    given = {"follower": chosen.follower, "leader": chosen.leader}
    arms = site.serial_ports(chosen.config, chosen.robot) | {arm: port for arm, port in given.items() if port}
    there = candidates()
    return arms or ({"follower": there[0]} if len(there) == 1 else {})


def main(argv: list[str] | None = None) -> int:
    """Exit code: 0 without a FAIL line, 1 with one."""
    parser = argparse.ArgumentParser(prog="grids doctor", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--follower", default="", help="serial device of the follower; default: config/arm.yaml, else the only device"
    )
    parser.add_argument("--leader", default="", help="serial device of the leader; default: config/arm.yaml")
    parser.add_argument("--config", default="", help="file with both serial ports; default: config/arm.yaml")
    parser.add_argument("--robot", type=robots.option, default="", help=robots.OPTION_TEXT)
    parser.add_argument("--json", action="store_true", help="one JSON list instead of text")
    chosen = parser.parse_args(argv)
    lines: list[CheckResult] = []

    def say(line: CheckResult) -> None:
        lines.append(line)
        if not chosen.json:
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()

    try:
        arms, calibrations = choose(chosen), site.calibrations(chosen.config, chosen.robot)
    except ParameterError as error:
        say(CheckResult("FAIL", "arm.yaml", str(error), "correct it, or name the devices with --follower and --leader"))
        arms, calibrations = {}, {}
    for line in examine(arms, calibrations):
        say(line)
    counts = {level: sum(line.level == level for line in lines) for level in ("OK", "WARN", "FAIL")}
    if chosen.json:
        sys.stdout.write(json.dumps([asdict(line) for line in lines]) + "\n")
    else:
        sys.stdout.write(", ".join(f"{count} {level}" for level, count in counts.items()) + "\n")
    return 1 if counts["FAIL"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
