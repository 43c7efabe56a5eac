"""Two policies in the same scenes: the paired interval covers as it should, and only the same scenes are compared."""

import numpy as np
import pytest

from grids_eval.comparison import compare, paired_difference, sign_test
from grids_eval.rollout import EpisodeResult


def episode(seed: int, success: bool, task: str = "pick_place") -> EpisodeResult:
    return EpisodeResult(task, seed, success, 5.0, "" if success else "misplaced", 20.0, 10, 1.0, 0.1, 0.0, {})


@pytest.mark.parametrize(
    "shares", [(0.7, 0.1, 0.1, 0.1), (0.9, 0.06, 0.02, 0.02), (0.4, 0.3, 0.1, 0.2), (0.25, 0.25, 0.25, 0.25)]
)
@pytest.mark.parametrize("count", [20, 100])
def test_the_interval_covers_the_true_difference_in_95_of_100_samples(shares, count):
    rng = np.random.default_rng(count)
    truth = shares[1] - shares[2]
    intervals = [paired_difference(*map(int, rng.multinomial(count, shares)))[1:] for _ in range(2000)]
    covered = np.mean([low <= truth <= high for low, high in intervals])
    assert 0.93 < covered <= 1.0


def test_agreement_on_most_scenes_makes_the_interval_narrow():
    apart = paired_difference(25, 25, 25, 25)
    together = paired_difference(48, 2, 2, 48)
    assert apart[0] == together[0] == 0.0
    assert together[2] - together[1] < 0.5 * (apart[2] - apart[1])


def test_exchanging_the_policies_exchanges_the_sign():
    value, low, high = paired_difference(60, 25, 5, 10)
    assert value == pytest.approx(0.2)
    assert low > 0
    assert paired_difference(60, 5, 25, 10) == pytest.approx((-value, -high, -low))


@pytest.mark.parametrize(("counts", "wanted"), [((0, 0), 1.0), ((5, 5), 1.0), ((0, 5), 0.0625), ((1, 9), 0.021484375)])
def test_the_sign_test_is_exact(counts, wanted):
    assert sign_test(*counts) == pytest.approx(wanted)


def test_scenes_are_paired_within_their_condition_and_task():
    pairs = [
        ("in_distribution", episode(1, True), episode(1, True)),
        ("in_distribution", episode(2, True), episode(2, False)),
        ("ood_light", episode(1, False), episode(1, True)),
    ]
    plain, light = compare(pairs)
    assert (plain.both, plain.only_first, plain.only_second, plain.neither) == (1, 1, 0, 0)
    assert plain.difference == 0.5
    assert (light.condition, light.difference) == ("ood_light", -1.0)


def test_two_different_scenes_are_refused():
    with pytest.raises(ValueError, match="expected the same scene twice"):
        compare([("in_distribution", episode(1, True), episode(2, True))])
