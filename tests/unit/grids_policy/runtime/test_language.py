"""How sentences become token ids: which side of a long sentence is lost, and that bundles and runs keep it."""

import json

import numpy as np
import pytest

from grids_policy.runtime.bundle import BundleError, LanguageSettings
from grids_policy.runtime.language import copy_tokenizer, encode, load_tokenizer, truncation_side
from grids_policy.train.tokenizer import fit_tokenizer


@pytest.fixture
def tokenizer(tmp_path):
    path = tmp_path / "tokenizer.json"
    fit_tokenizer(["pick up the red cube"], 270, path)
    return path


def say_in_tokenizer_json(path, side):
    values = json.loads(path.read_text())
    values["truncation"] = {"direction": side, "max_length": 7, "strategy": "LongestFirst", "stride": 0}
    path.write_text(json.dumps(values))


def say_in_config(path, side):
    path.with_name("tokenizer_config.json").write_text(json.dumps({"truncation_side": side}))


def test_a_tokenizer_that_does_not_say_is_cut_on_the_left_as_smolvlm2(tokenizer):
    assert truncation_side(load_tokenizer(tokenizer)) == "left"


@pytest.mark.parametrize("side", ["Left", "Right"])
def test_the_side_is_read_from_tokenizer_json(tokenizer, side):
    say_in_tokenizer_json(tokenizer, side)
    assert truncation_side(load_tokenizer(tokenizer)) == side.lower()


@pytest.mark.parametrize(("config", "file"), [("left", "Right"), ("right", "Left")])
def test_tokenizer_config_decides_over_tokenizer_json(tokenizer, config, file):
    say_in_tokenizer_json(tokenizer, file)
    say_in_config(tokenizer, config)
    assert truncation_side(load_tokenizer(tokenizer)) == config


@pytest.mark.parametrize("content", ["[]", "{", '{"truncation_side": "middle"}'])
def test_a_config_that_makes_no_sense_is_named(tokenizer, content):
    tokenizer.with_name("tokenizer_config.json").write_text(content)
    with pytest.raises(BundleError, match=r"tokenizer_config.json: .*expected"):
        load_tokenizer(tokenizer)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_copied_tokenizer_keeps_the_side_without_its_config(tokenizer, tmp_path, side):
    say_in_config(tokenizer, side)
    target = tmp_path / "copy" / "tokenizer.json"
    target.parent.mkdir()
    copy_tokenizer(tokenizer, target)
    assert truncation_side(load_tokenizer(target)) == side


def test_the_recorded_side_is_the_one_that_is_lost(tokenizer):
    sentence = "pick up the red cube and put it into the bowl"
    whole, mask = encode(load_tokenizer(tokenizer), sentence, LanguageSettings(100, 2, "left", ""))
    whole = whole[mask]
    assert len(whole) > 6
    left, _ = encode(load_tokenizer(tokenizer), sentence, LanguageSettings(6, 2, "left", ""))
    right, _ = encode(load_tokenizer(tokenizer), sentence, LanguageSettings(6, 2, "right", ""))
    np.testing.assert_array_equal(left, whole[-6:])
    np.testing.assert_array_equal(right, whole[:6])
