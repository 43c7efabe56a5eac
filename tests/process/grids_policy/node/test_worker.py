"""The inference thread without ROS: triggering, pausing, refusals, crash and hang of the engine."""

import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
from repository import ROOT

from grids_policy.node.observation import ImageFrame, Joints, SyncLimits
from grids_policy.node.worker import PolicyWorker, WorkerOptions
from grids_policy.runtime.base import AbstractRuntime
from grids_policy.runtime.bundle import BundleError
from grids_policy.runtime.language import SentenceEncoder
from grids_policy.runtime.onnx import EngineOptions, OnnxRuntime

UNTRAINED = ROOT / "models" / "untrained"
LIMITS = SyncLimits(max_age_s=5.0, max_joint_gap_s=5.0, future_tolerance_s=5.0)
# The worker's clock: the stamp last fed, so that no frame grows old while this machine is busy with something else.
CLOCK = {"now_ns": 0}


class Wrapped(AbstractRuntime):
    """The real engine with one thing changed: `spoil` is called with the outputs after each inference."""

    def __init__(self, runtime, spoil=lambda outputs: None):
        self._runtime, self._spoil = runtime, spoil
        self.seen = []

    @property
    def spec(self):
        return self._runtime.spec

    @property
    def provider(self):
        return self._runtime.provider

    def infer(self, inputs, outputs):
        self.seen.append(inputs)
        stages = self._runtime.infer(inputs, outputs)
        self._spoil(outputs)
        return stages

    def close(self):
        self._runtime.close()


@pytest.fixture(scope="module")
def engine():
    return OnnxRuntime(UNTRAINED, EngineOptions(engine="cpu", threads=1))


@contextmanager
def running(runtime, compare=None, **changes):
    options = WorkerOptions(
        **{"limits": LIMITS, "n_action_steps": 40, "dt_s": 1 / 30, "seed": 100,
           "expected_latency_s": 0.02, "epoch": 7} | changes
    )  # fmt: skip
    results = []
    encoder = SentenceEncoder(UNTRAINED, runtime.spec.language)
    worker = PolicyWorker(runtime, encoder, options, results.append, lambda: CLOCK["now_ns"], compare=compare)
    worker.start()
    worker.run("go")
    try:
        yield worker, results
    finally:
        worker.close(5.0)


def feed(worker, bundle, stamp_ns=None, cameras=("front", "wrist")) -> int:
    stamp_ns = CLOCK["now_ns"] = stamp_ns or time.time_ns()
    mean = np.array(bundle.normalisation["state"]["mean"])
    worker.add_joints(Joints(stamp_ns, mean))
    for camera in cameras:
        worker.add_frame(camera, ImageFrame(stamp_ns, np.full((240, 320, 3), 80, np.uint8)))
    return stamp_ns


def until(condition, timeout_s=60.0):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.005)


def test_one_inference_per_half_chunk_with_counted_sequence_and_seed(engine):
    with running(Wrapped(engine)) as (worker, results):
        start = feed(worker, engine.bundle)
        until(lambda: len(results) == 1)
        feed(worker, engine.bundle, start + 300_000_000)
        until(lambda: worker.status().counters.frames_superseded > 0)
        assert len(results) == 1, "less than half of the chunk is used"
        feed(worker, engine.bundle, start + 700_000_000)
        until(lambda: len(results) == 2)
    assert [(r.sequence, r.seed, r.epoch) for r in results] == [(1, 100, 7), (2, 101, 7)]
    assert results[1].chunk.start_ns == start + 700_000_000


def test_committed_steps_are_those_of_the_chunk_being_executed(engine):
    runtime = Wrapped(engine)
    limit = engine.bundle.max_committed
    with running(runtime, expected_latency_s=0.1, max_committed=limit) as (worker, results):
        start = feed(worker, engine.bundle, time.time_ns() - 1_000_000_000)
        until(lambda: len(results) == 1)
        feed(worker, engine.bundle, start + 700_000_000)
        until(lambda: len(results) == 2)
    assert results[0].committed_steps == 0
    rows = results[1].committed_steps
    assert 0 < rows <= engine.bundle.max_committed
    expected = results[0].chunk.at(start + 700_000_000 + (np.arange(rows) / 30 * 1e9).astype(np.int64))
    np.testing.assert_allclose(results[1].chunk.positions_rad[:rows], expected, atol=1e-5)


def test_unless_asked_for_no_row_is_committed_and_the_driver_alone_blends(engine):
    with running(Wrapped(engine), expected_latency_s=0.1) as (worker, results):
        start = feed(worker, engine.bundle, time.time_ns() - 1_000_000_000)
        until(lambda: len(results) == 1)
        feed(worker, engine.bundle, start + 700_000_000)
        until(lambda: len(results) == 2)
    assert [r.committed_steps for r in results] == [0, 0]


def test_a_result_that_is_not_finite_is_counted_and_never_published(engine):
    def spoil(outputs):
        outputs.actions[3, 2] = np.nan

    with running(Wrapped(engine, spoil)) as (worker, results):
        feed(worker, engine.bundle)
        until(lambda: worker.status().counters.refused_outputs > 0)
        assert "not finite at elbow_flex" in worker.status().reason
        assert not results


def test_a_crash_of_the_engine_is_said_and_nothing_is_published(engine):
    def spoil(_):
        raise RuntimeError("out of memory")

    with running(Wrapped(engine, spoil)) as (worker, results):
        feed(worker, engine.bundle)
        until(lambda: worker.status().failure)
        assert worker.status().failure == "out of memory"
        assert not results


def test_nothing_is_published_before_the_engine_was_compared_on_real_images(engine):
    compared = []

    def compare(inputs, outputs):
        compared.append((inputs, outputs.actions.copy()))

    runtime = Wrapped(engine)
    with running(runtime, compare=compare) as (worker, results):
        start = feed(worker, engine.bundle)
        until(lambda: compared)
        feed(worker, engine.bundle, start + 300_000_000)
        until(lambda: results)
        feed(worker, engine.bundle, start + 1_000_000_000)
        until(lambda: len(results) == 2)
    assert len(compared) == 1
    assert compared[0][0] is runtime.seen[0]
    first = results[0]
    assert (first.sequence, first.seed) == (1, 100), "the compared inference does not count"
    assert first.chunk.start_ns == start + 300_000_000, "its images were old by then"


def test_an_engine_that_disagrees_on_real_images_publishes_nothing_and_says_so(engine):
    def compare(inputs, outputs):
        raise BundleError("the engine is 3 std off the CPU engine; not used")

    with running(Wrapped(engine), compare=compare) as (worker, results):
        feed(worker, engine.bundle)
        until(lambda: worker.status().failure)
        assert worker.status().failure == "the engine is 3 std off the CPU engine; not used"
        feed(worker, engine.bundle)
        assert not results


def test_a_hang_is_seen_from_outside_while_the_callbacks_go_on(engine):
    release = threading.Event()
    with running(Wrapped(engine, lambda _: release.wait(60))) as (worker, results):
        feed(worker, engine.bundle)
        until(lambda: worker.status().busy_s > 0.2)
        feed(worker, engine.bundle)
        assert not worker.close(0.1), "a hung thread does not end"
        assert not results
        release.set()


def test_pausing_throws_the_inference_under_way_away_and_raises_the_epoch(engine):
    entered, release = threading.Event(), threading.Event()

    def spoil(_):
        entered.set()
        release.wait(60)

    with running(Wrapped(engine, spoil)) as (worker, results):
        feed(worker, engine.bundle)
        assert entered.wait(60)
        assert worker.pause() == 8
        release.set()
        until(lambda: worker.status().counters.inferences == 1)
        assert not results
        worker.run("again")
        feed(worker, engine.bundle)
        until(lambda: results)
        assert results[0].epoch == 8


def test_frames_from_a_restarted_source_replace_the_old_ones(engine):
    with running(Wrapped(engine), limits=SyncLimits(max_age_s=1e6, max_joint_gap_s=1.0)) as (worker, results):
        now = time.time_ns()
        feed(worker, engine.bundle, now)
        until(lambda: len(results) == 1)
        worker.pause()
        worker.run("again")
        feed(worker, engine.bundle, now - 100_000_000_000)
        until(lambda: len(results) == 2)
        assert results[1].chunk.start_ns == now - 100_000_000_000


def test_the_lost_camera_is_sent_black_or_masked(engine):
    for mode, present in (("black", True), ("mask", False)):
        runtime = Wrapped(engine)
        limits = SyncLimits(max_age_s=5.0, max_joint_gap_s=5.0, lost_camera=mode)
        with running(runtime, limits=limits) as (worker, results):
            feed(worker, engine.bundle, cameras=("front",))
            until(lambda found=results: found)
        assert runtime.seen[0].present.tolist() == [True, present]
        assert not runtime.seen[0].frames[1].any()
