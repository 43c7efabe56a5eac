"""What config.json of a pi0 says to the LeRobot plug-in, and what is read of a config.json that the plug-in wrote."""

import json
from dataclasses import replace

import pytest

from grids_policy.model.checkpoint import CheckpointError, load_checkpoint, save_checkpoint, with_sampler
from grids_policy.model.config import SamplerConfig
from grids_policy.model.lerobot import CheckpointFiles
from grids_policy.model.pi0.checkpoint import beyond_plugin, pi0_config, read_config, write_config


@pytest.fixture(params=["pi0", "pi05"])
def family(request):
    return request.param


@pytest.fixture
def saved(oracle, tmp_path, family):
    """A small policy with GridS as we save it."""
    sampled = with_sampler(load_checkpoint(oracle / f"{family}_tiny"), SamplerConfig("grids", 5, lattice_init=True))
    save_checkpoint(tmp_path / "saved", sampled)
    return tmp_path / "saved"


def test_config_json_alone_describes_the_policy(saved, family):
    written = json.loads((saved / "config.json").read_text())
    assert (written["type"], written["only_in_grids"]) == (f"grids_{family}", "")
    assert (written["sampler"]["tokens"], written["text"]["width"], written["vision"]["depth"]) == (5, 96, 2)
    expected = load_checkpoint(saved).config
    (saved / "grids_config.json").unlink()
    assert load_checkpoint(saved).config == expected


@pytest.mark.parametrize("part", ["sampler", "vision", "text", "expert"])
def test_a_part_that_is_no_object_is_named(saved, part):
    path = saved / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), part: 3}))
    with pytest.raises(CheckpointError, match=rf"config\.json: {part}: expected an object, got 3"):
        load_checkpoint(saved)


def test_files_of_two_checkpoints_are_refused(saved):
    path = saved / "config.json"
    values = json.loads(path.read_text())
    values["text"]["eps"] = 0.1
    path.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=r"text of config\.json and of grids_config\.json differ"):
        load_checkpoint(saved)


def test_a_policy_that_becomes_lerobots_own_keeps_no_field_of_the_plugin(family):
    config = pi0_config(family)
    plugged, _ = write_config(replace(config, sampler=SamplerConfig("grids", 4)), {"tokenizer_name": "words"})
    assert plugged["tokenizer_name"] == "words"
    assert read_config(CheckpointFiles(plugged, None, None, {}, {})).sampler.tokens == 4
    stock, _ = write_config(config, {n: v for n, v in plugged.items() if n not in ("sampler", "only_in_grids")})
    assert stock["type"] == family
    assert not {"vision", "text", "expert", "sampler", "tokenizer_name"} & set(stock)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, ""),
        ({"sampler": SamplerConfig("grids", 4)}, ""),
        ({"sampler": SamplerConfig("topk", 4)}, "sampler.kind is 'topk', not 'grids'"),
        ({"sampler": SamplerConfig("grids", 4, shared=False)}, "sampler.shared is False, not True"),
        ({"resize_hw": (224, 448)}, "image_resolution is (224, 448), not (224, 224)"),
    ],
)
def test_what_the_plugin_cannot_run_says_why(family, change, reason):
    assert beyond_plugin(replace(pi0_config(family), **change)) == reason


def test_heads_depths_and_conventions_of_other_policies_say_why(family):
    config = pi0_config(family)
    text = replace(config, text=replace(config.text, heads=4))
    assert beyond_plugin(text) == "text.heads is 4, not 8"
    expert = replace(config, expert=replace(config.expert, depth=9))
    assert beyond_plugin(expert) == "expert.depth is 9, not 18"
    vision = replace(config, vision=replace(config.vision, activation="relu"))
    assert beyond_plugin(vision) == "vision.activation is 'relu', not 'gelu_tanh'"
    older = replace(config, conventions=replace(config.conventions, image_border=-3.0))
    assert beyond_plugin(older).startswith("conventions is ConventionsConfig(")
    rounded = replace(config, conventions=replace(config.conventions, rope_bfloat16=True))
    assert beyond_plugin(rounded) == ""  # LeRobot's dtype=bfloat16 does it
