"""Checkpoint folders: what is read, what is written, and the sentence each broken one gets."""

import dataclasses
import json
import re

import pytest
import torch
from repository import ROOT
from safetensors.torch import load_file, save_file

from grids_policy.model import lerobot
from grids_policy.model.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
    with_finer_images,
    with_sampler,
)
from grids_policy.model.config import PolicyConfig, SamplerConfig
from grids_policy.model.initialise import init_weights
from grids_policy.model.lerobot import LM_HEAD
from grids_policy.model.normalize import Normalizer
from grids_policy.model.processors import processor_configs
from grids_policy.model.smolvla import SmolVLA
from grids_policy.runtime.bundle import read_manifest

DEMO = ROOT / "models" / "demo-checkpoint"
STATS = "policy_preprocessor_step_5_normalizer_processor.safetensors"
POST_STATS = "policy_postprocessor_step_0_unnormalizer_processor.safetensors"
VLM = "model.vlm_with_expert.vlm.model."


def edit_weights(folder, change, name="model.safetensors"):
    tensors = load_file(folder / name)
    tensors = {key: tensor.clone() for key, tensor in tensors.items()}
    tensors = change(tensors) or tensors
    save_file(tensors, folder / name)


def edit_json(folder, change, name="config.json"):
    values = json.loads((folder / name).read_text())
    change(values)
    (folder / name).write_text(json.dumps(values))


def same_weights(first: SmolVLA, second: SmolVLA) -> bool:
    pair = first.state_dict(), second.state_dict()
    return pair[0].keys() == pair[1].keys() and all(
        torch.equal(tensor, pair[1][name]) for name, tensor in pair[0].items()
    )


def small_checkpoint(config, seed=0):
    policy = SmolVLA(config)
    init_weights(policy, seed)
    stats = {
        f"{feature}.{name}": torch.rand(6) + 0.5
        for feature in ("observation.state", "action")
        for name in ("mean", "std")
    }
    return Checkpoint(policy, stats)


def test_a_lerobot_folder_is_read_completely(tiny):
    loaded = load_checkpoint(tiny, cameras=["camera1", "camera2"])
    config = loaded.config
    assert config.cameras == ("camera1", "camera2")
    assert config.image_hw == ((48, 64), (60, 45))
    assert (config.grid, config.image_tokens, config.chunk_size) == ((8, 8), 64, 10)
    assert (config.text.depth, config.expert.width, config.expert.mlp) == (4, 72, 256)
    assert loaded.tokenizer == tiny / "tokenizer.json"
    assert sum(p.numel() for p in loaded.policy.parameters()) + loaded.dead[LM_HEAD].numel() == 832944


def test_what_is_saved_is_what_was_loaded(tiny, tmp_path):
    loaded = load_checkpoint(tiny)
    save_checkpoint(tmp_path / "again", loaded)
    before, after = (load_file(f / "model.safetensors") for f in (tiny, tmp_path / "again"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    for name in ("policy_preprocessor.json", "policy_postprocessor.json", "tokenizer.json"):
        assert json.loads((tiny / name).read_text()) == json.loads((tmp_path / "again" / name).read_text())
    old, new = (json.loads((f / "config.json").read_text()) for f in (tiny, tmp_path / "again"))
    assert new == old
    again = load_checkpoint(tmp_path / "again")
    assert again.config == loaded.config
    assert same_weights(again.policy, loaded.policy)
    assert not list(tmp_path.glob("*.partial"))


def test_a_full_size_dense_policy_needs_no_file_of_ours():
    assert lerobot.grids_config(PolicyConfig()) is None
    written = lerobot.lerobot_config(PolicyConfig(), {})
    assert not [key for key in written if "grid" in key]
    assert lerobot.policy_config(written, None, None) == PolicyConfig()


def test_processors_made_from_scratch_equal_those_lerobot_saved(tiny):
    loaded = load_checkpoint(tiny)
    made = processor_configs(loaded.config, loaded.norm_modes)
    for name in ("policy_preprocessor", "policy_postprocessor"):
        assert made[name] == json.loads((tiny / f"{name}.json").read_text())


def test_a_shorter_chunk_never_executes_more_than_itself(tiny):
    loaded = load_checkpoint(tiny)
    shorter = dataclasses.replace(loaded.config, chunk_size=7)
    assert lerobot.lerobot_config(shorter, loaded.lerobot)["n_action_steps"] == 7


def test_saving_replaces_an_older_checkpoint(small_config, tmp_path):
    for seed in (0, 1):
        save_checkpoint(tmp_path / "last", small_checkpoint(small_config, seed))
    expected = small_checkpoint(small_config, 1).policy
    assert same_weights(load_checkpoint(tmp_path / "last").policy, expected)


def test_saving_never_replaces_what_is_no_checkpoint(small_config, tmp_path):
    (tmp_path / "thesis.txt").write_text("years")
    with pytest.raises(CheckpointError, match="is not a checkpoint and would be lost"):
        save_checkpoint(tmp_path, small_checkpoint(small_config, 0))
    assert (tmp_path / "thesis.txt").read_text() == "years"


@pytest.mark.parametrize(
    "sampler",
    [
        SamplerConfig(kind="grids", tokens=4, shared=False, pooling="conv", align_corners=True),
        SamplerConfig(kind="grids", tokens=6, input_norm=True, margin=0.05, coord_embedding=False),
        SamplerConfig(kind="topk", tokens=9),
        SamplerConfig(),
    ],
    ids=["per-camera", "normed", "topk", "dense"],
)
def test_every_sampler_and_small_size_survives_the_folder(small_config, tmp_path, sampler):
    config = dataclasses.replace(small_config, sampler=sampler, max_committed=2)
    made = small_checkpoint(config)
    save_checkpoint(tmp_path / "small", made)
    loaded = load_checkpoint(tmp_path / "small", cameras=["front", "wrist"])
    assert loaded.config == config
    assert same_weights(loaded.policy, made.policy)
    assert all(torch.equal(loaded.statistics[k], v) for k, v in made.statistics.items())


def authors_fork(folder, tokens=16):
    """Turn a dense folder into one of the GridS authors' fork."""
    shapes = {
        "scout_mlp.0": (512, 96), "scout_mlp.2": (2 * tokens, 512),
        "coord_encoder.0": (256, 2), "coord_encoder.2": (96, 256),
    }  # fmt: skip
    generator = torch.Generator().manual_seed(0)

    def add(tensors):
        for name, shape in shapes.items():
            key = f"model.token_sampler.{name}"
            tensors[f"{key}.weight"] = torch.randn(shape, generator=generator)
            tensors[f"{key}.bias"] = torch.randn(shape[0], generator=generator)

    edit_weights(folder, add)
    keys = {"use_grid_token_sampler": True, "grid_token_sampler_num_tokens": tokens}
    edit_json(folder, lambda values: values.update(keys))


def test_the_authors_fork_is_read_with_its_conventions(tiny, tmp_path):
    authors_fork(tiny)
    loaded = load_checkpoint(tiny)
    sampler = loaded.config.sampler
    assert (sampler.kind, sampler.tokens, sampler.shared) == ("grids", 16, True)
    assert (sampler.align_corners, sampler.padding) == (False, "zeros")
    dense = torch.randn(1, 2, 64, 96, generator=torch.Generator().manual_seed(1))
    sampled = loaded.policy.sampler(dense)
    raw = load_file(tiny / "model.safetensors")
    w = {k.removeprefix("model.token_sampler."): v for k, v in raw.items() if "token_sampler" in k}
    hidden = torch.relu(dense[0].mean(1) @ w["scout_mlp.0.weight"].T + w["scout_mlp.0.bias"])
    points = torch.sigmoid(hidden @ w["scout_mlp.2.weight"].T + w["scout_mlp.2.bias"])
    torch.testing.assert_close(sampled.coords[0], points.view(2, 16, 2))
    planes = dense[0].view(2, 8, 8, 96).permute(0, 3, 1, 2)
    read = torch.nn.functional.grid_sample(planes, points.view(2, 16, 1, 2) * 2 - 1, align_corners=False)
    embedded = torch.relu(points.view(2, 16, 2) @ w["coord_encoder.0.weight"].T + w["coord_encoder.0.bias"])
    expected = read[..., 0].transpose(1, 2) + embedded @ w["coord_encoder.2.weight"].T
    expected = expected + w["coord_encoder.2.bias"]
    torch.testing.assert_close(sampled.tokens[0], expected, atol=1e-4, rtol=1e-5)
    save_checkpoint(tmp_path / "again", loaded)
    written = json.loads((tmp_path / "again" / "config.json").read_text())
    assert written["use_grid_token_sampler"] is True
    assert written["grid_token_sampler_num_tokens"] == 16
    assert load_file(tmp_path / "again" / "model.safetensors").keys() == raw.keys()


def test_a_sampler_the_fork_cannot_express_is_not_claimed_to_be_its_own(small_config):
    config = dataclasses.replace(PolicyConfig(), sampler=SamplerConfig(kind="grids", margin=0.1))
    assert "use_grid_token_sampler" not in lerobot.lerobot_config(config, {})
    assert lerobot.grids_config(config)["sampler"]["margin"] == 0.1


def test_weights_of_a_compiled_model_and_statistics_inside_it_are_read(tiny):
    plain = load_checkpoint(tiny)
    stats = load_file(tiny / STATS)

    def age(tensors):
        old = {key.replace("model.", "model._orig_mod.", 1): t for key, t in tensors.items()}
        for name in ("mean", "std"):
            old[f"normalize_inputs.buffer_observation_state.{name}"] = stats[f"observation.state.{name}"]
            old[f"normalize_targets.buffer_action.{name}"] = stats[f"action.{name}"].clone()
            old[f"unnormalize_outputs.buffer_action.{name}"] = stats[f"action.{name}"].clone()
        return old

    edit_weights(tiny, age)
    for path in [*tiny.glob("policy_*"), tiny / STATS]:
        path.unlink(missing_ok=True)
    loaded = load_checkpoint(tiny)
    assert same_weights(loaded.policy, plain.policy)
    assert torch.equal(loaded.normalizer("action").second, plain.normalizer("action").second)
    assert torch.equal(loaded.normalizer("observation.state").first, plain.normalizer("observation.state").first)


def test_half_precision_weights_are_widened(tiny):
    edit_weights(tiny, lambda tensors: {k: t.to(torch.bfloat16) for k, t in tensors.items()})
    assert all(p.dtype == torch.float32 for p in load_checkpoint(tiny).policy.parameters())


def test_a_fresh_sampler_leaves_every_other_weight(tiny):
    dense = load_checkpoint(tiny)
    fresh = with_sampler(dense, SamplerConfig(kind="grids", tokens=16, lattice_init=True))
    kept = dense.policy.state_dict()
    assert all(torch.equal(t, fresh.policy.state_dict()[n]) for n, t in kept.items())
    assert fresh.config.image_tokens == 16


def test_no_weight_is_drawn_at_random_that_is_replaced_next(tiny):
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    loaded = load_checkpoint(tiny)
    again = loaded.rebuilt(loaded.config, loaded.policy.state_dict())
    dense = with_sampler(loaded, SamplerConfig())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not any(p.is_meta for made in (loaded, again, dense) for p in made.policy.state_dict().values())
    name, mine = next(iter(loaded.policy.named_parameters()))
    for other in (again, dense):
        assert other.policy.get_parameter(name).data_ptr() != mine.data_ptr(), "a copy, which may be trained"
        assert other.policy.get_parameter(name).requires_grad == mine.requires_grad


def drop(key):
    def change(tensors):
        del tensors[key]

    return lambda folder: edit_weights(folder, change)


def put(key, tensor):
    def change(tensors):
        tensors[key] = tensor

    return lambda folder: edit_weights(folder, change)


def poison(key, value):
    def change(tensors):
        tensors[key].view(-1)[5] = value

    return lambda folder: edit_weights(folder, change)


def truncate(name, keep):
    def change(folder):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(len(data) * keep)])

    return change


def rename_camera(folder):
    def change(values):
        features = values["input_features"]
        features["observation.images.top"] = features.pop("observation.images.camera2")

    edit_json(folder, change)


def set_config(**fields):
    return lambda folder: edit_json(folder, lambda values: values.update(fields))


def drop_statistic(key):
    def change(folder):
        for name in (STATS, POST_STATS):
            edit_weights(folder, lambda tensors: tensors.pop(key) is None or None, name)

    return change


def nan_statistic(folder):
    def change(tensors):
        tensors["action.std"][2] = float("nan")

    for name in (STATS, POST_STATS):
        edit_weights(folder, change, name)


def disagree(folder):
    edit_weights(folder, lambda t: {**t, "action.mean": t["action.mean"] + 1}, POST_STATS)


def lora(folder):
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")


def remove(name):
    return lambda folder: (folder / name).unlink()


BROKEN = {
    "missing key": (drop("model.state_proj.bias"), "lacks model.state_proj.bias; expected 124"),
    "missing dead key": (drop(LM_HEAD), f"lacks {LM_HEAD}"),
    "two missing keys": (
        lambda f: (drop("model.state_proj.bias")(f), drop("model.state_proj.weight")(f)),
        "lacks model.state_proj.bias (and 1 more)",
    ),
    "extra key": (put("model.mystery", torch.zeros(2)), "has model.mystery, which"),
    "sampler weights without the config key": (
        put("model.token_sampler.scout_mlp.0.bias", torch.zeros(2)),
        "has model.token_sampler.scout_mlp.0.bias, which",
    ),
    "wrong shape": (
        put("model.action_in_proj.weight", torch.zeros(72, 31)),
        "model.action_in_proj.weight has shape (72, 31), expected (72, 32)",
    ),
    "nan": (
        poison(f"{VLM}text_model.layers.2.mlp.up_proj.weight", float("nan")),
        "layers.2.mlp.up_proj.weight has values that are not finite",
    ),
    "infinity in a dead weight": (poison(LM_HEAD, float("inf")), "lm_head.weight has values"),
    "truncated weights": (truncate("model.safetensors", 0.5), "model.safetensors is truncated: expected 3348"),
    "truncated header": (truncate("model.safetensors", 0.001), "truncated inside its header"),
    "empty weights": (truncate("model.safetensors", 0.0), "model.safetensors is truncated"),
    "not safetensors": (
        lambda f: (f / "model.safetensors").write_bytes(b"\x10" + b"\0" * 7 + b"x" * 64),
        "is not a safetensors file",
    ),
    "wrong camera names": (rename_camera, "but policy_preprocessor.json has"),
    "no weights": (remove("model.safetensors"), "model.safetensors is missing"),
    "no config": (remove("config.json"), "config.json is missing"),
    "no statistics file": (remove(STATS), f"{STATS} is missing"),
    "no processor files": (
        lambda f: [p.unlink() for p in f.glob("policy_*")],
        "statistic observation.state.mean is missing (MEAN_STD needs it)",
    ),
    "one statistic missing": (drop_statistic("action.std"), "statistic action.std is missing"),
    "nan statistic": (nan_statistic, "statistic action.std has a value that is not finite"),
    "statistics that disagree": (disagree, "action.mean of policy_postprocessor differs"),
    "lora": (lora, "holds a LoRA adapter"),
    "another policy": (
        set_config(type="act"),
        "; got 'act'",
    ),
    "unsupported option": (set_config(adapt_to_pi_aloha=True), "adapt_to_pi_aloha=true"),
    "wrong depth": (set_config(num_vlm_layers=5), "lacks "),
    "wrong pattern": (set_config(self_attn_every_n_layers=4), "k_proj.weight has shape (32, 72), expected (32, 32)"),
    "unknown normalisation": (
        set_config(normalization_mapping={"STATE": "SOMEHOW", "ACTION": "MEAN_STD"}),
        "normalisation of observation.state is 'SOMEHOW'",
    ),
    "broken json": (lambda f: (f / "config.json").write_text("{"), "cannot be read as JSON"),
}


@pytest.mark.parametrize("case", BROKEN, ids=str)
def test_a_broken_folder_is_refused_with_one_sentence_naming_the_culprit(tiny, case):
    change, message = BROKEN[case]
    change(tiny)
    with pytest.raises(CheckpointError, match=re.escape(message)) as caught:
        load_checkpoint(tiny)
    text = str(caught.value)
    assert str(tiny) in text
    assert "\n" not in text


def test_cameras_other_than_the_checkpoints_are_refused(tiny):
    message = re.escape("expected the checkpoint's cameras ['camera1', 'camera2'], got ['front', 'wrist']")
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tiny, cameras=["front", "wrist"])
    with pytest.raises(CheckpointError, match="expected the checkpoint's cameras"):
        load_checkpoint(tiny, cameras=["camera2", "camera1"])


def test_missing_statistics_can_be_accepted_as_identity_on_request(tiny):
    for path in tiny.glob("policy_*"):
        path.unlink()
    loaded = load_checkpoint(tiny, identity_stats=True)
    x = torch.randn(3, 6)
    assert torch.equal(loaded.normalizer("action").apply(x), x)


@pytest.mark.parametrize("mode", ["MEAN_STD", "MIN_MAX", "IDENTITY"])
def test_normalisation_is_inverted(mode):
    first, second = torch.tensor([1.0, -5.0, 2.0]), torch.tensor([2.0, 30.0, 2.5])
    norm = Normalizer(mode, first, second)
    x = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(norm.invert(norm.apply(x)), x, atol=1e-5, rtol=1e-5)


def test_min_max_maps_the_range_to_minus_one_and_one_even_where_it_is_empty():
    norm = Normalizer("MIN_MAX", torch.tensor([0.0, 3.0]), torch.tensor([10.0, 3.0]))
    ends = norm.apply(torch.tensor([[0.0, 3.0], [10.0, 3.0]]))
    assert ends.tolist() == [[-1.0, -1.0], [1.0, -1.0]]


def test_normalizer_works_on_numpy_too(tiny):
    norm = load_checkpoint(tiny).normalizer("action").to(lambda tensor: tensor.numpy())
    values = norm.invert(norm.apply(norm.first))
    assert values == pytest.approx(norm.first, abs=1e-5)


def finer(config: PolicyConfig, kernel: int, stride: int, hw: tuple[int, int]) -> PolicyConfig:
    first, *rest = config.vision.stem
    size = config.vision.image_size * stride // first[2]
    vision = dataclasses.replace(config.vision, image_size=size, stem=((first[0], kernel, stride), *rest))
    return dataclasses.replace(config, vision=vision, image_hw=(hw, hw), resize_hw=hw)


def test_with_finer_images_the_vision_tower_gives_the_same_features():
    coarse = load_checkpoint(DEMO)
    kernel, stride = (2 * side for side in coarse.config.vision.stem[0][1:])
    size = tuple(2 * side for side in coarse.config.resize_hw)
    fine = with_finer_images(coarse, finer(coarse.config, kernel, stride, size))
    rough = torch.rand(2, 3, 6, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    small, large = (
        torch.nn.functional.interpolate(rough, size=hw, mode="bilinear") for hw in (coarse.config.resize_hw, size)
    )
    with torch.no_grad():
        seen, again = coarse.policy.vision(small), fine.policy.vision(large)
    assert seen.shape == again.shape
    assert (seen - again).abs().mean() < 0.05 * seen.std()


def test_finer_images_refuse_another_token_grid():
    coarse = load_checkpoint(DEMO)
    _, kernel, stride = coarse.config.vision.stem[0]
    rows, columns = coarse.config.resize_hw
    with pytest.raises(ValueError, match="same token grid"):
        with_finer_images(coarse, finer(coarse.config, kernel, stride, (2 * rows, 2 * columns)))
    odd = finer(coarse.config, 3 * kernel // 2, 3 * stride // 2, (3 * rows // 2, 3 * columns // 2))
    with pytest.raises(ValueError, match="an even number apart"):
        with_finer_images(coarse, odd)


def test_the_shipped_checkpoint_states_units_and_rate_of_the_bundle_made_from_it():
    found, bundle = load_checkpoint(DEMO).trained_on, read_manifest(ROOT / "models" / "demo")
    assert found.units == bundle.action_units == bundle.state_units
    assert (1 / found.fps, found.robot_type) == (bundle.dt, "so100")
