"""A bundle is taken whole or refused with the culprit's name."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from repository import ROOT

from grids_policy.runtime.agreement import TOLERANCES
from grids_policy.runtime.bundle import PRECISIONS, BundleError, StoredUnits, load_bundle, read_manifest, seal
from grids_policy.runtime.language import SentenceEncoder

UNTRAINED = ROOT / "models" / "untrained"


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(UNTRAINED, tmp_path / "bundle"))


def manifest_without_seal(folder: Path) -> dict:
    values = json.loads((folder / "policy.json").read_text())
    return {key: value for key, value in values.items() if key not in ("schema", "files", "digest")}


def test_the_shipped_bundle_loads_and_is_small():
    bundle = load_bundle(UNTRAINED)
    assert bundle.parity["passed"]
    assert sum(file.bytes for file in bundle.files.values()) <= 3_000_000
    assert [camera.name for camera in bundle.cameras] == ["front", "wrist"]


@pytest.mark.parametrize("name", sorted(path.name for path in UNTRAINED.iterdir()))
def test_one_changed_byte_names_the_file(folder, name):
    path = folder / name
    data = bytearray(path.read_bytes())
    # In the manifest a digit of a number, elsewhere any byte.
    at = data.index(b"0.0333") + 5 if name == "policy.json" else len(data) // 3
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match=rf"{name}: its bytes changed since export.*expected"):
        load_bundle(folder)


@pytest.mark.parametrize("name", ["prefix.onnx", "tokenizer.json", "policy.json"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(BundleError, match=name):
        load_bundle(folder)


def test_a_truncated_file_says_how_many_bytes_were_expected(folder):
    data = (folder / "vision.onnx").read_bytes()
    (folder / "vision.onnx").write_bytes(data[:-7])
    with pytest.raises(BundleError, match=rf"vision.onnx: expected {len(data)} bytes, got {len(data) - 7}"):
        load_bundle(folder)


def test_a_folder_that_is_no_bundle_is_said(tmp_path):
    with pytest.raises(BundleError, match=r"expected a policy bundle, but policy\.json cannot be read"):
        load_bundle(tmp_path)
    (tmp_path / "policy.json").write_text("[1, 2")
    with pytest.raises(BundleError, match="expected JSON"):
        load_bundle(tmp_path)
    (tmp_path / "policy.json").write_text('{"schema": "something/9"}')
    with pytest.raises(BundleError, match="expected schema 'grids-policy-bundle/3', got 'something/9'"):
        load_bundle(tmp_path)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"joints": None}, "joints: expected a list, got None"),
        ({"extra": 1}, r"unknown \['extra'\]"),
        ({"position_low": [0.0] * 5}, "position_low: expected 6 finite numbers"),
        ({"dt": 0.0}, "expected dt > 0"),
        ({"n_action_steps": 0}, "n_action_steps <= chunk_size"),
        ({"noise_scale": 1.5}, "noise_scale: expected 0 to 1, got 1.5"),
        ({"num_steps": 0}, "expected num_steps of 1 or more and vision_batch 1 or 2, got 0, "),
        ({"vision_batch": 7}, "vision_batch 1 or 2, got 8, 7"),
        ({"parity": {"passed": False}}, "the parity gate did not pass"),
        ({"runs_on": []}, r"runs_on: expected cpu, gpu or both, got \[\]"),
        ({"runs_on": ["tpu"]}, r"runs_on: expected cpu, gpu or both, got \['tpu'\]"),
        ({"dt": "fast"}, "dt: expected float, got 'fast'"),
        ({"state_units": {"name": "rad", "scale": [0.0] * 6, "offset": [0.0] * 6}}, "a unit scale is 0"),
    ],
)
def test_a_manifest_that_does_not_make_sense_is_refused(folder, change, text):
    with pytest.raises(BundleError, match=text):
        seal(folder, manifest_without_seal(folder) | change)


def test_a_bundle_of_the_schema_before_is_read_under_todays_names(folder):
    """tests/data/policy_schema2.json is the policy.json that models/untrained had then, byte for byte."""
    today, text = read_manifest(UNTRAINED), (ROOT / "tests" / "data" / "policy_schema2.json").read_text()
    assert '"execute_rows": 40' in text
    assert "n_action_steps" not in text
    (folder / "policy.json").write_text(text)
    old = read_manifest(folder)
    values = json.loads(text)
    # The files, and what was found about them, are those of that day.
    changed = {"schema": "grids-policy-bundle/2", **{name: values[name] for name in ("digest", "parity", "provenance")}}
    assert old.sampler.items() <= today.sampler.items()
    assert old == dataclasses.replace(today, files=old.files, sampler=old.sampler, **changed)
    assert old.files["vision.onnx"].sha256 == values["files"]["vision.onnx"]["sha256"]
    assert old.bundle_id == f"untrained-{changed['digest'][:12]}"
    (folder / "policy.json").write_text(text.replace('"execute_rows": 40', '"execute_rows": 41'))
    with pytest.raises(BundleError, match="its bytes changed since export"):
        read_manifest(folder)


def test_a_missing_field_is_named(folder):
    values = manifest_without_seal(folder)
    del values["cameras"]
    with pytest.raises(BundleError, match=r"missing \['cameras'\]"):
        seal(folder, values)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"precision": "fp8"}, r"precision: expected fp32, .*, got 'fp8'"),
        ({"convention": "corners"}, r"convention: expected align_corners_false, .*, got 'corners'"),
        ({"missing_camera": ["guess"]}, r"missing_camera: expected mask, black, got 'guess'"),
        ({"language": {"truncation": "middle"}}, r"language\.truncation: expected left, right, got 'middle'"),
        ({"language": {"prompt": "chat"}}, r"language\.prompt: expected .*smolvla.*, got 'chat'"),
        ({"language": {"state_mode": "MAX"}}, r"language\.state_mode: expected IDENTITY, .*, got 'MAX'"),
    ],
)
def test_an_unknown_word_is_refused_with_the_known_ones(folder, change, said):
    values = manifest_without_seal(folder)
    if "language" in change:
        change = {"language": {**values["language"], **change["language"]}}
    with pytest.raises(BundleError, match=said):
        seal(folder, values | change)


def test_every_precision_has_a_tolerance():
    assert tuple(TOLERANCES) == PRECISIONS


def test_a_bundle_from_before_runs_on_is_for_what_its_precision_was(folder):
    values = manifest_without_seal(folder)
    values.pop("runs_on", None)
    assert seal(folder, values).runs_on == ("cpu", "gpu")
    assert seal(folder, values | {"precision": "int8"}).runs_on == ("cpu",)


def test_sealing_again_gives_the_same_identity_for_the_same_bytes(folder):
    before = read_manifest(folder).bundle_id
    assert seal(folder, manifest_without_seal(folder)).bundle_id == before
    assert seal(folder, manifest_without_seal(folder) | {"name": "other"}).bundle_id != before


def test_files_outside_the_folder_are_never_opened(folder):
    text = (folder / "policy.json").read_text().replace('"vision.onnx"', '"../vision.onnx"')
    (folder / "policy.json").write_text(text)
    with pytest.raises(BundleError):
        load_bundle(folder)


@pytest.mark.parametrize(("written", "read"), [("rad", "rad"), ("radians", "rad"), ("normalized", "normalised")])
def test_units_are_read_whatever_their_spelling(folder, written, read):
    stored = {"name": written, "scale": [1.0] * 6, "offset": [0.0] * 6}
    assert seal(folder, manifest_without_seal(folder) | {"state_units": stored}).state_units.system == read


def test_units_of_an_unknown_system_are_refused(folder):
    stored = dataclasses.asdict(StoredUnits("ticks", (1.0,) * 6, (0.0,) * 6))
    with pytest.raises(BundleError, match=r"action_units\.name: expected rad, degrees, normalised, got 'ticks'"):
        seal(folder, manifest_without_seal(folder) | {"action_units": stored})


@pytest.fixture
def encoder():
    return SentenceEncoder(UNTRAINED, read_manifest(UNTRAINED).language)


def test_a_sentence_is_newline_ended_padded_and_masked(encoder):
    language = read_manifest(UNTRAINED).language
    tokens, mask = encoder.encode("put the pen into the cup")
    ended, _ = encoder.encode("put the pen into the cup\n")
    np.testing.assert_array_equal(tokens, ended)
    assert (tokens.dtype, tokens.shape, mask.dtype) == (np.int64, (language.tokenizer_max_length,), np.bool_)
    assert (tokens[~mask] == language.pad_id).all()
    assert mask[: mask.sum()].all()


def test_a_sentence_too_long_loses_its_beginning(encoder):
    tokens, mask = encoder.encode("x" * 200 + " cup")
    short, kept = encoder.encode(" cup")
    assert mask.all()
    np.testing.assert_array_equal(tokens[-kept.sum() :], short[kept])


def test_padding_and_truncation_saved_in_the_tokenizer_file_change_nothing(encoder, folder):
    from tokenizers import Tokenizer

    saved = Tokenizer.from_file(str(folder / "tokenizer.json"))
    saved.enable_padding(length=24, pad_id=0)
    saved.enable_truncation(3)
    saved.save(str(folder / "tokenizer.json"))
    other = SentenceEncoder(folder, read_manifest(folder).language)
    for got, expected in zip(other.encode("stack the cubes"), encoder.encode("stack the cubes"), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_an_empty_sentence_and_a_broken_tokenizer_are_refused(encoder, folder):
    with pytest.raises(ValueError, match="at least one word"):
        encoder.encode("  \n")
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(BundleError, match=r"tokenizer\.json: expected a tokenizers JSON file"):
        SentenceEncoder(folder, read_manifest(folder).language)
