"""`./grids bench graph`: ages from camera to policy and to servo, lost frames, CPU time per process.

The first part measures two camera nodes alone, the second a complete run on the twin. The last line is JSON.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path

from grids_common.process import Child, grids_command
from grids_perception.bench.cameras import measure, percentiles

LIMITS = {
    "camera_to_policy_p95_ms": 12.0,
    "age_p95_ms": 12.0,  # stamp to subscriber, which is a part of camera to policy
    "node_cost_p95_ms": 2.0,
    "cpu_added_percent": 10.0,
    "lost": 0,
    "undelivered": 0,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="grids bench graph", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="length of each part (default: %(default)s)")
    parser.add_argument("--policy", default="untrained", help="policy of the run (default: %(default)s)")
    parser.add_argument("--only", choices=("cameras", "run"), help="one part only")
    return parser


class RunWatcher:
    """Ages of one run, from its topics. Filled by the executor's thread, read after it has stopped."""

    def __init__(self, node) -> None:
        from grids_msgs.msg import ActionChunk, CommandTrace, PolicyStatus

        from grids_common import topics

        self.to_chunk_ms: list[float] = []
        self.to_servo_ms: list[float] = []
        self.to_policy_ms: list[float] = []
        self._stamps: dict[int, int] = {}
        self._executed: set[int] = set()
        self._inferences = 0
        self._node = node
        topics.subscription(node, "/policy/action_chunk", ActionChunk, self._chunk)
        topics.subscription(node, "/follower/command_trace", CommandTrace, self._trace)
        topics.subscription(node, "/policy/status", PolicyStatus, self._status)

    def _chunk(self, message) -> None:
        from grids_common.stamps import stamp_ns

        self._stamps[message.sequence] = stamp_ns(message.header.stamp)
        now_ns = self._node.get_clock().now().nanoseconds
        self.to_chunk_ms.append((now_ns - self._stamps[message.sequence]) * 1e-6)

    def _trace(self, message) -> None:
        """The first goal sent that comes from a chunk: its age is camera to servo."""
        from grids_common.stamps import stamp_ns

        sequence = message.sequence
        if message.row < 0 or sequence in self._executed or sequence not in self._stamps:
            return
        self._executed.add(sequence)
        self.to_servo_ms.append((stamp_ns(message.header.stamp) - self._stamps[sequence]) * 1e-6)

    def _status(self, message) -> None:
        """The observation's age at the start of the last inference; every status message repeats it until the next."""
        if message.inferences != self._inferences and message.observation_age > 0:
            self._inferences = message.inferences
            self.to_policy_ms.append(1e3 * message.observation_age)


def _name(process) -> str:
    """The node name of a process, else the name of its program."""
    words = process.cmdline()
    for word in words:
        if word.startswith("__node:="):
            return word.removeprefix("__node:=")
    return Path(words[0]).name if words else process.name()


def _cpu_by_name(root, seconds: float) -> dict[str, float]:
    """CPU time in % of a core over `seconds`, for every child process of `root`."""
    import psutil

    children = [p for p in root.children(recursive=True) if p.is_running()]
    before = {}
    for p in children:
        try:
            before[p] = (sum(p.cpu_times()[:2]), _name(p))
        except psutil.NoSuchProcess:
            continue
    begin = time.monotonic()
    time.sleep(seconds)
    passed = time.monotonic() - begin
    result: dict[str, float] = {}
    for p, (start, name) in before.items():
        try:
            result[name] = round(result.get(name, 0.0) + 100 * (sum(p.cpu_times()[:2]) - start) / passed, 1)
        except psutil.NoSuchProcess:
            continue
    return dict(sorted(result.items(), key=lambda row: -row[1]))


def measure_run(seconds: float, policy: str, folder: Path) -> dict:
    """Measure one run on the twin. Raises RuntimeError with the run's last output if no chunk arrives."""
    import psutil

    from grids_perception.bench.cameras import Receiver

    words = ["deploy", f"policy:={policy}", f"duration:={seconds + 60}", "seed:=1", f"output:={folder}/run"]
    run = Child(grids_command(*words), log=folder / "run.log")
    receiver = Receiver(("front", "wrist"))
    watcher = RunWatcher(receiver.node)
    try:
        deadline = time.monotonic() + 90.0
        while len(watcher.to_servo_ms) < 2:
            if not run.alive or time.monotonic() > deadline:
                raise RuntimeError(f"the run delivered no chunks: {run.last_words(1)}")
            time.sleep(0.1)
        for values in (watcher.to_chunk_ms, watcher.to_servo_ms, watcher.to_policy_ms, *receiver.ages_ms.values()):
            values.clear()
        cpu = _cpu_by_name(psutil.Process(run.pid), seconds)
    finally:
        receiver.close()
        run.end(interrupt_s=20.0)
    return {
        "policy": policy,
        "camera_to_subscriber_ms": {c: percentiles(v) for c, v in receiver.ages_ms.items()},
        "camera_to_policy_ms": percentiles(watcher.to_policy_ms),
        "camera_to_chunk_ms": percentiles(watcher.to_chunk_ms),
        "camera_to_servo_ms": percentiles(watcher.to_servo_ms),
        "cpu_percent": cpu,
    }


def _line(name: str, row: dict) -> str:
    if not row.get("count"):
        return f"  {name:34s} no data\n"
    return f"  {name:34s} p50 {row['p50']:8.2f}   p95 {row['p95']:8.2f}   p99 {row['p99']:8.2f}   n {row['count']}\n"


def _verdict(name: str, value: float | None) -> str:
    """The limit and whether `value` is within it; an unknown value (None, NaN) is not."""
    kept = value is not None and value <= LIMITS[name]
    return f"(limit {LIMITS[name]:g}: {'kept' if kept else 'NOT KEPT'})"


def _camera_lines(name: str, row: dict) -> str:
    cost, worst = row["node_cost_p95_ms"], row["node_cost_p95_ms_worst_10s"]
    lost, missing = ("unknown" if row[key] is None else row[key] for key in ("lost", "undelivered"))
    return (
        _line(f"{name}: stamp → subscriber, ms", row["age_ms"])
        + f"  {name}: age p95 {_verdict('age_p95_ms', row['age_ms'].get('p95'))}, {row['rate_hz']} Hz, "
        f"{lost} lost before the node {_verdict('lost', row['lost'])}, "
        f"{missing} between node and subscriber {_verdict('undelivered', row['undelivered'])}, "
        f"CPU {row['cpu_percent']} % of a core, {row['cpu_added_percent']} beyond playing the file "
        f"{_verdict('cpu_added_percent', row['cpu_added_percent'])}, node's own time p95 "
        f"{cost} ms {_verdict('node_cost_p95_ms', cost)}, {worst} ms in its worst 10 s, real-time: {row['realtime']}\n"
    )


def _policy_verdict(row: dict) -> str:
    """The limit of camera to policy, and that the cameras are simulated."""
    return (
        f"  camera to policy p95 {_verdict('camera_to_policy_p95_ms', row.get('p95'))}; these cameras are the twin's, "
        f"which renders both images on the same {os.cpu_count()} CPU cores that the policy uses\n"
    )


def report(result: dict) -> str:
    """The results as text."""
    out = []
    if "cameras" in result:
        part = result["cameras"]
        out.append(f"Camera nodes alone, 640 × 480, 30 Hz, {part['source']} played in real time, {part['seconds']} s\n")
        for name, row in part["cameras"].items():
            out.append(_camera_lines(name, row))
        copies = part["copies_by_design"]
        out.append(f"  copies per frame, by design, not measured: {len(copies)} ({'; '.join(copies)})\n")
    if "run" in result:
        part = result["run"]
        out.append(f"Whole run on the twin, policy {part['policy']}\n")
        for camera, row in part["camera_to_subscriber_ms"].items():
            out.append(_line(f"{camera} capture → subscriber, ms", row))
        for key in ("camera_to_policy_ms", "camera_to_chunk_ms", "camera_to_servo_ms"):
            out.append(_line(key.removesuffix("_ms").replace("_", " ") + ", ms", part[key]))
        out.append(_policy_verdict(part["camera_to_policy_ms"]))
        rows = ", ".join(f"{name} {value:g} %" for name, value in part["cpu_percent"].items())
        out.append(f"  CPU of a core: {rows}\n")
    return "".join(out)


def main(argv: list[str] | None = None) -> int:
    """Exit code 0: measured; 1: a process failed."""
    options = _parser().parse_args(argv)
    os.environ["ROS_DOMAIN_ID"] = str(random.randint(62, 101))  # a real arm may be active in the caller's domain
    result: dict = {"bench": "graph", "cores": os.cpu_count(), "load_before": round(os.getloadavg()[0], 2)}
    try:
        with tempfile.TemporaryDirectory(prefix="grids-bench-") as name:
            if options.only != "run":
                result["cameras"] = measure(options.seconds, Path(name))
            if options.only != "cameras":
                result["run"] = measure_run(options.seconds, options.policy, Path(name))
    except RuntimeError as error:
        sys.stderr.write(f"grids bench graph: {error}\n")
        return 1
    sys.stdout.write(report(result))
    sys.stdout.write(json.dumps(result) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
