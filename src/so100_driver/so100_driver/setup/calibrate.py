"""`./grids calibrate --arm follower|leader`: guided calibration in LeRobot's format.

The steps are LeRobot's: arm in the middle pose, then every joint to both stops. Offsets and limits are written to the
servos' EEPROM and to a LeRobot file, so both programs can use the arm. `--write` and `--read` copy
from the file to the servos and back. A run interrupted between the steps can be continued. Differences are shown
before anything is overwritten.
"""

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from grids_common.errors import GridsError
from grids_common.host import robots
from grids_common.params import ParameterError
from grids_common.so100 import JOINT_NAMES, SERVO_IDS
from grids_data import calibration as cal
from so100_driver.bus import registers as reg
from so100_driver.bus.bus import ServoBus
from so100_driver.bus.port import candidates
from so100_driver.control import prepare
from so100_driver.errors import DriverError
from so100_driver.setup import site
from so100_driver.setup.sweep import Sweep, gripper_inverted, homing_offsets, off_middle

POLL_S = 0.02
PATIENCE_S = 0.03  # longer than in the driver: calibration is not in a hurry


@dataclass(frozen=True, slots=True)
class Person:
    """The user at the terminal. `ask` returns the typed line; `say` prints a line; `live` rewrites the last one."""

    ask: Callable[[str], str]
    say: Callable[[str], None]
    live: Callable[[str], None]


class Refused(DriverError):  # noqa: N818 - named after the event
    """The user refused, or the measured values cannot be a calibration."""


def _ticks(bus: ServoBus) -> np.ndarray:
    return np.array([bus.read(i, reg.PRESENT_POSITION) for i in SERVO_IDS])


def _agree(person: Person, question: str) -> None:
    if person.ask(f"{question} [y/N] ").strip().lower() not in ("y", "yes"):
        raise Refused("nothing was changed")


def _write(bus: ServoBus, calibration: cal.Calibration) -> None:
    """Write offsets and limits to EEPROM and read them back."""
    for joint in calibration.values():
        values = [
            (reg.HOMING_OFFSET, joint.homing_offset),
            (reg.MIN_POSITION, joint.range_min),
            (reg.MAX_POSITION, joint.range_max),
        ]
        bus.write_eeprom(joint.id, values)
    if lines := cal.mismatches(calibration, prepare.read_eeprom(bus)):
        raise DriverError("the servos did not keep what was written: " + "; ".join(lines))


def _release(bus: ServoBus, person: Person) -> None:
    """Switch torque off; asks first when it is on, because the arm will fall."""
    if any(bus.read(i, reg.TORQUE_ENABLE) for i in SERVO_IDS):
        _agree(person, "Torque is on and will be released: hold the arm. Ready?")
    if failed := bus.set_torque(dict.fromkeys(SERVO_IDS, False)):
        raise DriverError(f"servos {failed} did not confirm that torque is off")


class CalibrationProgress:
    """Finished steps of a calibration, in a file beside the calibration file until that is complete."""

    def __init__(self, path: Path) -> None:
        self.path = path.with_suffix(".progress.json")

    def load(self) -> np.ndarray | None:
        """Return the offsets (joints,) of a finished middle step, ticks, or None."""
        try:
            offsets = json.loads(self.path.read_text(encoding="utf-8"))["offsets"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        good = isinstance(offsets, list) and len(offsets) == len(SERVO_IDS) and all(type(o) is int for o in offsets)
        return np.array(offsets) if good else None

    def save(self, offsets: np.ndarray) -> None:
        """Store the offsets (joints,), ticks, of the middle step."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps({"offsets": offsets.tolist()}), encoding="utf-8")

    def clear(self) -> None:
        """Delete the file."""
        self.path.unlink(missing_ok=True)


def find_middle(bus: ServoBus, person: Person, progress: CalibrationProgress) -> np.ndarray:
    """Step 1: offsets (joints,) that make the middle pose read tick 2047. Skipped if an earlier run finished it."""
    done = progress.load()
    if done is not None and np.array_equal(done, [bus.read(i, reg.HOMING_OFFSET) for i in SERVO_IDS]):
        person.say("The middle pose was recorded before: continuing with the sweep.")
        return done
    person.ask("Move every joint to the middle of its range, then press ENTER. ")
    for servo_id in SERVO_IDS:
        phase = bus.read(servo_id, reg.PHASE) & ~reg.PHASE_MULTI_TURN
        bus.write_eeprom(
            servo_id,
            [
                (reg.OPERATING_MODE, 0),
                (reg.PHASE, phase),
                (reg.HOMING_OFFSET, 0),
                (reg.MIN_POSITION, 0),
                (reg.MAX_POSITION, 4095),
            ],
        )
    time.sleep(0.05)
    offsets = homing_offsets(_ticks(bus))
    for servo_id, offset in zip(SERVO_IDS, offsets.tolist(), strict=True):
        bus.write_eeprom(servo_id, [(reg.HOMING_OFFSET, offset)])
    time.sleep(0.05)
    if wrong := off_middle(_ticks(bus)):
        raise Refused("; ".join(wrong) + ": keep the arm still and start again")
    progress.save(offsets)
    return offsets


def sweep_joints(bus: ServoBus, person: Person) -> Sweep:
    """Step 2: record each joint's extremes until ENTER; repeats until they can be a calibration."""
    while True:
        done, failed = threading.Event(), []

        def wait(finished: threading.Event = done, errors: list[Exception] = failed) -> None:
            try:
                person.ask("Move every joint except wrist_roll slowly to both stops, then press ENTER.\n")
            except Exception as error:
                errors.append(error)  # usually the end of input; raised in the thread that reads the arm
            finally:
                finished.set()

        sweep = Sweep.start(_ticks(bus))
        threading.Thread(target=wait, daemon=True).start()
        while not done.wait(POLL_S):
            sweep = sweep.update(_ticks(bus))
            person.live(_extremes(sweep))
        if failed:
            raise failed[0]
        problems = sweep.problems()
        if not problems:
            return sweep
        for problem in problems:
            person.say(problem)
        if sweep.wrapped:
            raise Refused("start the same command again: it begins with the middle step; no file was changed")
        person.say("Please repeat the sweep.")


def _extremes(sweep: Sweep) -> str:
    parts = zip(JOINT_NAMES, sweep.low.tolist(), sweep.last.tolist(), sweep.high.tolist(), strict=True)
    return "  ".join(f"{name} {low}<{now}<{high}" for name, low, now, high in parts)


def guide(bus: ServoBus, person: Person, path: Path, arm: str) -> cal.Calibration:
    """Run the whole calibration of `arm`; writes EEPROM and the file `path`. Refused when it is not usable."""
    progress = CalibrationProgress(path)
    if path.exists():
        _agree(person, f"{path} exists and will be replaced. Continue?")
    _release(bus, person)
    try:
        offsets = find_middle(bus, person, progress)
        sweep = sweep_joints(bus, person)
    except Refused:
        progress.clear()
        raise
    person.ask("Open the gripper fully, then press ENTER. ")
    inverted = frozenset({"gripper"}) if gripper_inverted(int(_ticks(bus)[-1]), sweep) else frozenset()
    if inverted:
        person.say(
            "gripper: its ticks fall while it opens; drive_mode 1 is set, so that it opens towards larger angles."
        )
    calibration = sweep.calibration(offsets, inverted)
    if found := cal.problems(calibration):
        raise Refused("; ".join(found))
    _write(bus, calibration)
    cal.save(calibration, path)
    progress.clear()
    for text in cal.JointMap.of(calibration).out_of_reach():
        person.say(text)
    person.say(f"The {arm} is calibrated: {path}")
    return calibration


def write_file(bus: ServoBus, person: Person, path: Path) -> None:
    """`--write`: show the differences, then write the file's values to the servos."""
    loaded = cal.load(path)
    lines = cal.mismatches(loaded, prepare.read_eeprom(bus))
    if not lines:
        person.say(f"The servos already contain the values of {path}.")
        return
    for line in lines:
        person.say(line)
    _agree(person, "Write the file's values to the servos?")
    _release(bus, person)
    _write(bus, loaded)
    person.say(f"Written and read back: {path}")


def _replaced(person: Person, path: Path) -> cal.Calibration:
    """The calibration in the file that is to be replaced; empty without a file, or when it cannot be used."""
    try:
        return cal.load(path) if path.exists() else {}
    except cal.CalibrationError as error:
        person.say(f"{error}. No drive_mode is kept from it.")
        return {}


def read_servos(bus: ServoBus, person: Person, path: Path) -> None:
    """`--read`: show the differences, then write the servos' values to the file.

    Servos do not contain the direction of a joint (drive_mode): it is kept from the file that is replaced.
    """
    eeprom = prepare.read_eeprom(bus)
    known = _replaced(person, path)
    modes = {name: known[name].drive_mode if known else 0 for name in JOINT_NAMES}
    made = {n: cal.JointCalibration(i, modes[n], *eeprom[n]) for n, i in zip(JOINT_NAMES, SERVO_IDS, strict=True)}
    if found := cal.problems(made):
        raise Refused("the servos hold no usable calibration: " + "; ".join(found))
    for line in cal.mismatches(known, eeprom):
        person.say(line)
    if path.exists():
        _agree(person, f"Replace {path}?")
    cal.save(made, path)
    inverted = ", ".join(n for n in JOINT_NAMES if modes[n]) or "no joint"
    origin = (
        "kept from the former file"
        if known
        else "servos do not contain it: calibrate if the gripper moves the wrong way"
    )
    person.say(f"drive_mode 1 (inverted): {inverted} ({origin})")
    person.say(f"Saved {path}: {json.dumps({n: asdict(j) for n, j in made.items()})}")


def _terminal() -> Person:
    def say(text: str) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def live(text: str) -> None:
        sys.stdout.write("\r\033[K" + text)
        sys.stdout.flush()

    return Person(input, say, live)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="grids calibrate", description=__doc__.splitlines()[0])
    parser.add_argument("--arm", required=True, choices=("follower", "leader"))
    parser.add_argument(
        "--serial-port", default="", help="default: serial_port in config/arm.yaml, else the only device"
    )
    parser.add_argument(
        "--name",
        default="",
        help="LeRobot name of the arm; default: `calibration` in config/arm.yaml, else my_<arm>, or <robot>_<arm>",
    )
    parser.add_argument("--robot", type=robots.option, default="", help=robots.OPTION_TEXT)
    parser.add_argument("--file", default="", help="calibration file; default: that of the name, in LeRobot's folders")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--write", action="store_true", help="write the file's values to the servos")
    action.add_argument("--read", action="store_true", help="write the servos' values to the file")
    action.add_argument("--check", action="store_true", help="compare file and servos, change nothing")
    return parser


def _port(chosen: argparse.Namespace) -> str:
    """The device of the command line, else of config/arm.yaml, else the only one. DriverError without one."""
    found = candidates()
    port = (
        chosen.serial_port
        or site.serial_ports(robot=chosen.robot).get(chosen.arm)
        or (found[0] if len(found) == 1 else "")
    )
    if not port:
        raise DriverError(f"expected --serial-port, devices that exist: {', '.join(found) or 'none'}")
    return port


def _run(chosen: argparse.Namespace, bus: ServoBus, person: Person, path: Path) -> int:
    """The chosen action; returns the exit code."""
    if chosen.check:
        lines = cal.mismatches(cal.load(path), prepare.read_eeprom(bus))
        for line in lines or [f"{path} and the servos agree"]:
            person.say(line)
        return 1 if lines else 0
    if chosen.write:
        write_file(bus, person, path)
    elif chosen.read:
        read_servos(bus, person, path)
    else:
        guide(bus, person, path, chosen.arm)
    return 0


def _file(chosen: argparse.Namespace) -> Path:
    """The calibration file: the command line's, else where the driver looks, else a new one in LeRobot's folder."""
    if chosen.file:
        return Path(chosen.file).expanduser()
    own = f"{chosen.robot.replace('/', '_') or 'my'}_{chosen.arm}"
    name = chosen.name or site.calibrations(robot=chosen.robot).get(chosen.arm) or own
    try:
        return cal.locate(chosen.arm, name)
    except cal.CalibrationError:
        if chosen.write or chosen.check:
            raise
        return cal.lerobot_root() / cal.FOLDERS[chosen.arm][0] / f"{name}.json"


def main(argv: list[str] | None = None, person: Person | None = None) -> int:
    """Exit code: 0 done, 1 refused or different, 2 arm or file not reachable."""
    chosen, person = _parser().parse_args(argv), person or _terminal()
    try:
        port, path = _port(chosen), _file(chosen)
    except (ParameterError, GridsError) as error:
        person.say(str(error))
        return 2
    bus = ServoBus(port, SERVO_IDS, reply_timeout_s=PATIENCE_S)
    try:
        bus.open()
        with bus.patient():
            prepare.find_servos(bus)
            return _run(chosen, bus, person, path)
    except Refused as error:
        person.say(str(error))
        return 1
    except GridsError as error:
        person.say(str(error))
        return 2
    except (KeyboardInterrupt, EOFError):
        person.say("\ninterrupted: start again to continue")
        return 1
    finally:
        bus.close()


if __name__ == "__main__":
    raise SystemExit(main())
