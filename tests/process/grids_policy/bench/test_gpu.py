"""./grids bench gpu on a toy size and this CPU: every path a card takes, without its numbers."""

import functools
import json
import re
import signal
import subprocess
import sys
import time

import pytest
from repository import ROOT

torch = pytest.importorskip("torch")
pytest.importorskip("matplotlib")

from grids_policy.bench import gpu, timed  # noqa: E402
from grids_policy.bench.device import CpuDevice  # noqa: E402
from grids_policy.bench.gpu_report import problem, read_json  # noqa: E402
from grids_policy.bench.random_policy import random_policy  # noqa: E402
from grids_policy.bench.variants import TorchVariant  # noqa: E402
from grids_policy.model.config import ActionExpertConfig, PolicyConfig, TextConfig, VisionConfig  # noqa: E402

SHORT = "--device cpu --size small --threads 1 --runs 3 --seconds 0.1"
PEAKS = {"tflops": {"fp32": 0.1, "bf16": 0.2}, "copy_gb_s": 8.0, "read_gb_s": 9.0, "cached_gb_s": 50.0, "units": 0,
         "cache_mb": 8.0, "operator_us": 4.0, "graph_us": None}  # fmt: skip


@pytest.fixture
def toy(monkeypatch):
    made = PolicyConfig(
        image_hw=((48, 64), (64, 48)), resize_hw=(64, 64), chunk_size=6, num_steps=3, tokenizer_max_length=8,
        vision=VisionConfig(64, 8, 32, 2, 2, 64, shuffle=2),
        text=TextConfig(32, 2, 4, 2, 8, 64, vocab=320), expert=ActionExpertConfig(24, 2, 48),
    )  # fmt: skip
    monkeypatch.setattr(gpu, "small_config", lambda: made)
    monkeypatch.setattr(gpu, "measure_card", lambda _: PEAKS)
    return made


class CardLike(CpuDevice):
    """A CPU that captures and counts energy, to run what a card runs."""

    graphs = True

    def capture(self, stage, value):
        stage(value)  # a capture runs on the value's memory, so the replay may not look at its argument
        return lambda _: stage(value)

    def energy_j(self):
        return time.perf_counter() * 50.0


def run(words, out):
    status = gpu.main([*words.split(), "--out", str(out)])
    return status, read_json(out / "gpu.json")


def test_every_variant_is_measured_and_every_missing_engine_has_its_reason(toy, tmp_path, capsys):
    status, report = run(f"{SHORT} --samplers dense,4,4@1 --engines eager,graph,cuda,tensorrt --batches 1,2", tmp_path)
    out = capsys.readouterr().out
    assert status == 0
    assert problem(json.loads(out.splitlines()[-1])) is None
    found = [(r["engine"], r["precision"], r["sampler"], r["batch"]) for r in report["rows"]]
    assert found == [
        ("eager", p, s, b) for p, b in (("fp32", 1), ("bf16", 1), ("fp32", 2)) for s in ("dense", "4", "4@1")
    ]
    assert [entry["what"] for entry in report["left_out"]] == ["graph", "cuda", "tensorrt"]
    assert all(entry["reason"] for entry in report["left_out"])
    assert report["no_gpu"]
    assert "**No GPU was measured**" in out
    for row in report["rows"]:
        assert row["from_peaks_s"]["total"] > 0
        assert "predicted_s" not in row
        assert 0 < row["seconds"]["total"]["p50"] <= row["seconds"]["total"]["p95"] <= row["seconds"]["total"]["p99"]
    assert (tmp_path / "gpu.png").stat().st_size > 5000
    assert gpu.main(["--markdown", str(tmp_path / "gpu.json")]) == 0
    assert capsys.readouterr().out.strip() == (tmp_path / "gpu.md").read_text(encoding="utf-8").strip()


def test_a_bundle_of_the_users_is_measured_without_a_prediction(toy, tmp_path):
    words = f"{SHORT} --engines cpu --samplers 4 --cache {tmp_path}/cache --bundle {ROOT}/models/untrained"
    status, report = run(words, tmp_path)
    assert status == 0
    exported, users = report["rows"]
    assert (exported["sampler"], exported["known"], exported["precision"]) == ("4", True, "fp32")
    assert exported["from_peaks_s"]["total"] > 0
    assert (users["sampler"], users["known"]) == ("untrained", False)
    assert "from_peaks_s" not in users
    assert all(row["second_start_s"] > 0 for row in report["rows"])


def test_graphs_and_energy_of_a_card_come_into_the_rows(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "open_device", lambda _: CardLike())
    monkeypatch.setattr(timed, "_ENERGY_S", 0.05)
    words = f"{SHORT} --samplers dense,4 --engines eager,graph --precisions fp32"
    status, report = run(words, tmp_path)
    assert status == 0
    assert [row["engine"] for row in report["rows"]] == ["eager", "graph"] * 2
    for row in report["rows"]:
        assert row["power_w"] == pytest.approx(50.0, rel=0.2)
        assert row["joules_per_chunk"] > 0


def test_what_an_engine_allocates_beside_torch_is_counted(toy, monkeypatch):
    class Engine:
        def __init__(self) -> None:
            self.precision = "fp16"

        def run(self):
            return {}

    monkeypatch.setattr(timed, "OnnxVariant", Engine)
    device = CardLike()
    taken = iter((1.0, 3.5))
    device.outside_gb = lambda: next(taken)
    device.held_gb = device.memory_gb = lambda: 4.0
    assert timed.Timed(Engine, {}, device).row["memory_gb"] == pytest.approx(2.5)


def test_a_batch_that_does_not_fit_is_left_out_and_larger_ones_are_not_tried(toy, tmp_path):
    words = f"{SHORT} --samplers dense --engines eager --precisions fp32 --batches 2,1,17179869184,34359738368"
    status, report = run(words, tmp_path)
    assert status == 0
    assert [row["batch"] for row in report["rows"]] == [1, 2]
    (entry,) = report["left_out"]
    assert entry["what"] == "eager fp32 dense, batch 17179869184"
    assert entry["reason"].startswith("out of memory (")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's own
def test_compiled_stages_give_the_chunk_of_the_plain_ones(toy, monkeypatch):
    # Traced by the compiler and run by torch: generating code takes minutes on two cores.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    policy = random_policy(toy)
    chunks = []
    for mode in ("eager", "compile"):
        value = None
        with torch.no_grad():
            for stage in TorchVariant(policy, 1, mode=mode)._stages:
                value = stage(value)
        chunks.append(value)
    torch.testing.assert_close(*chunks, rtol=1e-4, atol=1e-4)


def test_a_variant_that_breaks_costs_one_line(toy, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("the compiler\nis missing")

    monkeypatch.setattr(torch, "compile", broken)
    words = f"{SHORT} --samplers dense --engines eager,compile --precisions fp32"
    status, report = run(words, tmp_path)
    assert status == 0
    assert [row["engine"] for row in report["rows"]] == ["eager"]
    assert report["left_out"] == [{"what": "compile fp32 dense, batch 1", "reason": "the compiler is missing"}]


def test_engines_that_break_while_they_are_measured_cost_one_line(toy, tmp_path, monkeypatch):
    def lost(*_):
        raise RuntimeError("device lost")

    monkeypatch.setattr(gpu, "measure_group", lost)
    status, report = run(f"{SHORT} --samplers dense --engines eager --precisions fp32", tmp_path)
    assert status == 0
    assert report["rows"] == []
    assert report["left_out"] == [{"what": "eager", "reason": "device lost"}]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--engines eager,warp", "expected engines of eager, .*got 'warp'"),
        ("--precisions fp8", "expected precisions of fp32, bf16 on .*got 'fp8'"),
        ("--samplers 16@x", "got '16@x'"),
        ("--batches 0", "expected positive numbers, got batches \\[0\\]"),
        ("--batches two", "--batches: expected whole numbers as 1,2,4, got 'two'"),
        ("--bundle-precisions fp8", "expected bundle precisions of fp32, .*got 'fp8'"),
        ("--samplers ,", "expected samplers and engines, got ','"),
        ("--predict GTX", "expected cards of RTX 3090, .*got 'GTX'"),
        ("--markdown /nonexistent.json", "/nonexistent.json"),
    ],
)
def test_wrong_options_are_refused_in_one_sentence(words, message, tmp_path, capsys):
    assert gpu.main([*f"{SHORT} {words}".split(), "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert re.search(message, said)


def test_ctrl_c_leaves_a_report_of_what_was_measured(tmp_path):
    program = (
        "import sys\nfrom grids_policy.bench import gpu\n"
        f"gpu.measure_card = lambda _: {PEAKS!r}\nsys.exit(gpu.main(sys.argv[1:]))"
    )
    words = "--device cpu --size small --threads 1 --runs 1000000 --seconds 1000000 --engines eager --samplers 16"
    words += " --precisions fp32 --batches 1"
    running = subprocess.Popen(
        [sys.executable, "-c", program, *words.split(), "--out", str(tmp_path)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert running.stderr is not None
    for line in running.stderr:
        if "first run after" in line:
            break
    running.send_signal(signal.SIGINT)
    out, said = running.communicate(timeout=120)
    assert running.returncode == 130
    assert "Traceback" not in said
    report = json.loads(out.splitlines()[-1])
    assert report["interrupted"]
    assert report["peaks"] == PEAKS
    assert read_json(tmp_path / "gpu.json")["interrupted"]
