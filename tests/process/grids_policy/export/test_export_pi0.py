"""pi0 and pi0.5 through export, gates and the robot's runtime; the graphs against LeRobot's numbers."""

import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from repository import ROOT
from safetensors.torch import load_file, save_file

from grids_data.units import RAD, units
from grids_policy.export.cli import export_bundle, main
from grids_policy.export.spec import ExportOptions
from grids_policy.model.checkpoint import Checkpoint, load_checkpoint
from grids_policy.model.config import ActionExpertConfig, SamplerConfig, TextConfig, VisionConfig
from grids_policy.model.families import build_policy
from grids_policy.model.initialise import init_weights
from grids_policy.model.pi0.checkpoint import pi0_config
from grids_policy.parity.cli import compare, read_reference
from grids_policy.parity.onnx import OnnxStages
from grids_policy.parity.torch import TorchStages
from grids_policy.runtime import contest
from grids_policy.runtime.agreement import refuse_stale, require_agreement
from grids_policy.runtime.bundle import load_bundle, twin_name
from grids_policy.runtime.engines import cpu
from grids_policy.runtime.engines.ort import session_options
from grids_policy.runtime.inputs import prepare_inputs
from grids_policy.runtime.language import SentenceEncoder
from grids_policy.runtime.onnx import EngineOptions, OnnxRuntime
from grids_policy.runtime.rehearsal import CrashError

DATA = ROOT / "tests" / "data" / "oracle"


def small(family: str) -> Checkpoint:
    config = pi0_config(
        family, image_hw=((48, 64), (48, 64)), resize_hw=(56, 56), chunk_size=6, num_steps=2, tokenizer_max_length=60,
        vision=VisionConfig(56, 14, 24, 1, 2, 40, shuffle=1), text=TextConfig(32, 2, 8, 1, 8, 48, 512, 1e-6),
        expert=ActionExpertConfig(16, 2, 24), max_committed=2,
        sampler=SamplerConfig("grids", 4, hidden=12, coord_hidden=6, align_corners=True, padding="border"),
    )  # fmt: skip
    policy = build_policy(config)
    init_weights(policy, 0)
    generator = torch.Generator().manual_seed(0)
    torch.nn.init.normal_(policy.action_out_proj.weight, std=0.3, generator=generator)
    for name, weight in policy.named_parameters():
        if "norm" in name and name.startswith("expert."):
            torch.nn.init.normal_(weight, std=0.1, generator=generator)
    statistics = {}
    for feature in ("observation.state", "action"):
        statistics |= {f"{feature}.mean": torch.zeros(6), f"{feature}.std": torch.full((6,), 0.4)}
        statistics |= {f"{feature}.q01": torch.full((6,), -1.0), f"{feature}.q99": torch.full((6,), 1.0)}
    mode = "QUANTILES" if family == "pi05" else "MEAN_STD"
    raw = {"normalization_mapping": {"VISUAL": "IDENTITY", "STATE": mode, "ACTION": mode}}
    return Checkpoint(policy.eval(), statistics, raw, tokenizer=DATA / "pi05_tiny" / "tokenizer.json")


@pytest.fixture(scope="module", params=["pi0-fp16", "pi05-fp16", "pi0-bf16"])
def exported(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / request.param
    family, precision = request.param.split("-")
    options = ExportOptions(units=units(RAD), precision=precision, cameras="front:front,wrist:wrist", per_camera=True)
    return export_bundle(small(family), folder, options), folder


def test_the_16_bit_graphs_pass_both_gates_and_the_bundle_says_what_it_is(exported):
    bundle, folder = exported
    assert bundle.parity["passed"]
    assert bundle.parity["actions_max_std"] < (0.01 if bundle.precision == "fp16" else 0.05)
    assert set(bundle.runs_on) == {"cpu", "gpu"}
    assert load_bundle(folder).conventions["prompt"] == bundle.family
    assert bundle.language.state_numbers == (6 if bundle.family == "pi05" else 0)
    camera = bundle.cameras[0]
    assert (camera.pad_left, camera.pad_top) == (0, 7)  # 48 x 64 becomes 42 x 56, centred


def test_the_check_of_an_engine_changes_what_the_graphs_read(exported):
    """pi0.5 has its state in the sentence, so that no engine follows a state alone."""
    runtime = OnnxRuntime(exported[1], EngineOptions(engine="cpu"))
    refuse_stale(runtime)
    runtime.close()


COMPILE = """
import sys
from pathlib import Path
from grids_policy.runtime.bundle import read_manifest
from grids_policy.runtime.engines.base import EngineOptions
from grids_policy.runtime.engines.openvino import OpenVinoEngine
folder = Path(sys.argv[1])
OpenVinoEngine().open(folder, read_manifest(folder), EngineOptions(threads=1), None)
"""


def test_a_library_that_crashes_with_this_bundle_does_not_end_the_policy(exported, tmp_path, monkeypatch):
    """OpenVINO 2026.4.1 does with pi0.5's denoise_step at these widths."""
    pytest.importorskip("openvino")
    _bundle, folder = exported
    crashes = subprocess.run([sys.executable, "-c", COMPILE, str(folder)], capture_output=True, check=False).returncode
    monkeypatch.setattr(contest, "ENOUGH_S", 0.0)
    runtime = OnnxRuntime(folder, EngineOptions("auto", threads=1, cache=tmp_path))
    again = OnnxRuntime(folder, EngineOptions("auto", threads=1, cache=tmp_path))
    said = "openvino: its library crashed (SIGSEGV) with this bundle in a trial; not used"
    assert (said in runtime.note) == (crashes == -signal.SIGSEGV)
    assert (f"{said} at an earlier start" in again.note) == (crashes == -signal.SIGSEGV)
    if crashes:
        assert runtime.provider == again.provider == "CPUExecutionProvider"
        with pytest.raises(CrashError, match="crashed"):
            OnnxRuntime(folder, EngineOptions("openvino", threads=1, cache=tmp_path))


def test_matrices_have_16_bits_and_the_time_is_a_table(exported):
    bundle, folder = exported
    graph = onnx.load(str(folder / "denoise_step.onnx")).graph
    large = [t for t in graph.initializer if np.prod(t.dims) > 200 and len(t.dims) == 2 and 32 not in t.dims]
    kind = onnx.TensorProto.FLOAT16 if bundle.precision == "fp16" else onnx.TensorProto.BFLOAT16
    half = [t for t in large if t.data_type == kind]
    assert len(half) >= 8  # four products per layer
    names = {t.name for t in graph.initializer}
    assert not any("dense" in name or "time_mlp" in name for name in names) or bundle.family == "pi0"


def test_large_16_bit_weights_are_not_kept_in_32_bits_too(exported, tmp_path):
    bundle, folder = exported
    name = "denoise_step.onnx" if bundle.precision == "fp16" else twin_name("denoise_step")

    def wide(narrow: bool) -> tuple[int, int]:
        """How many matrices the processor's session keeps in 16 and in 32 bits."""
        settings = session_options(EngineOptions(threads=1))
        settings.optimized_model_filepath = str(tmp_path / f"{narrow}.onnx")
        cpu.open_session(folder / name, settings, narrow=narrow)
        tensors = onnx.load(settings.optimized_model_filepath, load_external_data=False).graph.initializer
        kinds = [t.data_type for t in tensors if len(t.dims) == 2 and np.prod(t.dims) > 200]
        return len(kinds) - kinds.count(onnx.TensorProto.FLOAT), kinds.count(onnx.TensorProto.FLOAT)

    assert wide(False)[0] == 0
    assert wide(True)[0] >= 8
    assert wide(True)[1] < wide(False)[1]


def test_the_weights_of_a_large_bundle_give_the_same_actions(exported, monkeypatch):
    usual = OnnxRuntime(exported[1], EngineOptions(engine="cpu"))
    monkeypatch.setattr(cpu, "_LARGE_BYTES", 0)
    narrow = OnnxRuntime(exported[1], EngineOptions(engine="cpu"))
    assert "off the CPU engine" in require_agreement(narrow, usual, "fp32")  # raises beyond the tolerance
    usual.close()
    narrow.close()


def test_another_state_is_another_sentence(exported):
    bundle, folder = exported
    encoder = SentenceEncoder(folder, bundle.language)
    frames = tuple(np.zeros((c.height, c.width, 3), np.uint8) for c in bundle.cameras)
    read = [
        prepare_inputs(
            bundle, frames=frames, present=(True, True), position_rad=np.full(6, angle), encoder=encoder,
            instruction="stack the cubes", noise_seed=0, committed_rad=np.zeros((0, 6)),
        ).tokens.tolist()
        for angle in (0.1, 0.5)
    ]  # fmt: skip
    assert (read[0] != read[1]) == (bundle.family == "pi05")


@pytest.mark.parametrize("family", ["pi0", "pi05"])
def test_the_graphs_agree_with_lerobot_at_every_stage(family):
    reference = read_reference(DATA / f"{family}_tiny" / "oracle.npz")
    checkpoint = load_checkpoint(DATA / f"{family}_tiny", overrides=reference.overrides)
    rows, _ = compare(reference, OnnxStages(checkpoint).stages(reference))
    stages = {row.stage for row in rows}
    assert {"cache/3/v", "denoise/v_t0.7", "out/action_chunk_unnormalised", "vis/connector2"} <= stages
    assert max(row.error for row in rows) < 1e-3
    assert max(row.error for row in rows if row.stage.startswith("out/")) < 1e-4


def test_a_tokenizer_of_another_model_leaves_no_bundle(tmp_path: Path, capsys):
    folder = tmp_path / "pi0"
    shutil.copytree(DATA / "pi0_tiny", folder)
    shutil.copyfile(DATA / "tiny" / "tokenizer.json", folder / "tokenizer.json")
    cameras = "front:camera1=64x48,wrist:camera2=64x48"
    arguments = [str(folder), str(tmp_path / "out"), "--cameras", cameras, "--units", "rad", "--identity-stats"]
    assert main(arguments) == 1
    assert "does not begin a sentence with <bos>" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_weights_stored_in_16_bits_stay_so_until_they_are_written(tmp_path: Path):
    from grids_policy.model.files import stored_in_16_bits

    path = tmp_path / "model.safetensors"
    tensors = {name: t.to(torch.bfloat16) for name, t in load_file(DATA / "pi0_tiny" / "model.safetensors").items()}
    save_file(tensors, path)
    assert stored_in_16_bits(path)
    assert not stored_in_16_bits(DATA / "pi0_tiny" / "model.safetensors")
    assert not stored_in_16_bits(tmp_path / "none")


def test_an_absent_camera_is_left_out_of_the_graphs_and_changes_no_stage():
    """As a reference with `missing` cameras: LeRobot puts absent ones behind the present ones, black and masked."""
    whole = read_reference(DATA / "pi0_tiny" / "oracle.npz")
    arrays = {name: array for name, array in whole.arrays.items() if name.startswith(("in/", "stats/", "pre/lang"))}
    arrays["in/image1_uint8"] = arrays.pop("in/image2_uint8")  # only the second of the config's cameras is there
    arrays |= {f"pre/image{n}": np.full((2, 3, 112, 112), -1, np.float32) for n in (1, 2)}
    arrays |= {f"pre/image_mask{n}": np.full(2, n == 1) for n in (1, 2)}
    arrays |= {"prefix/pad_masks": whole["prefix/pad_masks"], "denoise/v_t0.7": whole["denoise/v_t0.7"]}
    cameras = tuple(f"observation.images.camera{n}" for n in (2, 1))
    checkpoint = load_checkpoint(DATA / "pi0_tiny", whole=True)
    reference = replace(whole, arrays=arrays, cameras=cameras, grad_norms={})
    found = TorchStages(checkpoint).stages(reference)
    reference = replace(reference, arrays=arrays | found)
    rows, _ = compare(reference, OnnxStages(checkpoint).stages(reference))
    stages = {row.stage for row in rows}
    assert {"cache/3/k", "prefix/pad_masks", "out/actions_padded"} <= stages
    assert max(row.error for row in rows) < 1e-3
