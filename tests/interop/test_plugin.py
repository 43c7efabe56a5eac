"""The plug-in lerobot_policy_grids: trained by LeRobot's own command, run by LeRobot and here with the same actions."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from commands import PATIENCE_S, made
from repository import ROOT
from safetensors.torch import load_file
from same_actions import TINY, difference, written

from grids_policy.model.checkpoint import load_checkpoint, with_sampler
from grids_policy.model.config import SamplerConfig
from grids_policy.runtime.bundle import load_bundle

TOLERANCE = 1e-5  # standard deviations of the action
SMALL = (
    "--policy.num_vlm_layers=4", "--policy.resize_imgs_with_padding=[64,64]", "--policy.chunk_size=10",
    "--policy.n_action_steps=10", "--policy.device=cpu", "--policy.push_to_hub=false", "--wandb.enable=false",
    "--dataset.video_backend=pyav", "--dataset.repo_id=local/demos", "--num_workers=0", "--batch_size=2",
)  # fmt: skip


@pytest.fixture(scope="module")
def vlm(plugged, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vlm")
    source = written(load_checkpoint(TINY), folder / "source")
    plugged.run("vlm", source, folder / "vlm")
    return folder / "vlm"


@pytest.fixture(scope="module")
def trained(plugged, vlm, small_set, tmp_path_factory):
    """Checkpoints of the first and the third step."""
    folder = tmp_path_factory.mktemp("plugin")
    plugged.command(
        "lerobot-train", "--policy.type=grids_smolvla", f"--policy.vlm_model_name={vlm}", "--policy.sampler.tokens=5",
        "--policy.sampler.padding=border", *SMALL, f"--dataset.root={small_set}", "--steps=3", "--save_freq=1",
        f"--output_dir={folder / 'run'}",
    )  # fmt: skip
    steps = folder / "run" / "checkpoints"
    return SimpleNamespace(**{f"step{n}": steps / f"{n:06d}" / "pretrained_model" for n in (1, 3)})


def test_lerobot_trains_the_sampler_and_acts_as_we_do(plugged, trained, tmp_path):
    first, last = (load_file(folder / "model.safetensors") for folder in (trained.step1, trained.step3))
    names = [name for name in last if ".token_sampler." in name]
    assert len(names) == 8
    assert all((first[name] != last[name]).any() for name in names)
    checkpoint = load_checkpoint(trained.step3)
    assert checkpoint.config.sampler == SamplerConfig("grids", 5, padding="border")
    assert checkpoint.trained_on.fps == 15
    assert difference(plugged, trained.step3, tmp_path) < TOLERANCE
    again = tmp_path / "out"  # what the loaded policy saved
    assert (again / "grids_config.json").read_text() == (trained.step3 / "grids_config.json").read_text()
    assert json.loads((again / "config.json").read_text())["type"] == "grids_smolvla"


def test_what_lerobot_trained_is_exported(trained, tmp_path):
    made("export", trained.step3, tmp_path / "bundle", timeout_s=PATIENCE_S)
    assert load_bundle(tmp_path / "bundle").tokens == 5


def test_a_dense_checkpoint_is_fine_tuned_with_a_new_sampler(plugged, trained, vlm, small_set, tmp_path):
    dense = with_sampler(load_checkpoint(trained.step3), SamplerConfig())
    folder = written(dense, tmp_path / "dense")
    plugged.command(
        "lerobot-train", "--policy.type=grids_smolvla", f"--policy.pretrained_path={folder}",
        f"--policy.vlm_model_name={vlm}", "--policy.sampler.tokens=3", *SMALL, f"--dataset.root={small_set}",
        "--steps=1", f"--output_dir={tmp_path / 'run'}",
    )  # fmt: skip
    tuned = load_checkpoint(tmp_path / "run" / "checkpoints" / "last" / "pretrained_model").policy.state_dict()
    for name, tensor in dense.policy.state_dict().items():
        if name.startswith(("vision.", "language.")):  # frozen by train_expert_only
            np.testing.assert_array_equal(tensor, tuned[name])


def test_our_grids_checkpoint_opens_in_lerobot(plugged, trained, tmp_path):
    ours = with_sampler(load_checkpoint(trained.step3), SamplerConfig("grids", 7, lattice_init=True, hidden=24))
    folder = written(ours, tmp_path / "ours")
    assert difference(plugged, folder, tmp_path) < TOLERANCE


@pytest.mark.parametrize(
    ("sampler", "words"),
    [
        (SamplerConfig("topk", 4), "sampler.kind is 'topk'"),
        (SamplerConfig("grids", 4, after_layer=1), "sampler.after_layer is 1"),
        (SamplerConfig("grids", 4, shared=False), "sampler.shared is False"),
    ],
    ids=lambda value: getattr(value, "kind", None),
)
def test_the_plugin_refuses_what_it_would_run_wrongly(plugged, trained, tmp_path, sampler, words):
    folder = written(with_sampler(load_checkpoint(trained.step3), sampler), tmp_path / "other")
    assert words in plugged.run("plugin-open", folder)["error"]


def test_weights_of_another_sampler_are_refused(plugged, trained):
    found = plugged.run("plugin-open", trained.step3, "--sampler.coord_embedding=false")
    assert "expected a sampler with the weights" in found["error"]


def test_the_sampler_is_trained_beside_adapters(plugged, trained):
    found = plugged.run("plugin-adapt", trained.step3)
    assert sum(".token_sampler." in name for name in found["reached"]) == 8
    assert any("lora_" in name for name in found["trained"])


@pytest.mark.parametrize("peer", ["0.4.4"], indirect=True)
def test_an_older_lerobot_or_python_is_named(peer):
    """Where pip was told not to look at what the package requires."""
    found = peer.run("plugin-import", ROOT / "lerobot_policy_grids")
    assert "lerobot_policy_grids needs LeRobot 0.6.1 or newer, got 0.4.4" in found["lerobot"]
    assert "needs Python 3.12 or newer, as LeRobot 0.6 does; this is 3.11" in found["python"]
