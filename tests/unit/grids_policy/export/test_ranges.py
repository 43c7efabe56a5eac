"""Magnitudes inside the graphs over recorded observations, and what is refused because of them."""

import json

import numpy as np
import pytest
from repository import ROOT
from training_frames import frames

pytest.importorskip("onnx")

from grids_policy.export.cameras import ExportError
from grids_policy.export.observations import read_observations, take_observations
from grids_policy.export.ranges import Range, measure_ranges, refuse_overflow, table, write_report
from grids_policy.export.reduce import refuse_precision
from grids_policy.runtime.agreement import random_inputs
from grids_policy.runtime.bundle import read_manifest

UNTRAINED = ROOT / "models" / "untrained"


@pytest.fixture(scope="module")
def bundle():
    return read_manifest(UNTRAINED)


def test_the_largest_value_of_every_product_is_found(bundle):
    before = sorted(path.name for path in UNTRAINED.iterdir())
    one, two = random_inputs(bundle, 300, 0), random_inputs(bundle, 300, 2)
    ranges = measure_ranges(UNTRAINED, bundle, [one, two])
    assert sorted(path.name for path in UNTRAINED.iterdir()) == before, "nothing is left in the bundle"
    assert {r.graph for r in ranges} == {"preprocess", "vision", "prefix", "denoise_step"}
    assert [r.largest for r in ranges] == sorted((r.largest for r in ranges), reverse=True)
    assert ranges[0].largest < 20_000, "scores behind a mask of -30000 are left out"
    assert all(0 < r.rms <= r.largest for r in ranges if r.largest)
    images = {r.tensor: r.largest for r in ranges if r.graph == "vision"}["images"]
    assert images == pytest.approx(1.0), "the images, -1 to 1, are the input of the first product"
    alone = {(r.graph, r.tensor): r.largest for r in measure_ranges(UNTRAINED, bundle, [one])}
    assert all(r.largest >= alone[r.graph, r.tensor] for r in ranges)


def test_no_observation_is_an_error(bundle):
    with pytest.raises(ExportError, match="at least one recorded observation"):
        measure_ranges(UNTRAINED, bundle, [])


def test_half_precision_is_refused_within_eight_times_of_its_end():
    far, near = Range("prefix", "Add", "add_1", 8187.0, 1.0), Range("prefix", "Add", "add_2", 8189.0, 1.0)
    refuse_overflow([far], "fp16")
    refuse_overflow([near], "fp32")
    refuse_overflow([near], "bf16")
    for kind in ("fp16", "int8-weights", "int8-static"):
        with pytest.raises(ExportError, match=r"below 8188.*got 8189 from Add add_2 of prefix.*export bf16.* or fp32"):
            refuse_overflow([near, far], kind)


def test_the_report_names_the_largest_first(tmp_path):
    ranges = [Range("prefix", "Add", "add_1", 655.04, 2.0), Range("vision", "Conv", "conv", 2.0, 0.5)]
    lines = table(ranges, 1)
    assert len(lines) == 2
    assert lines[1].split() == ["prefix", "Add", "add_1", "655", "100"]
    write_report(ranges, tmp_path / "b.ranges.json", "frames", 3)
    written = json.loads((tmp_path / "b.ranges.json").read_text())
    assert (written["source"], written["observations"], len(written["ranges"])) == ("frames", 3, 2)


def test_observations_of_training_frames_have_the_bundles_size_and_units(bundle, tmp_path):
    found = read_observations(frames(tmp_path / "frames"), UNTRAINED, bundle, 3)
    assert len(found) == 3
    assert [inputs.frames[0].shape for inputs in found] == [(240, 320, 3)] * 3
    assert [int(inputs.frames[0].mean()) for inputs in found] == [0, 80, 200]
    np.testing.assert_allclose([inputs.state[0] for inputs in found], [0, 0.2, 0.5], atol=1e-6)
    assert not np.array_equal(found[0].noise, found[1].noise)


def test_frames_of_other_cameras_or_joints_are_refused_in_one_sentence(bundle, tmp_path):
    with pytest.raises(ExportError, match=r"the cameras of the policy, 'wrist' among them, got \('front', 'side'\)"):
        read_observations(frames(tmp_path / "other", second="side"), UNTRAINED, bundle)
    with pytest.raises(ExportError, match="expected the state of 6 joints, got 5 numbers"):
        read_observations(frames(tmp_path / "five", joints="abcde"), UNTRAINED, bundle)


@pytest.mark.parametrize(("count", "held"), [(4, [3]), (7, [6]), (8, [7]), (32, [7, 15, 23, 31])])
def test_what_is_judged_was_not_measured_on(bundle, count, held):
    given = [random_inputs(bundle, 300, seed) for seed in range(count)]
    taken = take_observations(given, bundle, UNTRAINED, hold_out=True)
    assert [next(i for i, one in enumerate(given) if one is inputs) for inputs in taken.held_out] == held
    assert len(taken.measured) + len(held) == count
    assert not {id(one) for one in taken.measured} & {id(one) for one in taken.held_out}
    assert len(take_observations(given, bundle, UNTRAINED, hold_out=False).measured) == count


def test_too_few_observations_to_hold_one_out_are_refused(bundle, tmp_path):
    path = frames(tmp_path / "frames", images=3)
    with pytest.raises(ExportError, match=r"frames: expected at least 4 recorded observations, one of them .*, got 3"):
        take_observations(path, bundle, UNTRAINED, hold_out=True)


def test_observations_of_a_bag_pair_the_cameras_and_joints_of_one_moment(bundle, tmp_path):
    from synthetic_bag import record

    bag = record(tmp_path / "bag", 1.0)
    found = read_observations(bag, UNTRAINED, bundle, 4)
    assert len(found) == 4
    assert {frame.shape for inputs in found for frame in inputs.frames} == {(240, 320, 3)}
    assert len({inputs.state.tobytes() for inputs in found}) == 4, "the arm moves"


@pytest.mark.parametrize("made", [False, True], ids=["missing", "empty"])
def test_what_is_no_recording_is_said_in_one_sentence(bundle, tmp_path, made):
    path = tmp_path / "nothing"
    if made:
        path.mkdir()
    if not made:
        with pytest.raises(ExportError, match="nothing: expected a bag"):  # before the graphs are written
            refuse_precision("int8-static", path)
    with pytest.raises(ExportError, match=r"nothing: cannot be used.*a bag, a LeRobot dataset or training frames"):
        read_observations(path, UNTRAINED, bundle)
