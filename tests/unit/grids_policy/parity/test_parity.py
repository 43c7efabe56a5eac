"""The reference comparison: agreement with LeRobot, and that it fails when it should."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from grids_policy.model.checkpoint import load_checkpoint
from grids_policy.model.files import CheckpointError
from grids_policy.model.lerobot import LM_HEAD, lerobot_key
from grids_policy.parity.cli import Reference, compare, main, read_reference, report
from grids_policy.parity.torch import TorchStages

# float32 rounding: the reference is itself 1.5e-5 from a float64 evaluation in its worst velocity.
FORWARD, ACTIONS, GRADIENTS = 2e-5, 1e-5, 4e-5


def run(arguments):
    """The command without the export, which takes half a minute."""
    return main([*arguments, "--torch-only"])


def rows_of(oracle, name):
    reference = read_reference(oracle / name / "oracle.npz")
    checkpoint = load_checkpoint(oracle / "tiny", overrides=reference.overrides)
    return compare(reference, TorchStages(checkpoint).stages(reference))


@pytest.mark.parametrize("name", ["tiny", "tiny_emptycam"])
def test_every_stage_agrees_with_lerobot(oracle, name):
    rows, skipped = rows_of(oracle, name)
    assert skipped == []
    errors = {row.stage: row.error for row in rows}
    assert {"vis/connector1", "prefix/out", "cache/3/k", "denoise/x_traj"} <= errors.keys() or (name == "tiny_emptycam")
    for stage, error in errors.items():
        limit = GRADIENTS if stage.startswith("grad") else FORWARD
        limit = ACTIONS if stage.startswith("out/") else limit
        assert error <= limit, stage
    assert {s for s, e in errors.items() if e == 0.0} >= {"prefix/position_ids", "pre/image1"}


def test_losses_and_gradients_agree_with_lerobot(oracle):
    errors = {row.stage: row.error for row in rows_of(oracle, "tiny")[0]}
    assert errors["train/loss_all_dims"] <= 1e-6
    assert errors["train/loss_action_dims"] <= 1e-6
    assert sum(stage.startswith("grad/") for stage in errors) == 9
    assert sum(stage.startswith("grad_norm/") for stage in errors) == 124


def with_array(reference, name, array):
    return dataclasses.replace(reference, arrays={**reference.arrays, name: array})


def test_a_parameter_without_gradient_counts_as_zeros_of_its_shape(oracle):
    reference = read_reference(oracle / "tiny" / "oracle.npz")
    checkpoint = load_checkpoint(oracle / "tiny")
    shape = checkpoint.dead[LM_HEAD].shape
    reference = with_array(reference, f"grad/{LM_HEAD}", np.zeros(shape, np.float32))
    unused = next(n for n, _ in checkpoint.policy.named_parameters() if n.startswith("language.layers.3.mlp"))
    reference = with_array(reference, f"grad/{lerobot_key(unused)}", np.zeros((1,), np.float32))
    found = TorchStages(checkpoint).stages(reference)
    assert found[f"grad/{LM_HEAD}"].shape == shape
    assert found[f"grad/{lerobot_key(unused)}"].shape == checkpoint.policy.get_parameter(unused).shape


@pytest.mark.parametrize(
    ("expected", "got", "error"),
    [(77.5, 77.50025, 2.5e-4 / 77.5), (77.5, 78.0, 0.5 / 77.5), (0.01, 0.0102, 2e-4), (0.0, 0.0, 0.0)],
)
def test_gradient_errors_above_one_are_relative(expected, got, error):
    arrays = ({"grad/x": np.full(3, value)} for value in (expected, got))
    reference = Reference(next(arrays), grad_norms={"y": expected})
    rows, _ = compare(reference, {**next(arrays), "grad_norm/y": np.array(got, np.float32)})
    assert [row.error for row in rows] == pytest.approx([error, error], rel=0.05)


def copy_reference(oracle, target, **changes):
    """The tiny reference with some arrays changed, beside a copy of its config."""
    with np.load(oracle / "tiny" / "oracle.npz") as file:
        arrays = {name: file[name] for name in file.files}
    for name, change in changes.items():
        key = name.replace("__", "/")
        arrays[key] = change(arrays[key].copy())
    np.savez(target / "oracle.npz", **arrays)
    return target / "oracle.npz"


def test_exit_status_is_zero_where_all_agree(oracle, capsys):
    folder = oracle / "tiny"
    assert run([str(folder), str(folder / "oracle.npz")]) == 0
    text = capsys.readouterr().out
    assert "out/actions_padded" in text
    assert "within the tolerance 1e-04" in text


@pytest.mark.parametrize("stage", ["out__actions_padded", "cache__2__v", "denoise__v_t0.3", "vis__connector2"])
def test_exit_status_is_one_when_one_number_is_off_by_twice_the_tolerance(oracle, tmp_path, capsys, stage):
    def shift(array):
        array.reshape(-1)[3] += 2e-4
        return array

    path = copy_reference(oracle, tmp_path, **{stage: shift})
    assert run([str(oracle / "tiny"), str(path)]) == 1
    text = capsys.readouterr().out
    assert "ABOVE the tolerance" in text
    assert f"at {stage.replace('__', '/')}" in text


def test_a_stage_of_another_shape_or_with_nan_is_an_error(oracle, tmp_path):
    path = copy_reference(oracle, tmp_path, out__action_chunk=lambda a: a[:, :5], prefix__embs=lambda a: a * np.nan)
    reference = read_reference(path)
    stages = TorchStages(load_checkpoint(oracle / "tiny")).stages(reference)
    errors = {row.stage: row.error for row in compare(reference, stages)[0]}
    assert errors["out/action_chunk"] == errors["prefix/embs"] == np.inf


def test_padded_rows_of_the_cache_are_not_compared(oracle, tmp_path):
    assert not read_reference(oracle / "tiny" / "oracle.npz")["prefix/pad_masks"][1, 160]

    def spoil_padded(array):
        array[1, 160] = 1e6
        return array

    path = copy_reference(oracle, tmp_path, cache__1__k=spoil_padded)
    assert run([str(oracle / "tiny"), str(path)]) == 0


def test_what_cannot_be_used_gives_exit_status_two_and_a_sentence(oracle, tmp_path, capsys):
    npz = str(oracle / "tiny" / "oracle.npz")
    assert run([str(tmp_path), npz]) == 2
    assert "config.json is missing" in capsys.readouterr().err
    assert run([str(oracle / "tiny"), str(tmp_path / "none.npz")]) == 2
    assert "none.npz cannot be read" in capsys.readouterr().err
    (tmp_path / "text.npz").write_text("hello")
    assert run([str(oracle / "tiny"), str(tmp_path / "text.npz")]) == 2
    assert "text.npz cannot be read" in capsys.readouterr().err
    whole = Path(npz).read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    for name, data in (("cut.npz", whole[:-100]), ("flipped.npz", bytes(flipped))):
        (tmp_path / name).write_bytes(data)
        assert run([str(oracle / "tiny"), str(tmp_path / name)]) == 2
        assert f"{name} cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_steps", 9), ("max_period", 5.0), ("image_tokens_scale", None)],
)
def test_a_wrong_constant_is_caught(oracle, tmp_path, field, value):
    path = copy_reference(oracle, tmp_path)
    checkpoint = load_checkpoint(oracle / "tiny", overrides={} if value is None else {field: value})
    if value is None:
        checkpoint.policy.connector.proj.weight.data *= 1.01
    reference = read_reference(path)
    rows, _ = compare(reference, TorchStages(checkpoint).stages(reference))
    assert max(row.error for row in rows) > 1e-2


def test_settings_beside_the_reference_override_the_checkpoints(oracle):
    reference = read_reference(oracle / "tiny_emptycam" / "oracle.npz")
    assert reference.overrides["empty_cameras"] == 1
    beside = json.loads((oracle / "tiny" / "config.json").read_text())
    assert beside["empty_cameras"] == 0
    assert reference.slots == 3
    assert reference.image_mask.tolist() == [[True, True, False]] * 2


def test_stages_without_a_counterpart_are_counted_in_the_table(oracle):
    rows, skipped = compare(read_reference(oracle / "tiny" / "oracle.npz"), {"pre/image1": np.zeros((2, 3, 64, 64))})
    text = report("half", 1e-4, rows, skipped)
    assert "4 of cache/" not in text
    assert "8 of cache/" in text
    assert "124 of grad_norm/" in text


@pytest.mark.parametrize("name", ["oracle_config.json", "grad_norms.json"])
@pytest.mark.parametrize("content", ["{", "[1]", '{"data": 3, "policy": 4}', '{"data": {"tasks": 5}}'])
def test_a_damaged_file_beside_the_reference_is_named(oracle, tmp_path, name, content):
    folder = Path(shutil.copytree(oracle / "tiny", tmp_path / "reference"))
    (folder / name).write_text(content)
    if name == "grad_norms.json" and content.startswith('{"'):
        return  # any object is one
    with pytest.raises(ValueError, match=f"{name}.*(cannot be read|expected)"):
        read_reference(folder / "oracle.npz")


@pytest.mark.parametrize("content", ["{", "{}", '{"vlm": 3}', '{"vlm": {"vision_config": {}}}'])
def test_damaged_sizes_of_the_language_model_are_named_with_their_file(oracle, tmp_path, content):
    folder = Path(shutil.copytree(oracle / "tiny", tmp_path / "checkpoint"))
    (folder / "oracle_config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"oracle_config\.json.*copy it again"):
        load_checkpoint(folder)
