"""Units of training data: frame caches carry them, and noise in rad is noise in rad whatever they are."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_training import SPEC, episode

from grids_common.so100 import JOINT_NAMES
from grids_data.units import UnitsError, units
from grids_policy.model.normalize import Normalizer
from grids_policy.model.trained_on import TrainedOn, refuse_impossible_rad, refuse_other_robot, with_choices
from grids_policy.train.cache import CacheError, ShardWriter, open_cache, open_shard, refuse_other_units

torch = pytest.importorskip("torch")


def write_shard(folder: Path, **changes) -> Path:
    writer = ShardWriter(replace(SPEC, **changes))
    writer.append(episode(0))
    writer.write(folder)
    return folder


@pytest.mark.parametrize("known", [units("rad"), units("degrees"), None], ids=["rad", "degrees", "unknown"])
def test_a_frame_cache_says_its_units(tmp_path, known):
    spec = open_shard(write_shard(tmp_path / "s0", units=known, robot_type="so100")).spec
    assert (spec.units, spec.robot_type) == (known, "so100")
    assert spec.units is None or spec.units.calibration == known.calibration


def test_a_frame_cache_from_before_units_is_in_rad(tmp_path):
    path = write_shard(tmp_path / "s0") / "shard.json"
    values = json.loads(path.read_text())
    values["spec"] = {k: v for k, v in values["spec"].items() if k not in ("units", "robot_type")}
    path.write_text(json.dumps(values))
    assert open_shard(path.parent).spec.units == units("rad")


def test_frame_caches_of_different_units_are_refused_in_one_sentence(tmp_path):
    write_shard(tmp_path / "s0", units=units("rad"))
    write_shard(tmp_path / "s1", units=units("degrees"))
    with pytest.raises(CacheError, match="expected rad as in the first, got degrees; convert all"):
        open_cache([tmp_path])
    refuse_other_units(replace(SPEC, units=None), replace(SPEC, units=None))


def normalizer(mean: float, std: float) -> Normalizer:
    """Joint 1 has the given numbers, the others those of a resting arm in rad."""
    means, spreads = torch.full((6,), 0.1), torch.full((6,), 0.2)
    means[1], spreads[1] = mean, std
    return Normalizer("MEAN_STD", means, spreads)


@pytest.mark.parametrize(
    ("mean", "std", "likely"),
    [(-95.0, 40.0, "degrees:"), (6.0, 0.1, "degrees or normalised:"), (0.0, 2.2, "degrees or normalised:")],
)
def test_statistics_beyond_a_full_turn_are_not_rad(mean, std, likely):
    unknown = TrainedOn()
    with pytest.raises(UnitsError, match=likely) as refused:
        refuse_impossible_rad(unknown, with_choices(unknown), [normalizer(mean, std)])
    assert f"--units rad: {JOINT_NAMES[1]} has mean" in str(refused.value)


def test_statistics_that_can_be_rad_are_taken():
    unknown = TrainedOn()
    refuse_impossible_rad(unknown, with_choices(unknown), [normalizer(1.6, 1.5), Normalizer()])
    degrees = TrainedOn(units("degrees"))
    refuse_impossible_rad(degrees, with_choices(degrees), [normalizer(-95.0, 40.0)])
    ends = Normalizer("MIN_MAX", torch.full((6,), -3.2), torch.full((6,), 3.2))
    refuse_impossible_rad(unknown, with_choices(unknown), [ends])


@pytest.mark.parametrize("joint", range(6))
def test_a_file_that_says_rad_is_not_believed_against_the_statistics(joint):
    known, means = TrainedOn(units("rad")), torch.zeros(6)
    means[joint] = 3.5  # half a turn is 3.14
    with pytest.raises(UnitsError, match=r"units rad in grids_dataset.json: .*cannot reach in rad.*: correct the file"):
        refuse_impossible_rad(known, with_choices(known), [Normalizer("MEAN_STD", means, torch.full((6,), 0.1))])


def test_without_statistics_the_user_says_the_units():
    unknown = TrainedOn()
    with pytest.raises(UnitsError, match="--units: neither the checkpoint nor its statistics say"):
        refuse_impossible_rad(unknown, with_choices(unknown), [Normalizer(), Normalizer()])
    refuse_impossible_rad(unknown, with_choices(unknown, "rad"), [Normalizer(), Normalizer()], given=True)
    known = TrainedOn(units("rad"))
    refuse_impossible_rad(known, with_choices(known), [Normalizer(), Normalizer()])


@pytest.mark.parametrize("robot", ["koch_follower", "aloha", "lekiwi", "so200"])
def test_another_robots_checkpoint_is_refused(robot):
    with pytest.raises(UnitsError, match=f"was trained on the robot '{robot}', expected an SO-100"):
        refuse_other_robot(TrainedOn(robot_type=robot))


@pytest.mark.parametrize("robot", ["", "unknown", "so100", "so101_follower", "SO-100", "so_follower", "so100-blue"])
def test_this_robots_names_are_known(robot):
    refuse_other_robot(TrainedOn(robot_type=robot))


def test_training_refuses_rad_that_cannot_be(tmp_path):
    from tiny_training import configured, run_steps

    moved = episode(0)
    writer = ShardWriter(replace(SPEC, units=units("rad")))
    for _ in range(3):
        writer.append(replace(moved, state=moved.state + 60))
    writer.write(tmp_path / "frames" / "s0")
    with pytest.raises(
        UnitsError, match=r"observation.state of the data, in rad: .* they seem to be degrees.*: correct"
    ):
        run_steps(configured(tmp_path / "frames"), tmp_path / "run", 0)


def test_noise_of_the_state_is_in_rad(tmp_path):
    from tiny_training import tiny_run
    from tokenizers import Tokenizer

    from grids_policy.train.feed import Feed, list_samples
    from grids_policy.train.tokenizer import fit_tokenizer

    fit_tokenizer(["do one"], 300, tmp_path / "tokenizer.json")
    words, noise = Tokenizer.from_file(str(tmp_path / "tokenizer.json")), {}
    three = {name: getattr(units("degrees"), name)[:3] for name in ("scale", "offset")}
    for name, known in (("rad", None), ("degrees", replace(units("degrees"), **three))):
        shards = open_cache([write_shard(tmp_path / name, units=None)])
        shards = tuple(replace(s, spec=replace(s.spec, units=known)) for s in shards)
        config = replace(tiny_run(), augment=replace(tiny_run().augment, state_noise_rad=0.1))
        feed = Feed(shards, list_samples(shards), config, words)
        disturbed = feed.batch(np.arange(3), np.random.default_rng(0), config.augment).state
        noise[name] = disturbed - feed.batch(np.arange(3), None, config.augment).state
    np.testing.assert_allclose(noise["degrees"], noise["rad"] * np.abs(three["scale"]), rtol=1e-3, atol=1e-4)
