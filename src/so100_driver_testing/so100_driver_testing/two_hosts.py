"""Two hosts on one computer: network namespaces, and a cable between them that delays, loses and can be pulled.

The cable is this process: it reads the Ethernet frames of one namespace's TAP device and writes them to the other's.
Needs root, iproute2 and /dev/net/tun; `missing` says what is not there.
"""

import fcntl
import heapq
import os
import random
import select
import shutil
import struct
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
FRAME_BYTES = 2048
IDLE_S = 0.05
QUEUE_S = 0.2  # of frames that wait for a limited rate; what comes then is lost, as in a switch


def missing() -> str:
    """What this computer lacks for network namespaces, "" if nothing."""
    if os.geteuid() != 0:
        return "needs root for network namespaces"
    if not shutil.which("ip"):
        return "needs the command ip (iproute2)"
    if not Path("/dev/net/tun").exists():
        return "needs /dev/net/tun"
    probe = subprocess.run(["unshare", "--net", "true"], check=False, capture_output=True)
    return "" if probe.returncode == 0 else f"no network namespaces: {probe.stderr.decode().strip()}"


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@dataclass(frozen=True, slots=True)
class Quality:
    """Both directions of the cable. Delay in s, evenly distributed (delay ± jitter); loss, duplication: shares."""

    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0
    duplication: float = 0.0
    bits_per_s: float = 0.0  # 0: as fast as it goes


@dataclass(slots=True)
class Host:
    """One namespace: its name, its address, and the words that run a command in it."""

    name: str
    address: str
    frames: int = 0  # sent by it
    octets: int = 0
    free_at: float = 0.0  # when the last frame has left, with a limited rate
    within: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.within = ["ip", "netns", "exec", self.name]


class TwoHosts:
    """Two namespaces and the cable's thread; a context manager that removes both."""

    def __init__(self, quality: Quality | None = None, seed: int = 0) -> None:
        self.quality, self.plugged = quality or Quality(), True
        self.lost = 0
        self.hosts = [Host(f"grids{os.getpid()}{side}", f"10.213.7.{n}") for n, side in enumerate("ab", 1)]
        self._random = random.Random(seed)
        self._waiting: list[tuple[float, int, int, bytes]] = []  # heap: due (monotonic s), number, to which side, frame
        self._numbers = 0
        self._stop = False
        self._taps: list[int] = []
        self._thread = threading.Thread(target=self._carry, name="cable", daemon=True)

    def __enter__(self) -> "TwoHosts":
        try:
            for host in self.hosts:
                self._taps.append(self._set_up(host))
        except BaseException:
            self._remove()
            raise
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop = True
        self._thread.join()
        self._remove()

    @staticmethod
    def _set_up(host: Host) -> int:
        _ip("netns", "add", host.name)
        device = host.name[-12:]
        tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH", device.encode(), IFF_TAP | IFF_NO_PI))
        _ip("link", "set", device, "netns", host.name)
        _ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", device)
        for name in ("lo", device):
            _ip("-n", host.name, "link", "set", name, "up")
        _ip("-n", host.name, "route", "add", "224.0.0.0/4", "dev", device)
        return tap

    def _remove(self) -> None:
        for tap in self._taps:
            os.close(tap)
        for host in self.hosts:
            subprocess.run(["ip", "netns", "del", host.name], check=False, capture_output=True)

    # -- the cable's thread --------------------------------------------------------------------------------------------

    def _carry(self) -> None:
        while not self._stop:
            wait_s = max(0.0, self._waiting[0][0] - time.monotonic()) if self._waiting else IDLE_S
            ready, _, _ = select.select(self._taps, [], [], min(wait_s, IDLE_S))
            for tap in ready:
                self._read(self._taps.index(tap))
            self._deliver()

    def _read(self, side: int) -> None:
        while True:
            try:
                frame = os.read(self._taps[side], FRAME_BYTES)
            except BlockingIOError:
                return
            self._take(side, frame)

    def _take(self, side: int, frame: bytes) -> None:
        quality, host = self.quality, self.hosts[side]
        host.frames, host.octets = host.frames + 1, host.octets + len(frame)
        if not self.plugged or self._random.random() < quality.loss:
            self.lost += 1
            return
        now = time.monotonic()
        if host.free_at - now > QUEUE_S:
            self.lost += 1
            return
        begins = max(now, host.free_at)
        if quality.bits_per_s:
            host.free_at = begins = begins + 8 * len(frame) / quality.bits_per_s
        for _ in range(1 + (self._random.random() < quality.duplication)):
            due = begins + quality.delay_s + self._random.uniform(-1.0, 1.0) * quality.jitter_s
            self._numbers += 1
            heapq.heappush(self._waiting, (due, self._numbers, 1 - side, frame))

    def _deliver(self) -> None:
        while self._waiting and self._waiting[0][0] <= time.monotonic():
            _, _, side, frame = heapq.heappop(self._waiting)
            if not self.plugged:
                continue
            try:
                os.write(self._taps[side], frame)
            except OSError:  # the device is down, or its queue is full
                self.lost += 1
