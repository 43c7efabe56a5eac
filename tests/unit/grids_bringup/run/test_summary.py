"""The run summary: rates and drops from stamps, percentiles from latencies."""

import numpy as np

from grids_bringup.run.summary import RunStatistics, StreamStatistics, percentiles_ms


def test_a_camera_with_two_missing_frames_reports_them():
    stream = StreamStatistics()
    for index in (0, 1, 2, 3, 6, 7, 8, 9):
        stream.add(index * 33_333_333, index * 33_333_333 + 5_000_000)
    summary = stream.summary()
    assert summary["frames"] == 8
    assert summary["dropped"] == 2
    assert summary["age_ms"]["p50"] == 5.0
    last = 9 * 33_333_333
    assert abs(stream.recent_rate_hz(last) - 7 / (9 * 33_333_333e-9)) < 0.01
    assert stream.recent_rate_hz(last + 5_000_000 + 1_100_000_000) == 0.0, "a dead camera is not shown at its old rate"


def test_a_silent_camera_is_a_zero_rate_not_an_error():
    assert StreamStatistics().summary()["rate_hz"] == 0.0


def test_percentiles_agree_with_numpy():
    values = list(np.random.default_rng(0).uniform(0, 1, 500))
    summary = percentiles_ms(values)
    assert summary["count"] == 500
    assert summary["p95"] == round(float(np.percentile(values, 95) * 1e3), 3)


def test_chunk_latencies_are_kept_per_stage():
    statistics = RunStatistics()
    for index in range(4):
        stamp = index * 200_000_000
        statistics.add_chunk(stamp, stamp + 50_000_000, {"encode": 0.02, "denoise": 0.03}, "demo")
    summary = statistics.summary()
    assert summary["chunks"] == 4
    assert summary["latency_ms"]["observation_to_chunk"]["p50"] == 50.0
    assert summary["latency_ms"]["between_chunks"]["count"] == 3
    assert summary["latency_ms"]["denoise"]["p99"] == 30.0
