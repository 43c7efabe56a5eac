"""Checkpoints of pi0 and pi0.5 in every form that LeRobot and others write, and the sentence each broken one gets."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from grids_common.host.memory import TooLittleMemory
from grids_policy.export.cameras import ExportError
from grids_policy.export.spec import ExportOptions, policy_spec
from grids_policy.model.cameras import without_cameras
from grids_policy.model.checkpoint import CheckpointError, check_tokenizer, load_checkpoint, save_checkpoint
from grids_policy.model.checkpoint import trained_with as with_release
from grids_policy.model.config import ConfigError
from grids_policy.model.lerobot import ACTION, STATE
from grids_policy.model.pi0.checkpoint import pi0_config, trained_with
from grids_policy.runtime.bundle import LanguageSettings
from grids_policy.runtime.language import policy_language, prompt_text, state_words

TOP = "model.paligemma_with_expert."
WORDS, HEAD = f"{TOP}paligemma.model.language_model.embed_tokens.weight", f"{TOP}paligemma.lm_head.weight"
PRE = "policy_preprocessor.json"


@pytest.fixture(params=["pi0", "pi05"])
def family(request):
    return request.param


@pytest.fixture
def folder(oracle, tmp_path, family):
    return copied(oracle, tmp_path, family)


def copied(oracle, tmp_path, family):
    shutil.copytree(oracle / f"{family}_tiny", tmp_path / family)
    (tmp_path / family / "oracle.npz").unlink()
    return tmp_path / family


def edit_weights(folder, change):
    tensors = {key: tensor.clone() for key, tensor in load_file(folder / "model.safetensors").items()}
    save_file(change(tensors), folder / "model.safetensors")


def edit_json(folder, name, change):
    values = json.loads((folder / name).read_text())
    change(values)
    (folder / name).write_text(json.dumps(values))


def same(first, second):
    one, two = first.policy.state_dict(), second.policy.state_dict()
    return one.keys() == two.keys() and all(torch.equal(tensor, two[name]) for name, tensor in one.items())


def test_names_without_model_and_a_language_head_instead_of_word_embeddings(folder):
    """As the published base models."""
    expected = load_checkpoint(folder)
    edit_weights(
        folder, lambda t: {n.removeprefix("model."): v for n, v in t.items() if n != HEAD} | {HEAD: t[WORDS].clone()}
    )
    edit_weights(folder, lambda t: {n: v for n, v in t.items() if n != WORDS.removeprefix("model.")})
    assert same(load_checkpoint(folder), expected)


def test_word_embeddings_count_where_both_are_there(folder):
    expected = load_checkpoint(folder)
    edit_weights(folder, lambda t: t | {HEAD: t[HEAD] + 1.0})
    assert same(load_checkpoint(folder), expected)


def test_pi05_from_pi0_names_its_time_layers_as_pi0_does(oracle, tmp_path):
    folder = copied(oracle, tmp_path, "pi05")
    expected = load_checkpoint(folder)
    state = {"model.state_proj.weight": torch.zeros(64, 32), "model.state_proj.bias": torch.zeros(64)}
    edit_weights(folder, lambda t: {n.replace(".time_mlp", ".action_time_mlp"): v for n, v in t.items()} | state)
    assert same(load_checkpoint(folder), expected)


def test_unused_weights_are_not_loaded(folder):
    lean, whole = (load_checkpoint(folder, whole=whole).policy for whole in (False, True))
    names = set(dict(whole.named_parameters())) - set(dict(lean.named_parameters()))
    assert {name.split(".")[-2] for name in names} == {
        "q_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "post_attention_layernorm", "norm",
    }  # fmt: skip
    assert all(name.startswith(("language.layers.3.", "language.norm")) for name in names)


@pytest.mark.parametrize("count", [1, 3])
def test_a_load_that_misses_weights_fails(folder, count):
    """LeRobot goes on with random ones."""
    gone = sorted(n for n in load_file(folder / "model.safetensors") if ".gemma_expert.model." in n)[:count]
    edit_weights(folder, lambda t: {n: v for n, v in t.items() if n not in gone})
    with pytest.raises(CheckpointError, match=r"lacks .*gemma_expert"):
        load_checkpoint(folder)


def test_saved_and_read_again(folder, tmp_path, family):
    first = load_checkpoint(folder)
    save_checkpoint(tmp_path / "again", first)
    again = load_checkpoint(tmp_path / "again")
    assert same(again, first)
    assert again.config == first.config
    assert again.lerobot["type"] == f"grids_{family}"  # LeRobot has no variant of these sizes
    assert not again.doubt


def test_full_size_configuration_and_weights_need_no_file_of_ours(family):
    from grids_policy.model.families import build_empty, family_of

    config = pi0_config(family)
    policy = build_empty(config)
    total = sum(p.numel() for p in policy.parameters())
    # LeRobot's count without its language heads, the final norm, and the last language layer's q, o, MLP and norm.
    unused = 789_970_944 + 2_048 + 109_053_952
    assert total == {"pi0": 4_028_019_472, "pi05": 4_143_404_816}[family] - unused
    values, own = family_of(config).write_config(config, {})
    assert own is None
    assert values["type"] == family


@pytest.mark.parametrize("name", ["active_token_sampler", "model.active_token_sampler", "model.token_sampler"])
def test_the_authors_sampler_is_recognised_by_its_weights(folder, name):
    parts = {
        "scout_mlp.0": (96, 24), "scout_mlp.2": (24, 2 * 5), "coord_encoder.0": (2, 12), "coord_encoder.2": (12, 96),
    }  # fmt: skip
    added = {}
    for part, (inputs, outputs) in parts.items():
        added |= {f"{name}.{part}.weight": torch.randn(outputs, inputs), f"{name}.{part}.bias": torch.randn(outputs)}
    edit_weights(folder, lambda t: t | added)
    sampler = load_checkpoint(folder).config.sampler
    assert (sampler.kind, sampler.tokens, sampler.hidden, sampler.coord_hidden) == ("grids", 5, 24, 12)
    assert (sampler.align_corners, sampler.padding) == (True, "border")


def test_a_camera_that_is_not_mounted_changes_no_action(oracle, tmp_path):
    loaded = load_checkpoint(copied(oracle, tmp_path, "pi0"))
    fewer = without_cameras(loaded, {"camera2"})
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(1, 2, 3, 112, 112, generator=generator) * 2 - 1
    state, noise = torch.randn(1, 6, generator=generator), torch.randn(1, 10, 32, generator=generator)
    words = torch.arange(48)[None] + 5, torch.arange(48)[None] < 9
    present = torch.tensor([[True, False]])
    masked = loaded.policy.sample(noise, loaded.policy.encode(images, present, state, *words))
    compact = fewer.policy.sample(noise, fewer.policy.encode(images[:, :1], present[:, :1], state, *words))
    assert (masked - compact).abs().max() < 2e-5


# --- what training knows and files do not -------------------------------------------------------------------------


def without_relative_step(folder):
    steps = lambda v: v.update(steps=[s for s in v["steps"] if "relative" not in s["registry_name"]])  # noqa: E731
    edit_json(folder, PRE, steps)


def test_a_checkpoint_of_an_older_lerobot_is_exported_only_with_its_release(folder, family):
    without_relative_step(folder)
    loaded = load_checkpoint(folder)
    with pytest.raises(ExportError, match=r"give --trained-with 0\.4 or 0\.5"):
        policy_spec(loaded, ExportOptions(cameras="front:camera1,wrist:camera2"))
    old = trained_with(loaded.config, "0.4").conventions
    assert old.image_border == -3.0
    assert old.state_in_prompt == ("padded" if family == "pi05" else "none")
    assert trained_with(loaded.config, "0.5") == loaded.config
    with pytest.raises(ConfigError, match=r"expected 0\.4, or 0\.5"):
        trained_with(loaded.config, "1")


def test_the_border_of_images_is_the_releases(oracle, tmp_path):
    loaded = load_checkpoint(copied(oracle, tmp_path, "pi0"))
    frame = torch.full((1, 60, 112, 3), 255, dtype=torch.uint8)
    for release, border in (("0.4", -3.0), ("0.5", -1.0)):
        loaded.policy.config = trained_with(loaded.config, release)
        image = loaded.policy.preprocess([frame])[0, 0]
        assert image[:, :26].unique().tolist() == [border]
        assert image[:, 26:86].unique().tolist() == [1.0]
        assert image[:, 86:].unique().tolist() == [border]


def test_bfloat16_training_rounds_the_rotary_frequencies(folder):
    edit_json(folder, "config.json", lambda v: v.update(dtype="bfloat16"))
    assert load_checkpoint(folder).config.conventions.rope_bfloat16
    (folder / "train_config.json").write_text('{"policy": {"dtype": "float32"}}')
    assert not load_checkpoint(folder).config.conventions.rope_bfloat16


def test_mixed_16_bit_weights_are_as_far_off_as_lerobots(oracle, tmp_path, family):
    name = f"{family}_tiny"
    loaded = load_checkpoint(oracle / name, bfloat16=True)
    kinds = {n: p.dtype for n, p in loaded.policy.named_parameters()}
    assert kinds["expert.layers.0.mlp.up_proj.weight"] == kinds["language.embed_tokens.weight"] == torch.bfloat16
    assert kinds["vision.layers.0.mlp.fc1.weight"] == kinds["action_out_proj.weight"] == torch.float32
    with np.load(oracle / name / "oracle.npz") as file:
        arrays = {key: torch.from_numpy(file[key]) for key in file.files if not key.startswith("grad")}
    images = torch.stack([arrays["pre/image1"], arrays["pre/image2"]], 1)
    present = torch.ones(2, 2, dtype=torch.bool)
    words = arrays["pre/lang_tokens"], arrays["pre/lang_masks"]
    with torch.no_grad():
        cache = loaded.policy.encode(images, present, arrays["pre/state_normalised"], *words)
        found = loaded.policy.sample(arrays["in/noise"], cache)
    exact, mixed = arrays["out/actions_padded"], arrays["out/actions_padded_mixed_bf16"]
    limit = 2 * (mixed - exact).abs().max()
    assert (found - exact).abs().max() < limit
    assert found.dtype == torch.float32


# --- sentences ----------------------------------------------------------------------------------------------------


def test_the_sentence_of_each_prompt_style():
    style = lambda prompt, **more: LanguageSettings(48, 0, "right", "", prompt, **more)  # noqa: E731
    task = " open_the\ndrawer"
    assert prompt_text(task, style("pi0")) == " open_the\ndrawer\n"
    assert prompt_text(f"{task}\n", style("pi0")) == " open_the\ndrawer\n"
    assert prompt_text(task, style("openpi")) == "open the drawer\n"
    assert prompt_text(task, style("pi05")) == "Task: open the drawer;\nAction: "
    bins = style("pi05", state_numbers=3, state_mode="QUANTILES", state_first=(0.0, 0.0), state_second=(2.0, 2.0))
    assert prompt_text(task, bins, np.array([1.0, 9.0])) == "Task: open the drawer, State: 128 255 128;\nAction: "
    with pytest.raises(ValueError, match="contains the state"):
        prompt_text(task, bins)


def test_states_outside_the_statistics_are_named_as_lerobot_does():
    bins = LanguageSettings(48, 0, "right", "", "pi05", 4, "QUANTILES", (0.0,) * 4, (2.0,) * 4)
    assert state_words(np.array([-0.001, 0.0, 2.0, 50.0], np.float32), bins) == "-1 0 255 255"


def test_the_language_of_a_policy_needs_the_states_statistics(oracle, tmp_path):
    loaded = load_checkpoint(copied(oracle, tmp_path, "pi05"))
    language = policy_language(loaded.config, None, loaded.normalizer(STATE))
    assert (language.pad_id, language.truncation, language.state_numbers) == (0, "right", 6)
    with pytest.raises(ValueError, match=r"normaliser of observation\.state"):
        policy_language(loaded.config, None)


# --- one sentence each --------------------------------------------------------------------------------------------


def test_a_base_model_without_statistics(folder):
    for path in folder.glob("policy_*_step_*.safetensors"):
        path.unlink()
    for name in (PRE, "policy_postprocessor.json"):
        edit_json(folder, name, lambda v: [step.pop("state_file", None) for step in v["steps"]])
    with pytest.raises(CheckpointError, match=r"base models have none of your robot; fine-tune"):
        load_checkpoint(folder)
    assert load_checkpoint(folder, identity_stats=True).normalizer(ACTION).mode == "IDENTITY"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"paligemma_variant": "gemma_7b"}, "paligemma_variant must be one of"),
        ({"dtype": "float16"}, "expected float32 or bfloat16"),
        ({"use_visual_memory": True}, "use_visual_memory=true is not supported"),
        ({"chunk_size": 0}, "chunk_size: expected a whole number"),
        ({"image_resolution": [224]}, "image_resolution: expected two numbers"),
        ({"n_obs_steps": 2}, "n_obs_steps must be 1"),
        ({"min_period": "x"}, "min_period: expected a number"),
    ],
)
def test_a_field_that_cannot_be_used_is_named(folder, change, text):
    (folder / "oracle_config.json").unlink()
    edit_json(folder, "config.json", lambda v: v.update(change))
    with pytest.raises(CheckpointError, match=text):
        load_checkpoint(folder)


def test_another_models_tokenizer(folder, oracle):
    check_tokenizer(load_checkpoint(folder))
    shutil.copyfile(oracle / "tiny" / "tokenizer.json", folder / "tokenizer.json")
    with pytest.raises(CheckpointError, match=r"does not begin a sentence with <bos>.*copy that of google/paligemma"):
        check_tokenizer(load_checkpoint(folder))
    edit_json(folder, "tokenizer.json", lambda v: v["model"]["vocab"].update({f"x{i}": 600 + i for i in range(300)}))
    with pytest.raises(CheckpointError, match=r"tokens, the model 512 word embeddings: it is another model's"):
        check_tokenizer(load_checkpoint(folder))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json; copy that of google/paligemma-3b-pt-224"):
        check_tokenizer(load_checkpoint(folder))


def test_too_little_memory_is_said_before_weights_are_copied(folder, monkeypatch):
    edit_weights(folder, lambda t: {name: tensor.to(torch.bfloat16) for name, tensor in t.items()})
    monkeypatch.setattr("grids_common.host.memory.available_bytes", lambda _: 1 << 20)
    with pytest.raises(TooLittleMemory, match=r"model\.safetensors needs about 0\.0 GiB .* are free: close other"):
        load_checkpoint(folder)


def test_trained_with_is_refused_where_releases_are_alike(oracle, folder):
    assert not with_release(load_checkpoint(folder), "0.5").doubt
    with pytest.raises(ConfigError, match="all releases are alike for smolvla"):
        with_release(load_checkpoint(oracle / "tiny"), "0.5")


def test_a_full_size_checkpoint_has_every_tensor_that_lerobot_reads(family):
    """LeRobot goes on with random weights where one is missing; these are all of its 778 and 813."""
    from grids_policy.model.families import build_empty, family_of

    config = pi0_config(family)
    found = family_of(config)
    own = {found.key(name): tuple(tensor.shape) for name, tensor in build_empty(config).state_dict().items()}
    unused = found.unused(config)
    assert not set(own) & set(unused)
    names = {**own, **unused}
    assert len(names) == {"pi0": 778, "pi05": 813}[family]
    total = sum(torch.Size(shape).numel() for shape in names.values())
    assert total == {"pi0": 4_028_019_472, "pi05": 4_143_404_816}[family]
