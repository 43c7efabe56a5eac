"""`./grids bench record`: measures messages lost by the recorder, its CPU time, and what a kill -9 loses.

1. Another process publishes two cameras of 640x480 at 30 Hz and three states at 100 Hz to the real recorder node:
   messages lost, CPU, write time. 2. The writer is killed at random times and its bag is recovered.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from grids_common.process import Child
from grids_data.bag import cdr
from grids_data.bag.reader import Bag, find_bags
from grids_data.bag.series import JOINTS, TRACE
from grids_data.bag.writer import FLUSH_S, BagWriter
from grids_data.errors import DataError
from grids_recorder.bench import synthetic
from grids_recorder.node.recording import Recording
from grids_recorder.recover import recover_all

SIZE = (480, 640)
SECONDS, SHORT_SECONDS = 60.0, 12.0
KILLS, SHORT_KILLS = 50, 8
_RECORDER = "import sys; from grids_recorder.node.recorder import main; sys.exit(main())"
_SOURCE = "import sys; from grids_recorder.bench.source import main; sys.exit(main(sys.argv[1:]))"
_START_S = 60.0
_FLUSH_SLACK_S = 0.1


@dataclass(frozen=True, slots=True)
class Graph:
    """Result of the first part. CPU in percent of one core, size of the bag in bytes."""

    published: int
    lost: int
    cpu_percent: float
    write_p99_ms: float
    bytes: int


@dataclass(frozen=True, slots=True)
class Kills:
    """Result of the second part. Losses are measured in s before the kill."""

    kills: int
    unreadable: int
    lost_beyond_last_second: int
    worst_loss_s: float


def missing_stamps(published: list[int], recorded: set[int]) -> int:
    """Number of stamps, published between the recorder's answers to start and stop, that are not in the bag."""
    return sum(stamp not in recorded for stamp in published)


def run_graph(folder: Path, seconds: float) -> Graph:
    """First part: run recorder and source as processes in their own ROS domain for `seconds`."""
    environment = {"ROS_DOMAIN_ID": str(62 + os.getpid() % 40)}
    parameters = {"folder": str(folder / "bags"), "min_free_mb": 50}
    command = [sys.executable, "-c", _RECORDER, "--ros-args"]
    command += [word for name, value in parameters.items() for word in ("-p", f"recorder:{name}:={json.dumps(value)}")]
    recorder = Child(command, log=folder / "recorder.log", environment=environment)
    try:
        result_file = folder / "published.json"
        source = [sys.executable, "-c", _SOURCE, str(result_file), str(seconds), str(recorder.pid)]
        subprocess.run(source, env=os.environ | environment, check=True, timeout=seconds + _START_S)
    finally:
        recorder.end(interrupt_s=20.0)
    source_result = json.loads(result_file.read_text(encoding="utf-8"))
    (bag_folder,) = find_bags([folder / "bags"])
    recorded: dict[str, set[int]] = {}
    with Bag(bag_folder) as bag:
        for record in bag.messages():
            if cdr.has_header(record.type):
                topic = record.topic.removesuffix(cdr.COMPRESSED_SUFFIX)
                recorded.setdefault(topic, set()).add(cdr.stamp_ns(record.raw))
        write_p99_ms = bag.episode["write_p99_ms"]
    lost = sum(missing_stamps(stamps, recorded.get(topic, set())) for topic, stamps in source_result["stamps"].items())
    published = sum(map(len, source_result["stamps"].values()))
    size = sum(file.stat().st_size for file in bag_folder.glob("*.mcap"))
    return Graph(published, lost, source_result["cpu_percent"], write_p99_ms, size)


def _write_until_killed(folder: Path, sent_file: Path) -> None:
    """The child process: records synthetic messages in real time and writes the stamp of each to `sent_file`."""
    connections = [(JOINTS, synthetic.JOINT_STATE, False), (TRACE, synthetic.COMMAND_TRACE, False)]
    connections += [(f"/{c}/color/image_raw{cdr.COMPRESSED_SUFFIX}", cdr.COMPRESSED, False) for c in ("front", "wrist")]
    bag = BagWriter(folder, connections, {"task": "bench"})
    recording = Recording(bag, jpeg_quality=90, queue_bytes=64 << 20, min_free_bytes=0)
    out = os.open(sent_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    offset_ns = time.time_ns() - time.monotonic_ns()
    for sample in synthetic.samples(60.0, start_ns=time.time_ns(), size=(240, 320)):
        time.sleep(max(sample.stamp_ns - offset_ns - time.monotonic_ns(), 0) * 1e-9)
        recording.put(sample.topic, sample.type, sample.stamp_ns, sample.raw)
        os.write(out, f"{sample.stamp_ns} {sample.topic}\n".encode())


def kill_once(folder: Path, after_s: float) -> tuple[bool, float]:
    """Kill a recording after `after_s`; returns (whether its bag is readable, seconds lost before the kill)."""
    sent_file = folder / "sent.txt"
    child = os.fork()
    if child == 0:
        try:
            _write_until_killed(folder / "bags" / "episode", sent_file)
        finally:
            os._exit(1)
    deadline = time.monotonic() + _START_S
    while (not sent_file.exists() or sent_file.stat().st_size == 0) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(after_s)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    sent = [(int(stamp), topic) for stamp, topic in (line.split() for line in sent_file.read_text().splitlines())]
    (result,) = recover_all(folder / "bags")
    kept = set()
    # Before the first flush no message is on the disk: an empty bag is then a loss of `after_s`, not unreadable.
    if not result.empty or after_s > FLUSH_S + _FLUSH_SLACK_S:
        try:
            with Bag(result.folder or result.partial) as bag:
                kept = {(cdr.stamp_ns(r.raw), r.topic.removesuffix(cdr.COMPRESSED_SUFFIX)) for r in bag.messages()}
        except DataError:
            return False, after_s
    end = sent[-1][0]
    lost = [stamp for stamp, topic in sent if (stamp, topic) not in kept]
    return True, (end - min(lost)) * 1e-9 if lost else 0.0


def run_kills(folder: Path, count: int) -> Kills:
    """Second part: kill `count` recordings at random times; the times are the same in every run."""
    rng, unreadable, beyond, worst = random.Random(7), 0, 0, 0.0
    for number in range(count):
        place = folder / f"kill_{number}"
        (place / "bags").mkdir(parents=True)
        readable, loss_s = kill_once(place, rng.uniform(0.3, 2.0))
        unreadable += not readable
        beyond += loss_s > 1.0
        worst = max(worst, loss_s)
        shutil.rmtree(place)
        sys.stderr.write(f"\rkilled {number + 1}/{count}, worst loss {worst:.2f} s")
        sys.stderr.flush()
    sys.stderr.write("\n")
    return Kills(count, unreadable, beyond, worst)


def main(argv: list[str]) -> int:
    """Exit code: 0 if nothing was lost and every bag is readable, else 1. The last line of the output is JSON."""
    parser = argparse.ArgumentParser(prog="grids bench record", description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="less than a minute")
    arguments = parser.parse_args(argv)
    seconds, count = (SHORT_SECONDS, SHORT_KILLS) if arguments.short else (SECONDS, KILLS)
    with tempfile.TemporaryDirectory(prefix="grids-bench-") as name:
        folder = Path(name)
        # Before anything starts threads in this process, because the kills fork it.
        killed = run_kills(folder, count)
        graph = run_graph(folder, seconds)
    rate = graph.bytes / seconds / 1e6
    lines = [
        f"graph, {seconds:.0f} s: {graph.published} messages published, {graph.lost} lost; recorder "
        f"{graph.cpu_percent:.0f} % of a core, write p99 {graph.write_p99_ms:.2f} ms, {rate:.1f} MB/s",
        f"kill -9, {killed.kills} times: {killed.unreadable} unreadable, {killed.lost_beyond_last_second} lost more "
        f"than the last second (worst {killed.worst_loss_s:.2f} s)",
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    result = {
        "bench": "record", "seconds": seconds, "published": graph.published, "lost": graph.lost,
        "unreadable": killed.unreadable, "cpu_percent": round(graph.cpu_percent, 1),
        "write_p99_ms": round(graph.write_p99_ms, 3), "bytes": graph.bytes, "kills": killed.kills,
        "lost_beyond_last_second": killed.lost_beyond_last_second, "worst_loss_s": round(killed.worst_loss_s, 3),
        "load": round(psutil.getloadavg()[0], 1),
    }  # fmt: skip
    sys.stdout.write(json.dumps(result) + "\n")
    return int(graph.lost + killed.unreadable + killed.lost_beyond_last_second > 0)


def noisy_frames(count: int) -> list[np.ndarray]:
    """Images with sensor noise, which JPEG compresses as slowly as real ones: (480, 640, 3) uint8 each."""
    rng = np.random.default_rng(0)
    frames = []
    for index in range(count):
        clean = synthetic.frame(index / 30, SIZE).astype(float)
        frames.append(np.clip(clean + rng.normal(0, 4, clean.shape), 0, 255).astype(np.uint8))
    return frames
