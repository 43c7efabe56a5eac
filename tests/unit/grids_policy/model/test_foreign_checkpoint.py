"""Checkpoints that others trained: what their files say beside the weights, and how they may be damaged."""

import json
import shutil
from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from grids_data.units import UnitsError
from grids_data.units import units as build_units
from grids_policy.model import lerobot, processors
from grids_policy.model.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    meaning_of,
    save_checkpoint,
)
from grids_policy.model.config import PolicyConfig, SamplerConfig
from grids_policy.model.files import read_tensors
from grids_policy.model.initialise import init_weights
from grids_policy.model.lerobot import LM_HEAD
from grids_policy.model.smolvla import SmolVLA

PRE, POST = "policy_preprocessor.json", "policy_postprocessor.json"
CAMERAS = [f"observation.images.camera{n}" for n in (1, 2)]
WRIST, FRONT = "observation.images.wrist", "observation.images.front"
CROSSED = {WRIST: CAMERAS[0], FRONT: CAMERAS[1]}


def edit(folder, name, change):
    path = folder / name
    values = json.loads(path.read_text()) if path.exists() else {}
    change(values)
    path.write_text(json.dumps(values))


def step(values, name):
    return next(s for s in values["steps"] if s["registry_name"] == name)


def set_rename_map(folder, renamed):
    edit(folder, PRE, lambda v: step(v, "rename_observations_processor")["config"].update(rename_map=renamed))


def small(config, seed=0, **fields):
    policy = SmolVLA(config)
    init_weights(policy, seed)
    names = [f"{feature}.{name}" for feature in ("observation.state", "action") for name in ("mean", "std")]
    return Checkpoint(policy.eval(), {name: torch.rand(6) + 0.5 for name in names}, **fields)


# --- cameras ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["pre-processor", "train_config", "both"])
def test_the_rename_map_names_the_robots_cameras(tiny, place):
    if place != "train_config":
        set_rename_map(tiny, CROSSED)
    if place != "pre-processor":
        edit(tiny, "train_config.json", lambda v: v.update(rename_map=CROSSED))
    assert load_checkpoint(tiny).cameras == ("wrist", "front")
    assert load_checkpoint(tiny, cameras=["wrist", "front"]).config.cameras == ("camera1", "camera2")
    with pytest.raises(CheckpointError, match="expected the checkpoint's cameras"):
        load_checkpoint(tiny, cameras=["front", "wrist"])


def test_without_a_rename_map_the_names_are_the_checkpoints(tiny):
    set_rename_map(tiny, {"observation.joints": "observation.state"})
    assert load_checkpoint(tiny).cameras == ("camera1", "camera2")


@pytest.mark.parametrize(
    ("renamed", "message"),
    [
        ({FRONT: CAMERAS[0], WRIST: CAMERAS[0]}, "camera1 is both front and wrist"),
        ({FRONT: "observation.images.camera9"}, "camera9, which config.json does not have"),
        ({"observation.images.camera2": CAMERAS[0]}, "each needs a name of its own"),
        ({FRONT: 3}, "expected feature names"),
        ([FRONT], "rename_map of rename_observations_processor: got"),
    ],
)
def test_a_rename_map_that_says_nothing_sensible_is_refused(tiny, renamed, message):
    set_rename_map(tiny, renamed)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tiny)


def test_two_rename_maps_that_differ_are_refused(tiny):
    set_rename_map(tiny, CROSSED)
    edit(tiny, "train_config.json", lambda v: v.update(rename_map={FRONT: CAMERAS[0], WRIST: CAMERAS[1]}))
    with pytest.raises(
        CheckpointError, match=r"rename_map of policy_preprocessor.json is .* remove the one that is wr"
    ):
        load_checkpoint(tiny)


# --- what the training data were -------------------------------------------------------------------------------


def dataset(folder, **info):
    (folder / "meta").mkdir(parents=True)
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    return str(folder)


def test_rate_units_and_robot_come_from_the_dataset_that_train_config_names(tiny, tmp_path):
    known = build_units("degrees")
    root = dataset(tmp_path / "d", fps=15, robot_type="so101_follower", units=known.as_json())
    edit(tiny, "train_config.json", lambda v: v.update(dataset={"repo_id": "me/cubes", "root": root}))
    found = load_checkpoint(tiny)
    assert (found.trained_on.fps, found.trained_on.robot_type) == (15.0, "so101_follower")
    assert meaning_of(found).units == known
    assert meaning_of(found).fps == 15.0
    with pytest.raises(UnitsError, match="--fps 30: the checkpoint was trained with 15 action steps per second"):
        meaning_of(found, fps=30.0)
    with pytest.raises(UnitsError, match="--units rad: the checkpoint was trained in degrees"):
        meaning_of(found, "rad")


def test_a_dataset_in_lerobots_cache_is_found(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_LEROBOT_HOME", str(tmp_path))
    dataset(tmp_path / "me" / "cubes", fps=10)
    edit(tiny, "train_config.json", lambda v: v.update(dataset={"repo_id": "me/cubes", "root": None}))
    assert load_checkpoint(tiny).trained_on.fps == 10.0


def test_two_rates_that_differ_are_refused(tiny, tmp_path):
    root = dataset(tmp_path / "d", fps=15)
    edit(tiny, "train_config.json", lambda v: v.update(dataset={"root": root, "fps": 30}))
    with pytest.raises(CheckpointError, match=r"train_config.json is 30; fps of its meta/info.json is 15"):
        load_checkpoint(tiny)
    edit(tiny, "train_config.json", lambda v: v.update(dataset={"fps": 30}))
    stored = {"schema": "grids-dataset/1", "units": None, "fps": 15, "robot_type": ""}
    (tiny / "grids_dataset.json").write_text(json.dumps(stored))
    with pytest.raises(CheckpointError, match=r"fps is 15 in grids_dataset.json and 30 in train_config.json"):
        load_checkpoint(tiny)


def test_another_robots_dataset_is_refused(tiny, tmp_path):
    root = dataset(tmp_path / "d", fps=30, robot_type="koch_follower", units=build_units("degrees").as_json())
    edit(tiny, "train_config.json", lambda v: v.update(dataset={"root": root}))
    with pytest.raises(UnitsError, match="trained on the robot 'koch_follower'"):
        meaning_of(load_checkpoint(tiny))


# --- what LeRobot's own processors say -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["STATE", "ACTION"])
def test_a_norm_map_that_contradicts_config_json_is_refused(tiny, kind):
    edit(tiny, PRE, lambda v: step(v, "normalizer_processor")["config"]["norm_map"].update({kind: "MIN_MAX"}))
    with pytest.raises(
        CheckpointError, match=f"normalises {kind} by MEAN_STD but policy_preprocessor.json by 'MIN_MAX"
    ):
        load_checkpoint(tiny)


def test_the_post_processors_norm_map_counts_too(tiny):
    edit(tiny, POST, lambda v: step(v, "unnormalizer_processor")["config"]["norm_map"].update(ACTION="IDENTITY"))
    with pytest.raises(CheckpointError, match=r"ACTION by MEAN_STD but policy_postprocessor.json by 'IDENTITY'"):
        load_checkpoint(tiny)


def test_normalised_images_are_refused(tiny):
    edit(tiny, "config.json", lambda v: v["normalization_mapping"].update(VISUAL="MEAN_STD"))
    with pytest.raises(CheckpointError, match=r"config.json normalises VISUAL by 'MEAN_STD'"):
        load_checkpoint(tiny)


def test_a_step_that_is_not_applied_here_is_refused(tiny):
    crop = {"registry_name": "image_crop_resize_processor", "config": {}}
    edit(tiny, PRE, lambda v: v["steps"].insert(0, crop))
    with pytest.raises(CheckpointError, match=r"policy_preprocessor.json has the step 'image_crop_resize_processor'"):
        load_checkpoint(tiny)


def test_another_sentence_length_is_refused(tiny):
    edit(tiny, PRE, lambda v: step(v, "tokenizer_processor")["config"].update(max_length=12))
    with pytest.raises(CheckpointError, match=r"tokenizer_max_length 40 but .* max_length 12"):
        load_checkpoint(tiny)


# --- relative actions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("joints", [(0, 1, 2, 3, 4), (5,), (0, 2), tuple(range(6))])
def test_relative_actions_are_written_as_lerobots_steps_and_read_from_them(small_config, tmp_path, joints):
    config = replace(small_config, relative_actions=joints)
    save_checkpoint(tmp_path / "c", small(config))
    before, after = (json.loads((tmp_path / "c" / name).read_text()) for name in (PRE, POST))
    names = [s["registry_name"] for s in before["steps"]]
    assert names.index("relative_actions_processor") + 1 == names.index("normalizer_processor")
    assert [s["registry_name"] for s in after["steps"]][:2] == ["unnormalizer_processor", "absolute_actions_processor"]
    edit(tmp_path / "c", "grids_config.json", lambda v: v.pop("relative_actions"))
    assert load_checkpoint(tmp_path / "c").config.relative_actions == joints
    save_checkpoint(tmp_path / "again", load_checkpoint(tmp_path / "c"))
    assert json.loads((tmp_path / "again" / PRE).read_text()) == before


def test_the_old_form_is_read_and_written_as_the_new_one(small_config, tmp_path):
    config = replace(small_config, relative_actions=(0, 1))
    made = small(config)
    old = processors.processor_configs(replace(config, relative_actions=()), made.norm_modes)
    save_checkpoint(tmp_path / "c", made)
    for name, values in old.items():
        (tmp_path / "c" / f"{name}.json").write_text(json.dumps(values))
    loaded = load_checkpoint(tmp_path / "c")
    assert loaded.config.relative_actions == (0, 1)
    save_checkpoint(tmp_path / "new", loaded)
    assert "relative_actions_processor" in (tmp_path / "new" / PRE).read_text()


def add_relative(folder, **config):
    values = {"enabled": True, "exclude_joints": [], "action_names": None, **config}
    edit(folder, PRE, lambda v: v["steps"].append({"registry_name": "relative_actions_processor", "config": values}))
    done = {"registry_name": "absolute_actions_processor", "config": {"enabled": values["enabled"]}}
    edit(folder, POST, lambda v: v["steps"].append(done))


def test_lerobots_own_relative_checkpoints_are_read(tiny):
    names = [f"{name}.pos" for name in ("pan", "lift", "elbow", "flex", "roll", "gripper")]
    add_relative(tiny, exclude_joints=["Gripper"], action_names=names)
    assert load_checkpoint(tiny).config.relative_actions == (0, 1, 2, 3, 4)


@pytest.mark.parametrize(("config", "joints"), [({}, tuple(range(6))), ({"enabled": False}, ())])
def test_without_exclusions_every_action_is_relative_and_a_disabled_step_does_nothing(tiny, config, joints):
    add_relative(tiny, **config)
    assert load_checkpoint(tiny).config.relative_actions == joints


def test_relative_actions_without_a_way_back_are_refused(tiny):
    add_relative(tiny)
    edit(tiny, POST, lambda v: v["steps"].pop())
    with pytest.raises(CheckpointError, match=r"policy_preprocessor.json makes actions relative but .*postprocessor"):
        load_checkpoint(tiny)


def test_without_names_no_joint_is_excluded_as_in_lerobot(tiny):
    add_relative(tiny, exclude_joints=["gripper"])
    assert load_checkpoint(tiny).config.relative_actions == (0, 1, 2, 3, 4, 5)
    edit(tiny, "config.json", lambda v: v.update(action_feature_names=["a"]))
    with pytest.raises(CheckpointError, match="action_names has no names of the 6 action dims"):
        load_checkpoint(tiny)
    edit(tiny, "config.json", lambda v: v.update(action_feature_names=["a", "b", "c", "d", "e", "gripper"]))
    assert load_checkpoint(tiny).config.relative_actions == (0, 1, 2, 3, 4)


def test_two_files_that_make_other_actions_relative_are_refused(small_config, tmp_path):
    save_checkpoint(tmp_path / "c", small(replace(small_config, relative_actions=(0, 1))))
    edit(tmp_path / "c", "grids_config.json", lambda v: v.update(relative_actions=[2]))
    with pytest.raises(CheckpointError, match=r"grids_config.json makes the actions \[2\] relative"):
        load_checkpoint(tmp_path / "c")


# --- what LeRobot may open -------------------------------------------------------------------------------------


def written_type(checkpoint, folder):
    save_checkpoint(folder, checkpoint)
    load_checkpoint(folder)
    return json.loads((folder / "config.json").read_text())["type"]


@pytest.mark.parametrize("lattice", [True, False])
@pytest.mark.parametrize("kind", ["grids", "topk", "random"])
def test_a_sampled_checkpoint_has_a_type_that_lerobot_refuses(tiny, tmp_path, kind, lattice):
    from grids_policy.model.checkpoint import with_sampler

    sampler = SamplerConfig(kind, tokens=16, lattice_init=lattice, margin=0.05)
    sampled = with_sampler(load_checkpoint(tiny), sampler)
    assert written_type(sampled, tmp_path / "sampled") == "grids_smolvla"
    back = with_sampler(load_checkpoint(tmp_path / "sampled"), SamplerConfig())
    assert written_type(back, tmp_path / "dense") == "smolvla"


def test_per_step_statistics_and_another_activation_have_that_type_too(small_config, tmp_path):
    dense = replace(small_config, sampler=SamplerConfig(), vision=replace(small_config.vision, stem=(), patch=8))
    smol = replace(dense, vision=replace(dense.vision, activation="gelu_tanh"))
    assert written_type(small(dense), tmp_path / "relu") == "grids_smolvla"
    assert "no SmolVLM" in json.loads((tmp_path / "relu" / "config.json").read_text())["only_in_grids"]
    made = small(smol)
    assert written_type(made, tmp_path / "dense") == "smolvla"
    for name in ("action.mean", "action.std"):
        made.statistics[name] = made.statistics[name].repeat(smol.chunk_size, 1)
    assert written_type(made, tmp_path / "steps") == "grids_smolvla"
    again = load_checkpoint(tmp_path / "steps")
    assert "action step" in again.lerobot["only_in_grids"]
    again.statistics.update({name: again.statistics[name][0] for name in ("action.mean", "action.std")})
    assert written_type(again, tmp_path / "mean") == "smolvla"
    assert "only_in_grids" not in json.loads((tmp_path / "mean" / "config.json").read_text())


def test_the_plugin_may_run_what_its_config_describes(tiny, tmp_path):
    from grids_policy.model.checkpoint import with_sampler

    sampler = SamplerConfig("grids", 5, lattice_init=True)
    assert written_type(with_sampler(load_checkpoint(tiny), sampler), tmp_path / "c") == "grids_smolvla"
    written = json.loads((tmp_path / "c" / "config.json").read_text())
    assert (written["sampler"], written["only_in_grids"]) == ({**asdict(sampler), "nested": []}, "")
    edit(tmp_path / "c", "config.json", lambda v: v["sampler"].update(margin=0.1))
    with pytest.raises(CheckpointError, match=r"sampler of config.json and of grids_config.json differ"):
        load_checkpoint(tmp_path / "c")


def test_a_full_size_checkpoint_of_the_plugin_needs_no_file_of_ours():
    config = PolicyConfig(sampler=SamplerConfig("grids", 5, margin=0.1))
    raw = lerobot.lerobot_config(config, {})
    assert lerobot.policy_config(raw, None, None) == config
    assert lerobot.grids_config(config) is not None  # the language head is not in our files


@pytest.mark.parametrize(
    ("sampler", "reason"),
    [
        ({"kind": "topk"}, "sampler.kind is 'topk', not 'grids'"),
        ({"kind": "grids", "after_layer": 1}, "sampler.after_layer is 1, not -1"),
        ({"kind": "grids", "shared": False}, "sampler.shared is False, not True"),
        ({"kind": "grids", "nested": (4, 16)}, "sampler.nested is (4, 16), not ()"),
    ],
)
def test_what_the_plugin_cannot_run_says_why(sampler, reason):
    assert lerobot.lerobot_config(PolicyConfig(sampler=SamplerConfig(**sampler)), {})["only_in_grids"] == reason


def test_the_old_spelling_of_a_grids_checkpoint_is_read(small_config, tmp_path):
    made = small(small_config)
    save_checkpoint(tmp_path / "c", made)
    edit(tmp_path / "c", "config.json", lambda v: v.update(type="smolvla"))
    assert load_checkpoint(tmp_path / "c").config == made.config


def test_full_size_heads_of_another_number_are_not_lerobots():
    config = PolicyConfig()
    assert lerobot.lerobot_config(config, {})["type"] == "smolvla"
    other = replace(config, vision=replace(config.vision, heads=6))
    assert lerobot.lerobot_config(other, {})["type"] == "grids_smolvla"


def test_a_small_dense_checkpoint_has_every_tensor_of_lerobots_model(small_config, tmp_path):
    vision = replace(small_config.vision, stem=(), patch=8, activation="gelu_tanh")
    config = replace(small_config, sampler=SamplerConfig(), vision=vision)
    save_checkpoint(tmp_path / "c", small(config))
    head = load_file(tmp_path / "c" / "model.safetensors")[LM_HEAD]
    assert head.shape == (config.text.vocab, config.text.width)


# --- damage ----------------------------------------------------------------------------------------------------


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 1234\n"
JSON_FILES = ("config.json", PRE, POST, "train_config.json", "grids_dataset.json", "grids_config.json")


@pytest.fixture
def complete(tiny):
    """The tiny checkpoint with every optional file."""
    stored = {"schema": "grids-dataset/1", "units": build_units("degrees").as_json(), "fps": 30, "robot_type": "so100"}
    (tiny / "grids_dataset.json").write_text(json.dumps(stored))
    trained = {"rename_map": CROSSED, "dataset": {"repo_id": "me/nothing", "root": None}}
    (tiny / "train_config.json").write_text(json.dumps(trained))
    (tiny / "grids_config.json").write_text(json.dumps(lerobot.all_parts(load_checkpoint(tiny).config)))
    (tiny / "oracle_config.json").unlink()
    load_checkpoint(tiny)
    return tiny


def read_or_refuse(folder):
    """Either the checkpoint loads, or one sentence says why."""
    try:
        meaning_of(load_checkpoint(folder))
    except (CheckpointError, UnitsError) as refused:
        text = str(refused)
        assert "\n" not in text.strip(), text
        assert len(text) > 20, text
        return text
    return ""


@pytest.mark.parametrize("damage", ["deleted", "empty", "halved", "null", "list", "number", "pointer", "binary"])
def test_every_damaged_file_gets_one_sentence(complete, damage):
    for path in sorted(complete.iterdir()):
        if path.suffix == ".npz" or path.name in ("grad_norms.json", "tokenizer.json"):
            continue
        data = path.read_bytes()
        broken = {
            "deleted": None, "empty": b"", "halved": data[: len(data) // 2], "null": b"null", "list": b"[]",
            "number": b"7", "pointer": POINTER, "binary": bytes(range(256)) * 4,
        }[damage]  # fmt: skip
        path.unlink() if broken is None else path.write_bytes(broken)
        text = read_or_refuse(complete)
        if damage != "deleted":
            assert path.name in text, text
        if damage == "pointer":
            assert "is a Git LFS pointer" in text
        path.write_bytes(data)
    assert read_or_refuse(complete) == ""


def leaves(tree, path=()):
    """The path of every value in a JSON tree, the containers included."""
    if path:
        yield path
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield from leaves(value, (*path, key))


@pytest.mark.parametrize("value", [None, "text", -1, [], {}], ids=repr)
@pytest.mark.parametrize("name", JSON_FILES)
def test_every_field_of_every_json_file_may_be_nonsense(complete, name, value, monkeypatch):
    """No traceback: the checkpoint loads (the field is not used) or is refused in one sentence."""
    original = json.loads((complete / name).read_text())
    weights = load_file(complete / "model.safetensors")
    monkeypatch.setattr(
        "grids_policy.model.checkpoint.read_tensors",
        lambda path: weights if path.name == "model.safetensors" else read_tensors(path),
    )
    for path in leaves(original):
        if len(path) > 4:
            continue
        tree = json.loads(json.dumps(original))
        owner = tree
        for key in path[:-1]:
            owner = owner[key]
        owner[path[-1]] = value
        (complete / name).write_text(json.dumps(tree))
        read_or_refuse(complete)


def test_missing_fields_are_named(tiny):
    for name in ("input_features", "output_features", "chunk_size"):
        folder = tiny.with_name(name)
        shutil.copytree(tiny, folder)
        for change in (lambda v, n=name: v.update({n: None}), lambda v, n=name: v.pop(n)):
            edit(folder, "config.json", change)
            with pytest.raises(CheckpointError, match=name):
                load_checkpoint(folder)


@pytest.mark.parametrize("kind", ["act", "diffusion", None, 3])
def test_another_kind_of_policy_is_named(tiny, kind):
    edit(tiny, "config.json", lambda v: v.update(type=kind))
    with pytest.raises(CheckpointError, match=f"type must be one of smolvla, .*pi05.*; got {kind!r}"):
        load_checkpoint(tiny)


def test_the_count_of_images_may_have_two_shapes(tiny):
    """As LeRobot 0.6.1 trains: (1,) behind the network and (1, 1, 1) before it."""
    for path, shape in zip(sorted(tiny.glob("policy_*.safetensors")), ((1,), (1, 1, 1)), strict=True):
        save_file({**load_file(path), f"{CAMERAS[0]}.count": torch.full(shape, 200.0)}, path)
    load_checkpoint(tiny)


def test_statistics_for_another_number_of_joints_are_refused(tiny):
    for path in tiny.glob("policy_*.safetensors"):
        save_file({key: tensor[:5].clone() for key, tensor in load_file(path).items()}, path)
    with pytest.raises(CheckpointError, match=r"has shape \(5,\), expected \(6,\)"):
        load_checkpoint(tiny)
