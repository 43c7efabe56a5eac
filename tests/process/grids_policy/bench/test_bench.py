"""The policy bench on a toy size: every variant, table, plot and number is there and consistent. No times asserted."""

import dataclasses
import json

import pytest
from repository import ROOT

torch = pytest.importorskip("torch")
pytest.importorskip("matplotlib")

from grids_policy.bench import cli as bench  # noqa: E402
from grids_policy.bench import report as bench_report  # noqa: E402
from grids_policy.bench import variants as bench_variants  # noqa: E402
from grids_policy.bench.random_policy import random_checkpoint, random_policy, small_config  # noqa: E402
from grids_policy.model.checkpoint import save_checkpoint  # noqa: E402
from grids_policy.model.config import (  # noqa: E402
    ActionExpertConfig,
    PolicyConfig,
    SamplerConfig,
    TextConfig,
    VisionConfig,
    config_from_dict,
    config_to_dict,
)
from grids_policy.runtime.base import STAGES  # noqa: E402
from grids_policy.runtime.bundle import read_manifest  # noqa: E402


@pytest.fixture
def toy(monkeypatch):
    made = PolicyConfig(
        image_hw=((48, 64), (64, 48)), resize_hw=(64, 64), chunk_size=6, num_steps=3, tokenizer_max_length=8,
        vision=VisionConfig(64, 8, 32, 2, 2, 64, shuffle=2),
        text=TextConfig(32, 2, 4, 2, 8, 64, vocab=320), expert=ActionExpertConfig(24, 2, 48),
    )  # fmt: skip
    monkeypatch.setattr(bench, "small_config", lambda _: made)
    return made


@pytest.fixture
def untrained():

    return ROOT / "models" / "untrained"


def test_every_variant_is_measured_and_reported(toy, tmp_path, capsys):
    words = "--size small --engines torch --tokens dense,4,4@1 --batches 1,2 --rounds 2 --threads 1 --train 1"
    assert bench.main([*words.split(), "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    report = json.loads(text.splitlines()[-1])
    assert [(r["sampler"], r["batch"]) for r in report["rows"]] == [
        (name, batch) for name in ("dense", "4", "4@1") for batch in (1, 2)
    ]
    for row in report["rows"]:
        assert set(row["seconds"]) == {*STAGES, "total"}
        assert 0 < row["seconds"]["total"]["p50"] <= row["seconds"]["total"]["p95"] <= row["seconds"]["total"]["p99"]
    flops = {row["sampler"]: row["flops"] for row in report["rows"]}
    assert flops["dense"]["prefix"] > flops["4"]["prefix"]
    assert flops["4"]["vision"] > flops["4@1"]["vision"]
    assert report["flops_by_torch_over_analytic"] == pytest.approx(1.0, abs=0.02)
    assert all(row["processor_s"] > 0 for row in report["rows"])
    assert [row["sampler"] for row in report["train"]] == ["dense", "4", "4@1"]
    assert {len(row[kind]) for row in report["train"] for kind in ("seconds", "processor_s")} == {5}
    assert (tmp_path / "policy.png").stat().st_size > 5000
    assert "1.00x" in text


@pytest.mark.parametrize(("family", "exported"), [("pi0", ""), ("pi05", "4")])
def test_a_checkpoint_of_another_family_gives_the_sizes(toy, family, exported, tmp_path):
    """Its weights do not count, and neither does its sampler."""
    values = config_to_dict(toy) | {"family": family, "tokenizer_max_length": 40}
    values["vision"] |= {"shuffle": 1}
    del values["conventions"], values["cross_attention"], values["self_attn_every"], values["language_padding"]
    config = dataclasses.replace(config_from_dict(values), sampler=SamplerConfig("pool", 4))
    policy = random_policy(config)
    checkpoint = random_checkpoint(policy, tmp_path / "words")
    save_checkpoint(tmp_path / "checkpoint", checkpoint)
    words = ["--like", str(tmp_path / "checkpoint"), "--tokens", "dense,lattice:4", "--onnx-tokens", exported]
    words += ["--precisions", "fp32", "--rounds", "2", "--threads", "1", "--train", "1", "--cache", str(tmp_path)]
    report = bench.run(bench.parse_arguments(words))
    assert report["family"] == family
    assert [row["sampler"] for row in report["rows"]] == ["dense", "lattice:4", *exported]
    assert report["flops_by_torch_over_analytic"] == pytest.approx(1.0, abs=0.02)
    assert [row["sampler"] for row in report["train"]] == ["dense", "lattice:4"]


def test_the_small_size_is_that_of_the_untrained_bundle_and_says_so(untrained, capsys):
    config, bundle = small_config(), read_manifest(untrained)
    assert (config.chunk_size, config.num_steps, config.grid) == (
        bundle.chunk_size, bundle.num_steps, (bundle.grid_height, bundle.grid_width),
    )  # fmt: skip
    assert config.resize_hw == (bundle.input_height, bundle.input_width)
    demo = read_manifest(untrained.with_name("demo"))
    assert config.resize_hw != (demo.input_height, demo.input_width)
    with pytest.raises(SystemExit):
        bench.parse_arguments(["--help"])
    assert "published, or models/untrained's" in " ".join(capsys.readouterr().out.split())


def test_a_batch_that_does_not_fit_is_said_and_the_others_go_on(toy, monkeypatch):
    def refuse(self):
        if self.batch == 64:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes.\nmore")
        if self.batch == 3:
            raise RuntimeError("shapes differ")
        return dict.fromkeys(STAGES, 0.1)

    monkeypatch.setattr(bench_variants.TorchVariant, "run", refuse)
    words = ["--engines", "torch", "--tokens", "dense", "--batches"]
    said = []
    variants, _ = bench.build_variants(bench.parse_arguments([*words, "1,64,2"]), toy, said.append)
    assert [variant.batch for variant in variants] == [1, 2]
    assert [line for line in said if "no memory" in line] == [
        "left out, no memory: dense, batch 64: DefaultCPUAllocator: can't allocate memory: 9 bytes."
    ]
    with pytest.raises(RuntimeError, match="shapes differ"):
        bench.build_variants(bench.parse_arguments([*words, "3"]), toy, said.append)


def test_a_bundle_takes_its_turn_with_torch(toy, untrained):
    arguments = bench.parse_arguments(["--engines", "none", "--size", "small", "--bundle", str(untrained)])
    variants, notes = bench.build_variants(arguments, toy, lambda _: None)
    rows = bench.measure(variants, 2, lambda _: None)
    assert rows[0]["label"] == "onnx CPU fp32"
    assert rows[0]["sampler"] == "16"
    assert notes["untrained"]["load_s"]["onnx"] > 0


def test_engines_are_measured_by_name_on_every_bundle_and_precision(toy, tmp_path):
    words = "--size small --engines cpu,openvino --onnx-tokens 4 --precisions fp32,int8-static --threads 1 --rounds 2"
    arguments = bench.parse_arguments([*words.split(), "--cache", str(tmp_path)])
    variants, notes = bench.build_variants(arguments, toy, lambda _: None)
    labels = [row["label"] for row in bench.measure(variants, 2, lambda _: None)]
    assert labels[:2] == ["onnx CPU fp32", "onnx CPU int8-static"]
    assert labels[2].startswith("onnx OpenVINO fp32")
    assert labels[3].startswith("onnx OpenVINO int8-static")
    assert all(set(note["load_s"]) == {"cpu", "openvino"} for note in notes.values())
    with pytest.raises(ValueError, match=r"--engines: expected torch, onnx, .*, got 'quantum'"):
        bench.build_variants(bench.parse_arguments(["--size", "small", "--engines", "quantum"]), toy, lambda _: None)


def test_sampler_words_are_an_inverse_pair_and_nonsense_is_refused():
    for word in ("dense", "16", "4@2"):
        assert bench_variants.sampler_name(bench_variants.parse_sampler(word)) == word
    with pytest.raises(ValueError, match=r"sampler.kind must be one of dense, grids, .*; got 'many'"):
        bench_variants.parse_sampler("many")
    with pytest.raises(ValueError, match="expected dense, a number of tokens, or tokens@layer, got '4@two'"):
        bench_variants.parse_sampler("4@two")


def test_two_policies_made_apart_have_the_same_random_weights(toy):
    first, second = (random_policy(toy).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_changing_the_sampler_shares_all_other_weights(toy):
    base = random_policy(toy)
    other = bench_variants.with_sampler(base, SamplerConfig("grids", 4))
    assert other.vision is base.vision
    assert base.config.sampler.kind == "dense"
    assert other.config == dataclasses.replace(base.config, sampler=SamplerConfig("grids", 4))


def test_the_denoise_floor_is_bandwidth_when_that_is_slower():
    report = {
        "size": "full",
        "peaks": {"tflops": {"fp32": 0.1}, "read_gb_s": 10.0},
        "expert_bytes_per_step": 4e8,
        "steps": 10,
    }
    row = {"batch": 1, "flops": {"vision": 2e11, "denoise": 1e9}}
    assert bench_report.stage_floor_s(report, row, "vision") == pytest.approx(2.0)
    assert bench_report.stage_floor_s(report, row, "denoise") == pytest.approx(0.4)
