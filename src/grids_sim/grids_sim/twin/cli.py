"""`./grids twin`: the twin without ROS, for any program that drives an SO-100 over its serial line.

Prints one JSON line with the serial paths, then runs until SIGINT or SIGTERM. Commands can be sent on stdin, one JSON
object per line; each is answered by one JSON line:

    {"fault": "reply_loss", "target": "gripper", "arm": "follower", "value": 0.1, "duration": 5}    "" clears all
    {"reset": {"task": "stack_cubes", "seed": 3}}
    {"hand": [0, -1, 0.8, 1.1, 1.5, 0]}       rad: leader pose held by the operator (--operator topic); null releases
    {"state": true}                           true joint angles, success, faults seen, timing
"""

import argparse
import json
import os
import select
import signal
import sys
import threading

from grids_common.host.realtime import become_realtime, shorten_switch_interval
from grids_common.tasks import TASKS
from grids_sim.nodes.params import TwinParams
from grids_sim.twin.link_folder import FolderInUseError
from grids_sim.twin.twin import PHYSICS_PRIORITY, Twin


def parse(argv: list[str] | None) -> TwinParams:
    """Parameters from the command line; exits with 2 and a message if they are invalid."""
    parser = argparse.ArgumentParser(prog="grids twin", description="Run the digital twin alone.")
    parser.add_argument("--task", default="pick_place", choices=TASKS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plant", default="mujoco", choices=("mujoco", "simple"))
    parser.add_argument("--start-pose", default="rest", choices=("rest", "home"))
    parser.add_argument("--no-leader", action="store_true", help="simulate only the follower arm")
    parser.add_argument("--operator", default="none", choices=("none", "wave", "expert", "topic"))
    parser.add_argument("--link-dir", default="", help="folder for the serial links")
    parser.add_argument("--bus-log", default="", help="file that receives every goal and torque write")
    parser.add_argument(
        "--configured", action="store_true", help="servos start with LeRobot's settings instead of factory settings"
    )
    parser.add_argument("--fault-seed", type=int, default=0)
    parser.add_argument(
        "--horn-ticks",
        type=lambda text: tuple(int(word) for word in text.split(",")),
        default=(0,) * 6,
        metavar="N,N,N,N,N,N",
        help="an arm that needs calibration: offset in ticks with which each horn is screwed on",
    )
    parser.add_argument("--json", action="store_true", help="no effect: the output is always JSON")
    chosen = vars(parser.parse_args(argv))
    chosen.pop("json")
    chosen["leader"] = not chosen.pop("no_leader")
    try:
        return TwinParams(**chosen)
    except ValueError as error:
        parser.error(str(error))


def handle(twin: Twin, line: str) -> dict:
    """Carry out one command line; returns the answer (`ok` false and a `message` if it is invalid)."""
    try:
        command = json.loads(line)
        if not isinstance(command, dict) or len(set(command) & {"fault", "reset", "hand", "state"}) != 1:
            raise ValueError(f"expected an object with fault, reset, hand or state, got {line.strip()}")
        if "fault" in command:
            text = twin.inject(
                command["fault"],
                target=command.get("target", ""),
                arm=command.get("arm", "follower"),
                value=float(command.get("value", 0)),
                duration_s=float(command.get("duration", 0)),
            )
            return {"ok": True, "message": text}
        if "reset" in command:
            request = command["reset"] or {}
            return {"ok": True, "seed": twin.reset(request.get("task", ""), request.get("seed"))}
        if "hand" in command:
            twin.set_hand(command["hand"])
            return {"ok": True}
        return {"ok": True, **state(twin)}
    except (ValueError, TypeError, AttributeError) as error:
        return {"ok": False, "message": str(error)}


def state(twin: Twin) -> dict:
    """True state of the arms and the scene and the timing statistics, as JSON-serialisable data."""
    truth = twin.truth()
    arms = {
        name: {
            "position_rad": [round(float(v), 5) for v in arm.plant.position_rad],
            "velocity_rad_s": [round(float(v), 5) for v in arm.plant.velocity_rad_s],
            "torque_on": arm.bank.torque_on(),
            "requests": arm.bus.counters.requests,
            "spoiled_replies": arm.bus.counters.spoiled,
            "late_replies": arm.bus.counters.late_wakes,
            "worst_reply_lateness_s": round(arm.bus.counters.worst_wake_s, 5),
            "device": arm.bus.device,
        }
        for name, arm in twin.arms.items()
    }
    return {
        "arms": arms,
        "success": bool(truth and truth.success),
        "steps": twin.stats.steps,
        "dropped_steps": twin.stats.dropped_steps,
        "worst_step_lateness_s": round(twin.stats.worst_late_s, 5),
        "realtime": twin.stats.realtime,
    }


def serve(twin: Twin, stopping: threading.Event) -> None:
    """Answer commands from stdin until `stopping` is set; after the end of stdin the twin keeps running."""
    # Bypass Python's buffer: select() does not see lines that are already in it.
    listening, rest = ([0] if sys.stdin is not None else []), b""
    while not stopping.is_set():
        twin.check()
        try:
            ready, _, _ = select.select(listening, [], [], 0.2)
            data = os.read(0, 65536) if ready else None
        except OSError:  # started without a stdin
            data = b""
        if data is None:
            continue
        if not data:
            listening = []
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line.strip():
                _write_line(handle(twin, line.decode(errors="replace")))


def _write_line(answer: dict) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def main(argv: list[str] | None = None) -> int:
    """Exit code: 0 after a signal, 2 if the twin cannot start (the reason is on stderr)."""
    params = parse(argv)
    shorten_switch_interval()
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    try:
        twin = Twin(params, warn=lambda text: sys.stderr.write(f"twin: {text}\n"))
    except (FolderInUseError, OSError, ValueError) as error:
        sys.stderr.write(f"twin: {error}\n")
        return 2
    try:
        twin.start()
        # This thread too: if it were preempted while it holds the interpreter lock, the serial lines would wait.
        become_realtime(PHYSICS_PRIORITY)
        _write_line(twin.paths | {"task": params.task, "seed": params.seed})
        serve(twin, stopping)
    finally:
        twin.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
