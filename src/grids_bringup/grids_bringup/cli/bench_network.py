"""`./grids bench network`: both cameras' JPEG images over a bad network, between two network namespaces.

--campaign: the whole graph on two hosts under network faults, with the promises checked on the twin's servos.

Each row is one quality of the cable. received: share of the images that arrived; age: capture to callback; gap: longest
time without a new image of one camera, when a policy has nothing to act on. The last line is JSON. Needs root.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

from grids_bringup.network import environment
from grids_common.errors import GridsError
from grids_common.process import Child, grids_command
from so100_driver_testing.network_campaign import FAULTS, HEAD, NetworkRow, run
from so100_driver_testing.two_hosts import Quality, TwoHosts, missing

RATE_HZ = 30.0
START_S = 20.0  # for both processes to find each other on a busy computer
QUALITIES = {
    "no fault": Quality(),
    "delay 5 ± 2 ms": Quality(delay_s=0.005, jitter_s=0.002),
    "delay 50 ± 20 ms": Quality(delay_s=0.05, jitter_s=0.02),
    "loss 1 %": Quality(loss=0.01),
    "loss 10 %": Quality(loss=0.1),
    "duplication 10 %": Quality(duplication=0.1),
    "50 Mbit/s": Quality(bits_per_s=50e6),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="grids bench network", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each row (default: %(default)s)")
    parser.add_argument("--kilobytes", type=int, default=40, help="size of one JPEG (default: %(default)s)")
    parser.add_argument("--only", metavar="ROW", help="one row only")
    parser.add_argument("--campaign", action="store_true", help="runs of the graph under faults, instead of images")
    parser.add_argument("--episodes", type=int, default=1, help="campaign: runs of each row (default: %(default)s)")
    parser.add_argument("--policy", default="demo", help="campaign: bundle (default: %(default)s)")
    parser.add_argument("--role", choices=("send", "receive"), help=argparse.SUPPRESS)
    return parser


def _node(name: str):
    import rclpy

    rclpy.init()
    return rclpy.create_node(name)


def send(seconds: float, octets: int) -> None:
    """Publish both cameras' images for `seconds`, once somebody subscribes."""
    import rclpy
    from rclpy.duration import Duration
    from sensor_msgs.msg import CompressedImage

    from grids_common import topics
    from grids_common.images import JPEG_FORMAT

    node = _node("sender")
    out = [topics.publisher(node, f"/{c}/color/image_raw/compressed", CompressedImage) for c in topics.CAMERAS]
    end = time.monotonic() + START_S
    while min(p.get_subscription_count() for p in out) == 0 and time.monotonic() < end:
        rclpy.spin_once(node, timeout_sec=0.05)
    message = CompressedImage(format=JPEG_FORMAT, data=os.urandom(octets))
    begin = time.monotonic()
    for frame in range(round(seconds * RATE_HZ)):
        time.sleep(max(0.0, begin + frame / RATE_HZ - time.monotonic()))
        message.header.stamp = node.get_clock().now().to_msg()
        for publisher in out:
            publisher.publish(message)
    for publisher in out:
        publisher.wait_for_all_acked(Duration(seconds=2.0))  # what was lost is sent again


def receive(seconds: float) -> None:
    """Print what arrived until nothing has for 3 s, as JSON: count, ages in ms, longest gap in s."""
    import rclpy
    from sensor_msgs.msg import CompressedImage

    from grids_common import qos, topics
    from grids_common.stamps import stamp_ns

    node = _node("receiver")
    ages: list[float] = []
    stamps: dict[str, list[int]] = {camera: [] for camera in topics.CAMERAS}

    def take(camera: str, message) -> None:
        stamp = stamp_ns(message.header.stamp)
        ages.append((node.get_clock().now().nanoseconds - stamp) * 1e-6)
        stamps[camera].append(time.monotonic_ns())

    for camera in topics.CAMERAS:
        name = topics.relative(f"/{camera}/color/image_raw/compressed")
        node.create_subscription(CompressedImage, name, lambda m, camera=camera: take(camera, m), qos.IMAGE_RELIABLE)
    end = time.monotonic() + START_S + seconds
    while time.monotonic() < end:
        rclpy.spin_once(node, timeout_sec=0.1)
        last = max((times[-1] for times in stamps.values() if times), default=None)
        if last is not None and time.monotonic_ns() - last > 3_000_000_000:
            break
    gaps = [b - a for times in stamps.values() for a, b in pairwise(times)]
    ages.sort()
    found = {"received": len(ages), "gap_s": max(gaps, default=0) * 1e-9}
    for share in (50, 95):
        found[f"age_p{share}_ms"] = ages[len(ages) * share // 100] if ages else None
    sys.stdout.write(json.dumps(found) + "\n")


def measure(quality: Quality, options: argparse.Namespace, folder: Path) -> dict:
    """One row: what the receiver printed, with the share that arrived and the load on the cable in Mbit/s."""
    variables = environment("", folder)
    words = ("--seconds", str(options.seconds), "--kilobytes", str(options.kilobytes))
    with TwoHosts(quality) as cable:
        arm, gpu = cable.hosts

        def start(host, role: str, **options) -> Child:
            command = [*host.within, *grids_command("bench", "network", "--role", role, *words)]
            return Child(command, log=folder / f"{role}.log", environment=variables, **options)

        with start(gpu, "receive", pipes=True) as receiver, start(arm, "send") as sender:
            text = receiver.stdout.read()
            sender.wait(START_S)
        if not text.strip():
            raise GridsError(
                f"the receiver printed nothing: {receiver.last_words()}; the sender: {sender.last_words()}"
            )
        found = json.loads(text.splitlines()[-1])
        sent = 2 * round(options.seconds * RATE_HZ)
        return found | {"share": found["received"] / sent, "mbit_s": 8e-6 * arm.octets / options.seconds}


def main(argv: list[str]) -> int:
    """Run the bench; returns 0, or 2 where there are no network namespaces."""
    options = _parser().parse_args(argv)
    if options.role == "send":
        send(options.seconds, options.kilobytes * 1000)
        return 0
    if options.role == "receive":
        receive(options.seconds)
        return 0
    if lacking := missing():
        sys.stderr.write(f"grids bench network: {lacking}\n")
        return 2
    known = [fault.name for fault in FAULTS] if options.campaign else list(QUALITIES)
    if options.only and options.only not in known:
        sys.stderr.write(f"grids bench network: --only: expected one of {', '.join(known)}, got {options.only!r}\n")
        return 2
    names = [options.only] if options.only else known
    return campaign(options, names) if options.campaign else _images(options, names)


def campaign(options: argparse.Namespace, names: list[str]) -> int:
    """The table of runs under network faults; 1 if a promise was broken or a run did not begin or end as it should."""
    sys.stdout.write(f"| {' | '.join(HEAD)} |\n{'|---' * len(HEAD)}|\n")
    rows = []
    for fault in (fault for fault in FAULTS if fault.name in names):
        row = NetworkRow(fault.name)
        for seed in range(options.episodes):
            with tempfile.TemporaryDirectory(prefix="grids-network-") as folder:
                run(fault, row, Path(folder), policy=options.policy, seed=seed)
        rows.append(row)
        sys.stdout.write(f"| {' | '.join(row.cells(ends=fault.ends))} |\n")
        for text in (*row.violations, *row.failures):
            sys.stderr.write(f"  {row.name}: {text}\n")
        sys.stdout.flush()
    sys.stdout.write(json.dumps([asdict(row) for row in rows]) + "\n")
    return 1 if any(row.violations or row.failures for row in rows) else 0


def _images(options: argparse.Namespace, names: list[str]) -> int:
    """The table of images."""
    rows = {}
    sys.stdout.write("| cable | received | age p50, p95 | longest gap | Mbit/s |\n|---|---|---|---|---|\n")
    for name in names:
        with tempfile.TemporaryDirectory(prefix="grids-network-") as folder:
            rows[name] = row = measure(QUALITIES[name], options, Path(folder))
        age = f"{row['age_p50_ms']:.0f}, {row['age_p95_ms']:.0f} ms" if row["received"] else "none"
        sys.stdout.write(f"| {name} | {row['share']:.1%} | {age} | {row['gap_s']:.2f} s | {row['mbit_s']:.1f} |\n")
        sys.stdout.flush()
    sys.stdout.write(json.dumps(rows) + "\n")
    return 0
