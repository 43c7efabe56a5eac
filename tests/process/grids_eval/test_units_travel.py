"""Units go from dataset to checkpoint to bundle: training in degrees cannot come out as radians."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip("onnx")
pytest.importorskip("pyarrow")

from grids_data.calibration import JointCalibration, save, uncalibrated
from grids_data.dataset.schema import ACTION, STATE, DatasetSpec, image_key, so100_features
from grids_data.dataset.writer import DatasetWriter
from grids_data.units import Units, UnitsError, units
from grids_eval import cli as evaluate
from grids_eval.actors import AbstractActor, ActorObservation, load_actor
from grids_policy.export import cli as export
from grids_policy.model.checkpoint import load_checkpoint, read_trained_on, save_checkpoint
from grids_policy.runtime.bundle import load_bundle
from grids_policy.train import cli as train

HW, FPS = (32, 48), 15
# Every second joint counts backwards, the gripper among them.
CALIBRATION = {
    name: JointCalibration(i + 1, i % 2, 0, j.range_min - 10 * i, j.range_max + 15 * i)
    for i, (name, j) in enumerate(uncalibrated().items())
}
DEGREES = units("degrees", CALIBRATION)
CONFIG = {
    "name": "tiny", "batch": 2, "threads": 1, "precision": "fp32",
    "data": {"held_out_share": 0.0, "frame_stride": 2},
    "optimiser": {"lr": 1e-3, "warmup_steps": 1, "steps": 2, "minutes": 0},
    "model": {
        "image_hw": [list(HW)] * 2, "resize_hw": [32, 32], "max_state_dim": 6, "max_action_dim": 6, "chunk_size": 4,
        "num_steps": 2, "tokenizer_max_length": 8, "relative_actions": [0, 1, 2, 3, 4],
        "vision": {"image_size": 32, "patch": 8, "width": 16, "depth": 1, "heads": 2, "mlp": 32, "shuffle": 2},
        "text": {"width": 16, "depth": 2, "heads": 2, "kv_heads": 1, "head_dim": 8, "mlp": 32, "vocab": 300},
        "expert": {"width": 16, "depth": 2, "mlp": 32},
        "sampler": {"kind": "grids", "tokens": 4, "hidden": 8, "coord_hidden": 4},
    },
}  # fmt: skip


def pose_rad(frame: int) -> np.ndarray:
    """A slow sweep, another one for every joint."""
    return 0.4 * np.sin(0.2 * frame + np.arange(6))


def make_dataset(folder: Path, joint_units: Units | None) -> Path:
    """Two episodes of the sweep in some units; None: degrees that the dataset does not name, as LeRobot's do not."""
    notes = {} if joint_units is None else {"units": joint_units.as_json()}
    stored = joint_units or DEGREES
    writer = DatasetWriter(folder, DatasetSpec(FPS, so100_features(*HW), robot_type="so101", notes=notes))
    for number in range(2):
        one = writer.episode(f"ep-{number}")
        for frame in range(12):
            images = {image_key(c): np.full((*HW, 3), 20 * frame, np.uint8) for c in ("front", "wrist")}
            row = {STATE: stored.from_rad(pose_rad(frame)), ACTION: stored.from_rad(pose_rad(frame + 1))}
            one.add(images, row, "sweep")
        one.close()
    return writer.finish()


def run_training(out: Path, *datasets: Path) -> int:
    config = CONFIG | {"data": CONFIG["data"] | {"dataset": [str(d) for d in datasets]}}
    path = out.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(config))
    return train.main(["--config", str(path), "--out", str(out)])


def act(actor: AbstractActor) -> np.ndarray:
    """A chunk in rad for one pose of the sweep, with noise and images that are always the same."""
    images = tuple(np.full((*hw, 3), 80, np.uint8) for hw in actor.spec.image_hw)
    return actor.act(ActorObservation(images, (True, True), pose_rad(4), "sweep", 3, np.zeros((0, 6))))


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    """Image caches go beside the data."""
    folder = tmp_path_factory.mktemp("units")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        yield folder


@pytest.fixture(scope="module")
def trained(space) -> Path:
    """The checkpoint of a training on degrees."""
    assert run_training(space / "run", make_dataset(space / "degrees", DEGREES)) == 0
    return space / "run" / "checkpoint"


@pytest.fixture(scope="module")
def bundle(space, trained) -> Path:
    """Exported without a word about units or rate."""
    assert export.main([str(trained), str(space / "bundle")]) == 0
    return space / "bundle"


@pytest.fixture
def unsaid(trained, tmp_path) -> Path:
    """The same checkpoint as LeRobot would have written it: nothing about units."""
    folder = tmp_path / "unsaid"
    shutil.copytree(trained, folder)
    (folder / "grids_dataset.json").unlink()
    return folder


def test_the_checkpoint_names_units_calibration_rate_and_robot_of_its_data(trained):
    found = read_trained_on(trained)
    assert found.units == DEGREES
    assert found.units.calibration == CALIBRATION
    assert (found.fps, found.robot_type) == (FPS / 2, "so101")  # every second row is an action step


def test_units_and_rate_survive_loading_and_saving(trained, tmp_path):
    save_checkpoint(tmp_path / "again", load_checkpoint(trained))
    assert read_trained_on(tmp_path / "again") == read_trained_on(trained)


def test_an_export_without_flags_keeps_the_units_and_the_rate_of_the_dataset(bundle):
    made = load_bundle(bundle)
    assert made.state_units == made.action_units == Units("degrees", DEGREES.scale, DEGREES.offset)
    assert made.dt == pytest.approx(2 / FPS)
    assert np.all(np.array(made.position_high) < 2 * np.pi), "limits are rad"


def test_the_same_pose_in_rad_gives_the_same_rad_through_checkpoint_and_bundle(trained, bundle):
    actors = [load_actor(folder) for folder in (trained, bundle)]
    chunks = [act(actor) for actor in actors]
    np.testing.assert_allclose(*chunks, atol=1e-3)
    assert [actor.spec.dt_s for actor in actors] == pytest.approx([2 / FPS, 2 / FPS])
    # Two steps teach nothing, but the statistics hold every target within the sweep's own size.
    assert np.abs(chunks[0]).max() < 2.0


def test_what_contradicts_the_checkpoint_is_refused(trained, tmp_path, capsys):
    save(CALIBRATION, tmp_path / "same.json")
    other = CALIBRATION | {"elbow_flex": dataclasses.replace(CALIBRATION["elbow_flex"], range_min=900)}
    save(other, tmp_path / "other.json")
    for flags, refusal in (
        (["--units", "rad"], "export: --units rad: the checkpoint was trained in degrees; leave --units out"),
        (["--calibration", str(tmp_path / "other.json")], "trained in degrees of another calibration; leave"),
        (["--fps", "30"], "--fps 30: the checkpoint was trained with 7.5 action steps per second; leave --fps out"),
        # The same again is no contradiction: what follows is refused for another reason.
        (
            ["--units", "degrees", "--calibration", str(tmp_path / "same.json"), "--fps", "7.5", "--tokens", "3"],
            "export: tokens: expected",
        ),
    ):
        assert export.main([str(trained), str(tmp_path / "bundle"), *flags]) == 1
        assert refusal in capsys.readouterr().err
        assert not (tmp_path / "bundle").exists()
    assert evaluate.main([str(trained), "--units", "normalized", "--episodes", "1"]) == 1
    assert "--units normalised: the checkpoint was trained in degrees" in capsys.readouterr().err


def test_a_bundle_is_given_no_units(bundle, capsys):
    with pytest.raises(SystemExit):
        evaluate.main([str(bundle), "--units", "rad"])
    assert "a bundle contains its own" in capsys.readouterr().err


def test_a_checkpoint_without_units_whose_numbers_cannot_be_rad_is_refused(unsaid, tmp_path, capsys):
    for flags in ([], ["--units", "rad"]):
        assert export.main([str(unsaid), str(tmp_path / "bundle"), *flags]) == 1
        refusal = capsys.readouterr().err
        assert "--units rad: shoulder_pan has mean" in refusal
        assert "they seem to be degrees or normalised: give --units and --calibration" in refusal
        assert "Traceback" not in refusal
    with pytest.raises(UnitsError, match="--units rad: shoulder_pan has mean"):
        load_actor(unsaid)


def test_a_checkpoint_without_units_takes_them_from_the_command_line(unsaid, trained, tmp_path):
    save(CALIBRATION, tmp_path / "same.json")
    told = load_actor(unsaid, fps=15.0, system="degrees", calibration=tmp_path / "same.json")
    assert told.spec.dt_s == pytest.approx(1 / 15)
    np.testing.assert_array_equal(act(told), act(load_actor(trained)))


@pytest.mark.parametrize(
    ("other", "refusal"),
    [
        (units("rad"), "expected degrees as in the first, got rad"),
        (units("degrees"), "expected degrees as in the first, got degrees of another calibration"),
        (None, "expected degrees as in the first, got unknown units"),
    ],
    ids=["rad", "calibration", "unsaid"],
)
@pytest.mark.usefixtures("trained")
def test_data_of_different_units_are_not_mixed(space, tmp_path, capsys, other, refusal):
    assert run_training(tmp_path / "run", space / "degrees", make_dataset(tmp_path / "other", other)) == 1
    assert refusal in capsys.readouterr().err


def test_units_that_cannot_be_read_are_refused_with_their_file(trained, tmp_path):
    folder = tmp_path / "broken"
    shutil.copytree(trained, folder)
    tree = json.loads((folder / "grids_dataset.json").read_text())
    (folder / "grids_dataset.json").write_text(json.dumps(tree | {"fps": -1}))
    with pytest.raises(ValueError, match=r"grids_dataset\.json: fps: expected a rate above 0, got -1"):
        load_checkpoint(folder)
