"""Arming, triggering, output checks, latency windows and reuse."""

import numpy as np
import pytest

from grids_common.chunk import Chunk
from grids_policy.node.latency import LatencyWindow, StageLatencies
from grids_policy.node.params import PolicyParams
from grids_policy.node.schedule import check_arming, due, refuse_output
from grids_policy.runtime.reuse import FrameReuse

S = 1_000_000_000
RAMP = Chunk(10 * S, 0.1, np.arange(10.0)[:, None] * [1.0, -1.0])


def test_arming_needs_a_latency_below_half_of_what_is_executed():
    assert check_arming(0.49, 30, 1 / 30).allowed
    refused = check_arming(1.25, 30, 1 / 30)
    assert not refused.allowed
    assert "1.25 s" in refused.text
    assert "2.5 times too slow" in refused.text
    assert "time_scale:=3" in refused.text
    assert check_arming(1.25, 30, 3 / 30).allowed, "the advice works"


def test_the_next_inference_starts_when_half_of_the_action_steps_are_executed():
    assert due(0, None, 10)
    assert not due(10 * S + 499_999_999, RAMP, 10)
    assert due(10 * S + 500_000_000, RAMP, 10)
    assert due(10 * S + 200_000_000, RAMP, 4)


def test_outputs_that_are_not_finite_or_out_of_range_are_refused_by_name():
    names, low, high = ("pan", "lift"), np.array([-1.0, -2.0]), np.array([1.0, 2.0])
    good = np.array([[0.5, 1.5], [-1.0, 2.0]])
    assert refuse_output(good, names, low, high) is None
    assert "lift" in refuse_output(np.array([[0.0, np.nan]]), names, low, high)
    assert "pan" in refuse_output(np.array([[np.inf, 0.0]]), names, low, high)
    assert "pan at action step 1 is 1.20 rad, outside -1.00 to 1.00" in refuse_output(
        np.array([[0.0, 0.0], [1.2, 0.0]]), names, low, high
    )


def test_percentiles_forget_what_is_older_than_the_window():
    window = LatencyWindow(window_s=60.0)
    window.add(0, 5.0)
    for second in range(50, 60):
        window.add(second * S, 0.1)
    assert window.percentiles(59 * S).p99 > 4.0
    after = window.percentiles(70 * S)
    assert (after.count, after.p50, after.p99) == (10, pytest.approx(0.1), pytest.approx(0.1))
    assert window.percentiles(1000 * S).count == 0


def test_each_stage_has_its_own_window():
    stages = StageLatencies()
    stages.add(S, {"vision": 0.2, "denoise": 0.1})
    stages.add(2 * S, {"vision": 0.4, "denoise": 0.1})
    found = stages.percentiles(2 * S)
    assert found["vision"].p50 == pytest.approx(0.3)
    assert found["denoise"].p95 == pytest.approx(0.1)


def test_tokens_are_reused_only_while_no_part_of_the_image_moved():
    still = np.full((240, 320, 3), 100, np.uint8)
    moved = still.copy()
    moved[100:160, 100:160] = 180
    reuse = FrameReuse(2, threshold=8.0)
    assert reuse.refresh((still, still)) == (True, True)
    assert reuse.refresh((still, moved)) == (False, True)
    assert reuse.refresh((still, moved)) == (False, False)
    assert FrameReuse(1, threshold=0.0).refresh((still,)) == (True,)


def test_the_measure_of_reuse_is_the_largest_block_of_40_pixels_not_the_mean_of_the_image():
    """What the parameter's text promises: one block of 40 x 40 that differs by the threshold is enough."""
    still = np.full((240, 320, 3), 100, np.uint8)
    for level, changed in ((107, False), (108, True)):
        moved = still.copy()
        moved[80:120, 40:80] = level
        reuse = FrameReuse(1, threshold=8.0)
        reuse.refresh((still,))
        assert reuse.refresh((moved,)) == (changed,)
    assert "40 x 40 pixel block" in PolicyParams.__dataclass_fields__["reuse_threshold"].metadata["doc"].text


def test_a_slow_drift_is_noticed_because_the_reference_stays():
    reuse, seen = FrameReuse(1, threshold=8.0), []
    for level in range(100, 120, 2):
        seen.append(reuse.refresh((np.full((64, 64, 3), level, np.uint8),))[0])
    assert sum(seen) == 3
