"""Checkpoint to bundle: parity gate, refusals, precisions, cameras, units, relative actions."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from repository import ROOT
from training_frames import frames

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from grids_policy.bench.flops import prefix_lengths  # noqa: E402
from grids_policy.export import cli as export  # noqa: E402
from grids_policy.export import gate, precision  # noqa: E402
from grids_policy.export.cameras import (  # noqa: E402
    ExportError,
    choose_cameras,
    parse_cameras,
    refuse_unknown_cameras,
)
from grids_policy.export.cli import export_bundle  # noqa: E402
from grids_policy.export.gate import run_gate  # noqa: E402
from grids_policy.export.spec import ExportOptions, policy_spec  # noqa: E402
from grids_policy.export.tensorrt import gate as gate_of_tensorrt  # noqa: E402
from grids_policy.export.untrained import demo_tokenizer  # noqa: E402
from grids_policy.model.checkpoint import Checkpoint, load_checkpoint  # noqa: E402
from grids_policy.model.config import SamplerConfig  # noqa: E402
from grids_policy.model.files import CheckpointError  # noqa: E402
from grids_policy.model.initialise import init_weights  # noqa: E402
from grids_policy.model.preprocess import fit_image  # noqa: E402
from grids_policy.model.smolvla import SmolVLA  # noqa: E402
from grids_policy.runtime.bundle import BundleError, load_bundle, seal  # noqa: E402
from grids_policy.runtime.onnx import EngineOptions, OnnxRuntime  # noqa: E402

GRAPHS = ("preprocess", "vision", "prefix", "denoise_step")


def checkpoint(config, tmp_path) -> Checkpoint:
    """Random weights whose output and coordinates depend on the inputs."""
    policy = SmolVLA(config)
    init_weights(policy, 3)
    torch.manual_seed(0)
    torch.nn.init.normal_(policy.action_out_proj.weight, std=0.2)
    demo_tokenizer(300, tmp_path / "tokenizer.json")
    stats = {}
    for feature, mean in (("observation.state", 0.2), ("action", -0.1)):
        stats[f"{feature}.mean"], stats[f"{feature}.std"] = torch.full((6,), mean), torch.linspace(0.1, 0.6, 6)
    return Checkpoint(policy.eval(), stats, {"n_action_steps": 4}, tokenizer=tmp_path / "tokenizer.json")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """One export serves most tests: per camera, committed rows and relative actions, kept with its checkpoint."""
    folder = tmp_path_factory.mktemp("export")
    config = dataclasses.replace(small(), max_committed=2, relative_actions=(0, 1, 2, 3, 4))
    made = checkpoint(config, folder)
    options = ExportOptions(
        cameras="front=80x60,wrist:wrist=64x48", fps=20.0, per_camera=True, instruction="go", noise_scale=0.5
    )
    export_bundle(made, folder / "bundle", options)
    return made, folder / "bundle"


def small():
    from grids_policy.model.config import ActionExpertConfig, PolicyConfig, SamplerConfig, TextConfig, VisionConfig

    return PolicyConfig(
        image_hw=((48, 64), (64, 48)), resize_hw=(64, 64), chunk_size=6, num_steps=4, tokenizer_max_length=5,
        vision=VisionConfig(64, 8, 32, 1, 2, 64, shuffle=2),
        text=TextConfig(32, 2, 4, 2, 8, 64, vocab=300), expert=ActionExpertConfig(24, 2, 48),
        sampler=SamplerConfig("grids", 4, hidden=32, coord_hidden=16),
    )  # fmt: skip


def test_the_bundle_agrees_with_torch_in_actions_and_coordinates(exported):
    bundle = load_bundle(exported[1])
    assert bundle.parity["passed"]
    assert bundle.parity["actions_max_std"] < 1e-4
    assert bundle.parity["coordinates_max"] < 1e-5


def test_the_manifest_says_what_the_robot_needs(exported):
    bundle = load_bundle(exported[1])
    assert (bundle.dt, bundle.chunk_size, bundle.n_action_steps, bundle.num_steps) == (0.05, 6, 4, 4)
    assert [(c.name, c.width, c.height) for c in bundle.cameras] == [("front", 80, 60), ("wrist", 64, 48)]
    assert (bundle.tokens, bundle.grid_height, bundle.vision_batch, bundle.max_committed) == (4, 4, 1, 2)
    assert (bundle.convention, bundle.noise_scale) == ("align_corners_false", 0.5)
    # Relative joints: spread of state and action together, around both means.
    assert bundle.normalisation["position"]["mean"][0] == pytest.approx(0.1)
    assert bundle.normalisation["position"]["std"][5] == pytest.approx(0.6)


def test_graphs_have_no_private_paths_and_are_ones_that_tensorrt_takes(exported):
    for name in GRAPHS:
        data = (exported[1] / f"{name}.onnx").read_bytes()
        assert b"site-packages" not in data
        assert b".py" not in data
        assert "CumSum" not in {node.op_type for node in onnx.load_from_string(data).graph.node}, (
            "a loop in TensorRT 10"
        )
    assert gate_of_tensorrt.broken_rules_of(exported[1]) == []
    assert load_bundle(exported[1]).runs_on == ("cpu", "gpu")


def test_what_does_not_depend_on_the_noise_is_not_in_the_step(exported):
    """The step has no vision, language or time embedding weights: it is bound by reading the expert once."""
    step = onnx.load(str(exported[1] / "denoise_step.onnx"))
    expert = sum(p.numel() for p in exported[0].policy.expert.parameters())
    weights = sum(int(np.prod(t.dims)) for t in step.graph.initializer)
    cross = sum(
        p.numel() for n, p in exported[0].policy.expert.named_parameters() if ".1.self_attn." in n and "_proj" in n
    )
    assert weights < expert + cross
    assert not {"Sin", "Cos", "Pow"} & {node.op_type for node in step.graph.node if node.op_type != "Pow"}


def test_scales_need_recorded_observations(exported, tmp_path):
    made, source = exported
    with pytest.raises(ExportError, match="int8-static needs recorded observations to scale by: give --calibrate"):
        export.reduce_bundle(made, source, tmp_path / "bundle", "int8-static")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ExportError, match=r"nowhere: expected a bag, .*, found nothing"):
        export.reduce_bundle(made, source, tmp_path / "bundle", "int8-static", observations=tmp_path / "nowhere")
    assert not list(tmp_path.iterdir()), "nothing half-written"


@pytest.mark.parametrize("precision", ["int8-static", "fp16"])
def test_recordings_of_other_cameras_are_refused_before_anything_is_written(
    exported, tmp_path, monkeypatch, precision
):  # fmt: skip
    frames(tmp_path / "frames", second="side")
    made, source = exported
    monkeypatch.setattr(export, "write_graphs", lambda *_: pytest.fail("the long part began"))
    before = sorted(tmp_path.iterdir())
    options = ExportOptions(precision=precision, observations=tmp_path / "frames", cameras="front=80x60,wrist=64x48")
    with pytest.raises(ExportError, match=r"frames: cannot be used .* 'wrist' among them, got \('front', 'side'\)"):
        export_bundle(made, tmp_path / "bundle", options)
    with pytest.raises(ExportError, match=r"frames: cannot be used"):
        export.reduce_bundle(made, source, tmp_path / "bundle", precision, observations=tmp_path / "frames")
    assert sorted(tmp_path.iterdir()) == before


def test_a_precision_for_gpus_that_breaks_a_rule_is_not_written_and_fp32_is_for_cpus(exported, tmp_path, monkeypatch):
    made, source = exported
    said: list[str] = []
    monkeypatch.setattr(gate_of_tensorrt, "broken_rules_of", lambda folder: ["vision: static_dims: x: expected"])
    with pytest.raises(ExportError, match=r"does not take these graphs: vision: static_dims.*nothing was written"):
        export.reduce_bundle(made, source, tmp_path / "half", "fp16")
    assert not list(tmp_path.iterdir())
    assert export.reduce_bundle(made, source, tmp_path / "whole", "fp32", said.append).runs_on == ("cpu",)
    assert any("this bundle is for a CPU" in line for line in said)


@pytest.mark.parametrize("reduced", ["fp16", "int8-weights"])
def test_reduced_precisions_stay_within_their_gates(exported, tmp_path, reduced):
    made, source = exported
    folder = tmp_path / "bundle"
    shutil.copytree(source, folder)
    for name in GRAPHS:
        precision.convert(folder / f"{name}.onnx", reduced)
    values = json.loads((folder / "policy.json").read_text())
    seal(folder, {k: v for k, v in values.items() if k not in ("schema", "files", "digest")} | {"precision": reduced})
    parity = run_gate(made, folder, reduced)
    assert parity["passed"], parity
    assert parity["actions_max_std"] > 1e-6, "the precision was reduced"


def test_a_bf16_bundle_runs_on_the_processor_through_its_twins_and_says_so(exported, tmp_path):
    made, source = exported
    folder, said = tmp_path / "bundle", []
    reduced = export.reduce_bundle(made, source, folder, "bf16", said.append)
    assert reduced.runs_on == ("cpu", "gpu")
    assert 1e-5 < reduced.parity["actions_max_std"] < reduced.parity["actions_tolerance_std"]
    assert not any("overflow" in line for line in said)
    runtime = OnnxRuntime(folder, EngineOptions(engine="cpu", threads=1))
    assert "bf16 computed in fp32 with bf16's roundings" in runtime.note
    runtime.close()
    values = json.loads((folder / "policy.json").read_text())
    (folder / "prefix.cpu.onnx").unlink()
    with pytest.raises(BundleError, match=r"files: expected .*, missing \['prefix\.cpu\.onnx'\]"):
        seal(folder, {k: v for k, v in values.items() if k not in ("schema", "files", "digest")})


def test_the_demo_policy_passes_its_gate_in_int8(tmp_path):
    """A trained policy: behind its gates single values are far larger than with random weights."""
    made = load_checkpoint(ROOT / "models" / "demo-checkpoint")
    reduced = export.reduce_bundle(made, ROOT / "models" / "demo", tmp_path / "bundle", "int8")
    assert reduced.parity["passed"]
    assert reduced.runs_on == ("cpu",)
    for name in ("vision", "prefix", "denoise_step"):
        graph = onnx.load(str(tmp_path / "bundle" / f"{name}.onnx")).graph
        assert "MatMulInteger" in {node.op_type for node in graph.node}, name


def test_with_engine_openvino_the_gate_runs_there_too_and_refuses(exported, tmp_path, monkeypatch):
    made, _ = exported
    options = ExportOptions(also_on="openvino")
    parity = export_bundle(made, tmp_path / "bundle", options).parity
    assert parity["passed"]
    assert parity["engine"] == "CPUExecutionProvider"
    assert parity["openvino"]["engine"] == "OpenVINO"
    assert parity["openvino"]["passed"]
    assert parity["openvino"]["actions_tolerance_std"] == gate.TOLERANCES["fp16"][0]
    real = gate.compare_on

    def skewed(runtime, reference, observations):
        errors = real(runtime, reference, observations)
        return dataclasses.replace(errors, actions_max_std=9.0) if runtime.provider == "OpenVINO" else errors

    monkeypatch.setattr(gate, "compare_on", skewed)
    with pytest.raises(ExportError, match="openvino differs from the torch model, nothing was written"):
        export_bundle(made, tmp_path / "other", options)
    assert not (tmp_path / "other").exists()


def test_a_failed_gate_leaves_nothing_behind(exported, tmp_path, monkeypatch):
    monkeypatch.setitem(gate.TOLERANCES, "fp32", (1e-12, 1e-12))
    # The graphs of the finished export stand in for a second export of ten seconds.
    monkeypatch.setattr(export, "write_graphs", lambda c, o, folder, say: copy_graphs(exported[1], folder))
    with pytest.raises(ExportError, match="differ from the torch model, nothing was written"):
        export_bundle(
            exported[0], tmp_path / "bundle", ExportOptions(cameras="front=80x60,wrist=64x48", per_camera=True)
        )
    assert not list(tmp_path.iterdir())


def test_a_bundle_says_passed_only_after_the_gate_so_a_kill_leaves_nothing_that_loads(exported, tmp_path, monkeypatch):
    """What lies on the disk while the gate runs is what a kill would leave."""
    monkeypatch.setattr(export, "write_graphs", lambda c, o, folder, say: copy_graphs(exported[1], folder))
    found = []

    def watched(checkpoint, folder, precision, recorded):
        for name in ("bundle", "bundle.partial"):
            with pytest.raises(BundleError) as refused:
                load_bundle(tmp_path / name)
            found.append(str(refused.value))
        return run_gate(checkpoint, folder, precision, recorded)

    monkeypatch.setattr(export, "run_gate", watched)
    options = ExportOptions(cameras="front=80x60,wrist=64x48", per_camera=True)
    assert export_bundle(exported[0], tmp_path / "bundle", options).parity["passed"]
    assert "policy.json cannot be read" in found[0]
    assert "the parity gate did not pass" in found[1]


def copy_graphs(source, folder):
    for name in GRAPHS:
        shutil.copy(source / f"{name}.onnx", folder)
    return load_bundle(source).cache


def test_wrong_weights_in_a_graph_fail_the_gate(exported, tmp_path):
    """The gate can fail: a bundle of one policy against another."""
    other = checkpoint(small(), tmp_path)
    parity = run_gate(other, exported[1], "fp32")
    assert not parity["passed"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("front=640x480", r"also needs \['wrist'\]"),
        ("front,wrist,side", "got 'side'"),
        ("front,front,wrist", "'front' is named twice"),
        ("front:front,front:wrist", "the robot's 'front' is named twice"),
        ("front=big,wrist", "expected WIDTHxHEIGHT or none, got .big."),
        ("front=0x480,wrist", "expected a size above 1x1"),
        ("camera1,wrist", r"expected one of the checkpoint's \['front', 'wrist'\], got 'camera1'"),
    ],
)
def test_a_camera_list_that_does_not_fit_is_refused(exported, text, expected):
    with pytest.raises(ExportError, match=expected):
        parse_cameras(text, exported[0])


def test_cameras_this_robot_lacks_are_asked_for_and_never_matched_by_position(exported):
    refuse_unknown_cameras("front:wrist,wrist:front", exported[0])
    with pytest.raises(ExportError, match="has front, wrist, got top, hand; nothing says which is which") as refused:
        refuse_unknown_cameras("hand:wrist,top:front", exported[0])
    assert "give --cameras front:NAME,wrist:NAME with one of front, wrist for each NAME" in str(refused.value)


def test_cameras_can_be_renamed_and_keep_the_checkpoints_order(exported):
    found = parse_cameras("hand:wrist=64x48,top:front", exported[0])
    assert [(name, width, height) for name, _, width, height in found] == [("top", 64, 48), ("hand", 64, 48)]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ["wrist", "front"]),
        ("front=80x60,wrist=64x48", ["wrist", "front"]),
        ("front:wrist,wrist:front", ["wrist", "front"]),
    ],
)
def test_the_rename_map_says_which_camera_is_which(exported, text, names):
    """Here the robot's wrist camera was given to the policy as `front`, and the other way round."""
    crossed = dataclasses.replace(exported[0], camera_names=("wrist", "front"))
    found = parse_cameras(text, crossed)
    assert [name for name, *_ in found] == names
    assert [key for _, key, *_ in found] == ["observation.images.front", "observation.images.wrist"]


def test_cameras_that_contradict_the_rename_map_are_refused(exported):
    crossed = dataclasses.replace(exported[0], camera_names=("wrist", "front"))
    with pytest.raises(ExportError, match="rename_map says that front is the robot's wrist; give wrist:front, or --ig"):
        parse_cameras("front:front,wrist:wrist", crossed)


def test_a_declared_camera_that_was_never_used_is_left_out(exported):
    made = exported[0]
    found, rest = choose_cameras(made, "front=80x60,wrist=None")
    assert (found.config.cameras, found.config.image_hw, rest) == (("front",), ((48, 64),), "front=80x60")
    images = torch.rand(1, 2, 3, 64, 64) * 2 - 1
    state, words, mask = torch.zeros(1, 6), torch.ones(1, 5, dtype=torch.int64), torch.ones(1, 5, dtype=torch.bool)
    noise = torch.randn(1, 6, made.config.max_action_dim)
    with torch.no_grad():
        both = made.policy.encode(images, torch.tensor([[True, False]]), state, words, mask)
        alone = found.policy.encode(images[:, :1], torch.tensor([[True]]), state, words, mask)
        expected, got = (p.sample(noise, c) for p, c in ((made.policy, both), (found.policy, alone)))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"trained_here": True}, "was trained by `./grids train`, which uses every camera"),
        ({"camera_names": ("front", "hand")}, "its rename_map says that it is hand"),
        ({"statistics": {"observation.images.wrist.mean": 0}}, "statistics of its training data include that camera"),
    ],
)
def test_a_camera_that_was_used_cannot_be_left_out(exported, change, reason):
    with pytest.raises(ValueError, match=f"wrist cannot be left out: .*{reason}"):
        choose_cameras(dataclasses.replace(exported[0], **change), "front:front=80x60,wrist=none")
    with pytest.raises(ValueError, match=r"none of .* is left"):
        choose_cameras(exported[0], "front=none,wrist=none")


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (320, 240), (45, 60), (256, 256)])
def test_the_placement_in_the_manifest_is_where_the_pixels_land(exported, size):
    width, height = size
    spec = policy_spec(exported[0], ExportOptions(cameras=f"front={width}x{height},wrist"))
    place = dataclasses.asdict(spec.cameras[0])
    image = fit_image(torch.ones(1, 3, height, width), (64, 64))[0, 0].numpy()
    rows, columns = np.nonzero(image.any(1))[0], np.nonzero(image.any(0))[0]
    assert (rows[0], columns[0]) == (place["pad_top"], place["pad_left"])
    assert (len(rows), len(columns)) == (place["resized_height"], place["resized_width"])


def test_a_folder_that_is_no_bundle_is_never_replaced(exported, tmp_path):
    """Neither the checkpoint itself nor anybody's home: the command used to delete what it was pointed at."""
    (tmp_path / "thesis.txt").write_text("years")
    for folder in (tmp_path, tmp_path / "thesis.txt", tmp_path / "new" / ".."):
        with pytest.raises(ExportError, match="is not a policy bundle and would be lost; name a new folder"):
            export_bundle(exported[0], folder, ExportOptions())
    assert (tmp_path / "thesis.txt").read_text() == "years"


def test_a_checkpoint_without_tokenizer_is_refused(exported, tmp_path):
    bare = dataclasses.replace(exported[0], tokenizer=None)
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json"):
        export_bundle(bare, tmp_path / "bundle", ExportOptions())


def test_the_command_line_says_what_is_wrong_and_fails(tmp_path, capsys):
    assert export.main([str(tmp_path / "nothing"), str(tmp_path / "bundle")]) == 1
    assert "config.json is missing" in capsys.readouterr().err
    tiny = ROOT / "tests" / "data" / "oracle" / "tiny"
    assert export.main([str(tiny), str(tmp_path / "b"), "--units", "degrees"]) == 1
    assert "--calibration" in capsys.readouterr().err
    demo = ROOT / "models" / "demo-checkpoint"
    assert export.main([str(demo), str(tmp_path / "b"), "--tokens", "4"]) == 1
    assert "expected a number the checkpoint was trained for (none), got 4" in capsys.readouterr().err
    assert export.main([str(tmp_path), str(tmp_path / "b"), "--noise-scale", "2"]) == 1
    assert "expected 0 to 1, got 2" in capsys.readouterr().err
    assert export.main([str(tmp_path), str(tmp_path / "b"), "--missing-camera", "guess"]) == 1
    assert "'guess'" in capsys.readouterr().err


def test_the_evaluator_reuses_tokens_as_the_robot_does(exported):
    from grids_eval.actors import ActorObservation, load_actor

    plain = load_actor(exported[1])
    actor = load_actor(exported[1], reuse_threshold=5.0)
    random = np.random.default_rng(0)
    frames = tuple(random.integers(0, 200, shape, dtype=np.uint8) for shape in ((60, 80, 3), (48, 64, 3)))
    brighter = (frames[0], frames[1] + 9)

    def act(actor, frames):
        chunk = actor.act(ActorObservation(frames, (True, True), np.zeros(6), "go", 1, np.zeros((0, 6))))
        return chunk, actor.reused

    first, reused = act(actor, frames)
    assert reused == 0
    assert act(actor, frames)[1] == 2
    np.testing.assert_array_equal(act(actor, frames)[0], first)
    second, reused = act(actor, brighter)  # the wrist camera is seen anew
    assert reused == 1
    np.testing.assert_allclose(second, act(plain, brighter)[0], atol=1e-6)
    assert act(actor, (frames[0], frames[1] + 6))[1] == 2  # within the threshold of what was last seen
    actor.begin()
    assert act(actor, frames)[1] == 0
    with pytest.raises(ValueError, match="--per-camera"):
        load_actor(Path("models/demo"), reuse_threshold=5.0)


@pytest.mark.parametrize("kind", ["fastv", "sparsevlm", "efficientvla", "adp"])
def test_reducers_inside_the_language_model_are_exported_with_fixed_lengths(tmp_path, kind):
    config = small()
    text, expert = (dataclasses.replace(part, depth=4) for part in (config.text, config.expert))
    made = checkpoint(
        dataclasses.replace(config, text=text, expert=expert, sampler=SamplerConfig(kind, 4)), tmp_path
    )  # fmt: skip
    bundle = export_bundle(made, tmp_path / "bundle", ExportOptions())
    assert bundle.parity["passed"]
    assert bundle.tokens == made.config.shown_tokens
    lengths = [bundle.cache[f"k_{layer}"][1] for layer in range(4)]
    assert lengths == prefix_lengths(made.config, cameras=2, language=5)
    assert gate_of_tensorrt.broken_rules_of(tmp_path / "bundle") == []


def test_a_reducer_whose_number_of_tokens_depends_on_the_image_is_refused(tmp_path):
    made = checkpoint(dataclasses.replace(small(), sampler=SamplerConfig("lightvla")), tmp_path)
    with pytest.raises(ExportError, match=r"lightvla cannot be in a bundle: how many tokens it keeps depends"):
        export_bundle(made, tmp_path / "bundle", ExportOptions())
    assert not (tmp_path / "bundle").exists()
