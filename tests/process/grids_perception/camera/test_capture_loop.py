"""The capture loop, a thread on the real clock, against a scripted source."""

import contextlib
import dataclasses
import os
import threading
import time

import numpy as np
import pytest

from grids_perception.camera import capture_loop
from grids_perception.camera.capture import CapturedFrame
from grids_perception.camera.capture_loop import CaptureLimits, CaptureLoop
from grids_perception.camera.source import AbstractSource, Intrinsics, SourceError, SourceInfo


class ScriptedSource(AbstractSource):
    """Plays "frame", "same", "again", "silent", "unplug", "break" at about 200 Hz; after a loss opening fails `absent`
    times. With `ill` every image stands still, or none comes, until the device is reset."""

    def __init__(self, script: list[str], absent: int = 0, ill: str = ""):
        self.script, self.absent, self.ill = list(script), absent, ill
        self.opened = self.resets = self.number = 0
        self.opened_at, self.read_at = [], -1

    def open(self) -> SourceInfo:
        if self.opened and self.absent:
            self.absent -= 1
            raise SourceError("no device")
        self.opened += 1
        self.number = 0
        self.opened_at.append(os.sched_getscheduler(0))
        return SourceInfo("scripted", "1", Intrinsics(8, 8))

    def read(self, timeout_s: float) -> CapturedFrame | None:
        time.sleep(0.005)
        self.read_at = os.sched_getscheduler(0)
        step = self.script.pop(0) if self.script else self.ill or "frame"
        if step == "unplug":
            raise SourceError("unplugged")
        if step == "break":
            raise RuntimeError("not foreseen")
        if step == "silent":
            time.sleep(timeout_s)
            return None
        self.number += step != "again"  # the same exposure once more
        level = 50 if step == "same" else (self.number * 7) % 256
        return CapturedFrame(np.full((8, 8, 3), level, np.uint8), self.number, None, "none", time.time_ns())

    def close(self) -> None:
        pass

    def reset(self) -> None:
        self.resets += 1
        self.ill = ""


def run_until(source: ScriptedSource, condition, monkeypatch, limits=None, priority=0):
    """Run the loop on the script with short back-off; returns what was delivered, said and the last health."""
    monkeypatch.setattr("grids_perception.camera.capture_loop.backoff_s", lambda attempt: 0.01)
    frames, said = [], []
    loop = CaptureLoop(
        source,
        limits or CaptureLimits(timeout_s=0.1, frozen_after_s=0.2),
        lambda frame, stamp: frames.append((frame, stamp)),
        lambda level, text: said.append(f"{level}: {text}"),
        priority,
    )
    loop.open()
    loop.start()
    end = time.monotonic() + 10
    while not condition(loop, frames) and time.monotonic() < end:
        time.sleep(0.01)
    health = loop.health()
    loop.stop()
    assert condition(loop, frames), said
    return frames, said, health


def test_an_unplugged_camera_is_reported_and_delivers_again_after_several_attempts(monkeypatch):
    source = ScriptedSource(["frame"] * 5 + ["unplug"], absent=4)
    _, said, health = run_until(source, lambda loop, frames: len(frames) > 12, monkeypatch)
    assert health.state == "streaming"
    assert (health.reconnects, health.resets, source.resets) == (1, 1, 1)
    assert health.outages == 1  # although it took several attempts
    assert 0.0 < health.outage_s < 60.0
    assert health.lost == 0  # numbers start again after a reconnect
    text = "\n".join(said)
    assert "camera lost: unplugged" in text
    assert "no device (attempt 4" in text
    assert "is back after 5 attempt(s)" in text


def test_frames_are_read_with_priority_where_permitted_and_a_camera_is_reopened_without(monkeypatch):
    source = ScriptedSource(["frame"] * 3 + ["unplug"])
    _, _, health = run_until(source, lambda loop, frames: len(frames) > 6, monkeypatch, priority=10)
    assert source.opened_at == [os.SCHED_OTHER, os.SCHED_OTHER]
    granted = health.realtime == "SCHED_FIFO 10"
    assert granted or "refused" in health.realtime
    assert source.read_at == (os.SCHED_FIFO if granted else os.SCHED_OTHER)
    assert os.sched_getscheduler(0) == os.SCHED_OTHER  # the caller's thread keeps its own


@pytest.mark.parametrize("refusal", ["", "refused (not permitted)"], ids=["granted", "refused"])
def test_what_became_of_the_priority_is_reported_once_with_what_to_do(refusal, monkeypatch):
    monkeypatch.setattr(capture_loop, "become_realtime", lambda priority: refusal)
    script = ["frame"] * 3 + ["unplug"]
    _, said, health = run_until(ScriptedSource(script), lambda loop, frames: len(frames) > 6, monkeypatch, priority=10)
    about = [text for text in said if "SCHED_FIFO" in text or "real-time" in text]
    assert len(about) == 1
    if refusal:
        assert about[0].startswith("warning: real-time scheduling was refused (not permitted): ")
        assert "'@dialout - rtprio 60' to /etc/security/limits.d/" in about[0]
    else:
        assert about == ["info: frames are captured with SCHED_FIFO 10"]
    assert health.realtime == (refusal or "SCHED_FIFO 10")


def test_nothing_is_reported_of_a_priority_that_was_not_requested(monkeypatch):
    _, said, health = run_until(ScriptedSource([]), lambda loop, frames: len(frames) > 3, monkeypatch)
    assert said == []
    assert health.realtime == "not requested"


def test_resetting_and_closing_a_camera_happen_without_priority(monkeypatch):
    """Both may take the SDK a second, of which other threads would get nothing."""
    inside, seen = [], []

    @contextlib.contextmanager
    def ordinary():
        inside.append(1)
        yield
        inside.pop()

    class Watched(ScriptedSource):
        def close(self) -> None:
            if threading.current_thread().name == "capture":
                seen.append(("close", bool(inside)))

        def reset(self) -> None:
            seen.append(("reset", bool(inside)))

    monkeypatch.setattr(capture_loop, "ordinary_priority", ordinary)
    source = Watched(["frame", "unplug"], absent=4)
    run_until(source, lambda loop, frames: len(frames) > 6, monkeypatch)
    assert {("close", True), ("reset", True)} == set(seen)


class StuckSource(ScriptedSource):
    """Hangs in a read until `let_go`, as a driver may; notes in which thread it is closed."""

    def __init__(self) -> None:
        super().__init__([])
        self.reading, self.let_go, self.closed_by = threading.Event(), threading.Event(), []

    def read(self, timeout_s: float) -> CapturedFrame | None:
        self.reading.set()
        self.let_go.wait(20)

    def close(self) -> None:
        self.closed_by.append(threading.current_thread().name)


def test_a_source_is_not_closed_under_a_thread_that_hangs_in_it(monkeypatch):
    monkeypatch.setattr(capture_loop, "STOP_TIMEOUT_S", 0.1)
    source, said = StuckSource(), []
    loop = CaptureLoop(source, CaptureLimits(), lambda frame, stamp: None, lambda level, text: said.append(text))
    loop.open()
    loop.start()
    assert source.reading.wait(5)
    loop.stop()
    assert source.closed_by == []
    assert said == ["reading has not returned within 0.1 s; the camera stays open"]
    monkeypatch.setattr(capture_loop, "STOP_TIMEOUT_S", 5.0)
    source.let_go.set()
    loop.stop()
    assert source.closed_by[0] == "capture"
    assert not loop.is_open


def test_losses_of_a_camera_that_does_not_count_are_unknown(monkeypatch):
    class Uncounted(ScriptedSource):
        def read(self, timeout_s: float) -> CapturedFrame | None:
            return dataclasses.replace(super().read(timeout_s), number=None)

    _, _, health = run_until(Uncounted([]), lambda loop, frames: len(frames) > 3, monkeypatch)
    assert health.lost is None


def test_a_silent_camera_is_reopened(monkeypatch):
    source = ScriptedSource(["frame"] * 3 + ["silent"])
    run_until(source, lambda loop, frames: source.opened == 2 and len(frames) > 6, monkeypatch)


def test_a_frozen_image_is_a_lost_camera(monkeypatch):
    source = ScriptedSource(["frame"] * 3 + ["same"] * 100)
    _, said, _ = run_until(source, lambda loop, frames: source.opened >= 2, monkeypatch)
    assert any("frozen for 0.2" in text for text in said)


@pytest.mark.parametrize("ill", ["same", "silent", "again"], ids=["frozen", "silent", "one frame over and over"])
def test_a_camera_that_opens_but_does_not_work_is_reset_and_delivers_again(ill, monkeypatch):
    """Opening works each time, so only the count over all of them leads to the reset that cures a hung camera."""
    source = ScriptedSource(["frame"] * 3, ill=ill)
    limits = CaptureLimits(timeout_s=0.05, frozen_after_s=0.05)
    _, said, health = run_until(source, lambda loop, frames: source.resets and len(frames) > 150, monkeypatch, limits)
    assert (source.resets, health.resets) == (1, 1)
    assert source.opened == 5  # at first, three times again in vain, after the reset
    assert health.state == "streaming"
    assert "warning: resetting the camera after 3 attempts" in said


def test_a_camera_that_was_well_for_a_while_starts_the_count_anew(monkeypatch):
    monkeypatch.setattr("grids_perception.camera.capture_loop.SETTLED_S", 0.1)
    source = ScriptedSource((["unplug"] + ["frame"] * 40) * 5)
    _, said, health = run_until(source, lambda loop, frames: source.opened == 6 and len(frames) > 200, monkeypatch)
    assert health.reconnects == 5
    assert source.resets == 0
    assert sum("back after 1 attempt(s)" in text for text in said) == 5


def receiver_fails(frame, stamp):
    raise ZeroDivisionError("receiver")


@pytest.mark.parametrize(
    ("script", "deliver", "error"),
    [
        ([], receiver_fails, "ZeroDivisionError: receiver"),
        (["frame", "break"], lambda frame, stamp: None, "RuntimeError: not foreseen"),
    ],
    ids=["receiver", "source"],
)
def test_an_error_nobody_expected_ends_the_thread_loudly(script, deliver, error):
    said = []
    loop = CaptureLoop(ScriptedSource(script), CaptureLimits(), deliver, lambda level, text: said.append(level))
    loop.open()
    loop.start()
    end = time.monotonic() + 5
    while not loop.fatal and time.monotonic() < end:
        time.sleep(0.01)
    loop.stop()
    assert error in loop.fatal
    assert said == ["fatal"]
    assert (loop.health().state, loop.health().reason) == ("lost", error)
