"""The plug-in's π0 and π0.5: trained by LeRobot's own command, run by LeRobot and here with the same actions."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from commands import PATIENCE_S, made
from repository import ROOT
from safetensors.torch import load_file, save_file
from same_actions import difference
from small_pi import SMALL

from grids_policy.model.checkpoint import load_checkpoint, save_checkpoint, with_sampler
from grids_policy.model.config import ConventionsConfig, SamplerConfig
from grids_policy.runtime.bundle import load_bundle

TOLERANCE = 1e-5  # standard deviations of the action


@pytest.fixture(scope="module", params=["pi05", "pi0"])
def family(request):
    return request.param


@pytest.fixture(scope="module")
def words(plugged, family, tmp_path_factory):
    folder = tmp_path_factory.mktemp("words") / "tokenizer"
    plugged.run("tokenizer", ROOT / "tests" / "data" / "oracle" / f"{family}_tiny", folder)
    return folder


@pytest.fixture(scope="module")
def train(plugged, family, words, small_set):
    """Runs lerobot-train; returns the folder of its checkpoints."""

    def run(folder, *options):
        plugged.command(
            "lerobot-train", f"--policy.type=grids_{family}", f"--policy.tokenizer_name={words}", *SMALL,
            f"--dataset.root={small_set}", f"--output_dir={folder}", *options,
        )  # fmt: skip
        return folder / "checkpoints"

    return run


@pytest.fixture(scope="module")
def trained(train, tmp_path_factory):
    """Checkpoints of the first and the third step."""
    options = ("--policy.sampler.tokens=5", "--policy.sampler.padding=border", "--steps=3", "--save_freq=1")
    steps = train(tmp_path_factory.mktemp("plugin_pi") / "run", *options)
    return SimpleNamespace(**{f"step{n}": steps / f"{n:06d}" / "pretrained_model" for n in (1, 3)})


def inside(checkpoint) -> np.ndarray:
    """A state within the data, so that the words of π0.5's prompt are not those of its ends."""
    known = checkpoint.statistics
    return (known["observation.state.mean"] + 0.4 * known["observation.state.std"]).numpy()


def apart(plugged, folder, tmp_path) -> float:
    return difference(plugged, folder, tmp_path, inside(load_checkpoint(folder)))


def test_a_policy_of_full_size_is_lerobots_and_a_sampler(plugged, family):
    found = plugged.run("plugin-published", family)
    assert found["tensors"] > 700
    assert not found["lost"]
    assert len(found["added"]) == 8
    assert all(".token_sampler." in name for name in found["added"])


def test_lerobot_trains_the_sampler_and_acts_as_we_do(plugged, trained, tmp_path, family):
    first, last = (load_file(folder / "model.safetensors") for folder in (trained.step1, trained.step3))
    names = [name for name in last if ".token_sampler." in name]
    assert len(names) == 8
    assert all((first[name] != last[name]).any() for name in names)
    checkpoint = load_checkpoint(trained.step3)
    assert checkpoint.config.sampler == SamplerConfig("grids", 5, padding="border")
    assert (checkpoint.config.family, checkpoint.trained_on.fps, checkpoint.doubt) == (family, 15, "")
    assert apart(plugged, trained.step3, tmp_path) < TOLERANCE
    again = tmp_path / "out"  # what the loaded policy saved
    assert (again / "grids_config.json").read_text() == (trained.step3 / "grids_config.json").read_text()
    assert json.loads((again / "config.json").read_text())["type"] == f"grids_{family}"


def test_what_lerobot_trained_is_exported(trained, tmp_path):
    made("export", trained.step3, tmp_path / "bundle", timeout_s=PATIENCE_S)
    assert load_bundle(tmp_path / "bundle").tokens == 5


def test_a_dense_checkpoint_is_fine_tuned_with_a_new_sampler(train, trained, tmp_path):
    dense = with_sampler(load_checkpoint(trained.step3), SamplerConfig())
    save_checkpoint(tmp_path / "dense", dense)
    steps = train(
        tmp_path / "run", f"--policy.pretrained_path={tmp_path / 'dense'}", "--policy.sampler.tokens=3",
        "--policy.train_expert_only=true", "--steps=1",
    )  # fmt: skip
    tuned = load_checkpoint(steps / "last" / "pretrained_model").policy.state_dict()
    for name, tensor in dense.policy.state_dict().items():
        if name.startswith(("vision.", "language.", "connector.")):  # frozen by train_expert_only
            np.testing.assert_array_equal(tensor, tuned[name])


@pytest.mark.parametrize("sampler", [SamplerConfig("grids", 7, lattice_init=True, hidden=24), SamplerConfig()])
def test_our_checkpoint_opens_in_lerobot(plugged, trained, tmp_path, words, sampler):
    ours = with_sampler(load_checkpoint(trained.step3), sampler)
    save_checkpoint(tmp_path / "ours", replace(ours, processors={}))  # with the processors that ./grids train writes
    path = tmp_path / "ours" / "policy_preprocessor.json"
    assert (
        "the tokenizer google/paligemma-3b-pt-224 cannot be loaded" in plugged.run("plugin-open", path.parent)["error"]
    )
    path.write_text(path.read_text().replace("google/paligemma-3b-pt-224", str(words)))
    assert apart(plugged, path.parent, tmp_path) < TOLERANCE


@pytest.mark.parametrize(
    ("sampler", "wanted"),
    [
        (SamplerConfig("topk", 4), "sampler.kind is 'topk'"),
        (SamplerConfig("grids", 4, after_layer=1), "sampler.after_layer is 1"),
    ],
    ids=["kind", "early"],
)
def test_the_plugin_refuses_what_it_would_run_wrongly(plugged, trained, tmp_path, sampler, wanted):
    save_checkpoint(tmp_path / "other", with_sampler(load_checkpoint(trained.step3), sampler))
    assert wanted in plugged.run("plugin-open", tmp_path / "other")["error"]


def test_the_plugin_refuses_the_conventions_of_other_releases(plugged, trained, tmp_path):
    loaded = load_checkpoint(trained.step3)
    border = replace(loaded.config.conventions, image_border=-3.0)
    assert isinstance(border, ConventionsConfig)
    config = replace(loaded.config, conventions=border)
    save_checkpoint(tmp_path / "old", loaded.rebuilt(config, loaded.policy.state_dict()))
    assert "image_border=-3.0" in plugged.run("plugin-open", tmp_path / "old")["error"]


def test_weights_that_do_not_fit_are_refused(plugged, trained, tmp_path):
    """LeRobot's own loading of these families goes on with random weights."""
    found = plugged.run("plugin-open", trained.step3, "--sampler.coord_embedding=false")
    assert "which this policy has not" in found["error"]
    save_checkpoint(tmp_path / "c", load_checkpoint(trained.step3))
    file = tmp_path / "c" / "model.safetensors"
    gone = "model.action_in_proj.weight"
    save_file({name: value for name, value in load_file(file).items() if name != gone}, file)
    assert f"lacks {gone}" in plugged.run("plugin-open", file.parent)["error"]


def test_a_tokenizer_of_another_model_is_refused(plugged, trained, tmp_path):
    found = plugged.run("plugin-open", trained.step3, "--text.vocab=100")
    assert "it is another model's" in found["error"]


def test_the_sampler_is_trained_beside_adapters(plugged, trained):
    found = plugged.run("plugin-adapt", trained.step3)
    assert sum(".token_sampler." in name for name in found["reached"]) == 8
    assert any("lora_" in name for name in found["trained"])
