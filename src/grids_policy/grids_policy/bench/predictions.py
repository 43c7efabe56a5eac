"""Tables of predicted times, before any card, and the comparison with times that others published."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from grids_policy.bench.cards import ASSUMPTIONS, CARDS, MEASURED_CPU, Card, card_of, find_card
from grids_policy.bench.roofline import ENGINE_MODELS, StageTime, predict, total_s
from grids_policy.bench.variants import parse_sampler
from grids_policy.model.config import PolicyConfig

SAMPLERS = ("dense", "16", "4", "16@2")
# Engines and precisions of the tables; a bf16 bundle has the rates and weights of an fp16 one.
ENGINES = (("eager", "bf16"), ("compile", "bf16"), ("compile+graph", "bf16"), ("cuda", "fp16"), ("tensorrt", "fp16"))
BATCHES = (1, 8, 32, 128)
DOCUMENTED = ("RTX 3090", "RTX 4090", "AGX Orin", "Orin NX", "H200")  # of docs/measurements.md


@dataclasses.dataclass(frozen=True, slots=True)
class Published:
    """A time that somebody published, and the run of ours that is closest to it."""

    what: str
    card: str
    milliseconds: float
    engine: str
    precision: str
    cameras: int
    language: int
    source: str
    steps: int = 10
    stages: tuple[str, ...] = ("vision", "prefix", "denoise")  # what the published time contains


PUBLISHED = (
    Published("ONNX, ORT-CUDA", "A10G", 108.11, "cuda", "tf32", 3, 16, "FastCrest/tether README"),
    Published("ONNX, TensorRT in ORT, fp16", "A10G", 19.49, "tensorrt", "fp16", 3, 16, "FastCrest/tether README"),
    Published("LeRobot, eager", "RTX 4090", 170.0, "eager", "fp32", 2, 48, "huggingface/lerobot#2174"),
    Published(
        "LeRobot, denoising loop", "RTX 4090", 207.28, "eager", "fp32", 2, 48, "huggingface/lerobot#4633",
        stages=("denoise",),
    ),
    Published(
        "… its prefix kept, torch.compile", "RTX 4090", 49.43, "compile", "fp32", 2, 48, "huggingface/lerobot#4633",
        stages=("denoise",),
    ),
    Published("eager, fp16, 3 steps", "RTX A2000", 97.0, "eager", "fp16", 1, 48, "TaoWangRUB/smolvla-edge-nx", 3),
    Published("CUDA graph, fp16, 3 steps", "RTX A2000", 53.0, "graph", "fp16", 1, 48, "the same", 3),
    Published("ONNX, ORT-CUDA, fp32", "Xavier NX", 610.0, "cuda", "fp32", 1, 48, "the same"),
)  # fmt: skip


@functools.lru_cache(maxsize=64)
def with_tokens(config: PolicyConfig, sampler: str) -> PolicyConfig:
    """`config` with the sampler of this name (`variants.parse_sampler`)."""
    return dataclasses.replace(config, sampler=parse_sampler(sampler))


def published_config(config: PolicyConfig, entry: Published) -> PolicyConfig:
    """`config` with the cameras, sentence and steps of a published measurement."""
    return dataclasses.replace(
        config,
        image_keys=tuple(f"observation.images.camera{i}" for i in range(entry.cameras)),
        image_hw=((480, 640),) * entry.cameras,
        tokenizer_max_length=entry.language,
        num_steps=entry.steps,
    )


# Milliseconds of vision, prefix and ten steps that were measured on MEASURED_CPU (docs/measurements.md, 2026-11-22).
MEASURED = (
    ("torch", "eager", "dense", (5470.0, 1000.0, 2720.0)),
    ("torch", "eager", "16", (6670.0, 470.0, 2430.0)),
    ("ONNX", "cpu", "16", (5570.0, 360.0, 1500.0)),
)


def _row(head: list[str]) -> str:
    return "| " + " | ".join(head) + " |"


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join([_row(head), "|" + "---|" * len(head), *(_row(row) for row in rows)])


def totals_table(names: list[str], config: PolicyConfig) -> str:
    """Predicted milliseconds of a chunk by card, engine and sampler."""
    rows = []
    for name in names:
        for engine, precision in ENGINES:
            times = [total_s(predict(CARDS[name], with_tokens(config, s), engine, precision)) for s in SAMPLERS]
            rows.append(
                [name, f"{engine} {precision}", *(f"{1e3 * t:.1f}" for t in times), f"{times[0] / times[1]:.2f}"]
            )
    tokens = ["dense", "GridS 16", "GridS 4", "16 behind layer 2"]
    return _table(["predicted ms", "engine", *tokens, "dense / 16"], rows)


def stages_table(name: str, config: PolicyConfig) -> str:
    """Predicted milliseconds of each stage on one card, with the number of kernels and what limits the stage."""
    rows = []
    for engine, precision in ENGINES:
        for sampler in ("dense", "16"):
            stages = predict(CARDS[name], with_tokens(config, sampler), engine, precision)
            cells = [_stage(stages[stage]) for stage in ("vision", "prefix", "denoise")]
            rows.append([f"{engine} {precision}", sampler, *cells])
    return _table([f"predicted, {name}", "tokens", "vision", "prefix", "10 steps"], rows)


def _stage(stage: StageTime) -> str:
    return f"{stage.seconds * 1e3:.1f} ms, {stage.kernels} kernels, {stage.limit}"


def batch_table(names: list[str], config: PolicyConfig) -> str:
    """Predicted milliseconds of a batch, dense and with 16 tokens, and their ratio: the paper's Fig. 6 for SmolVLA."""
    rows = []
    for name in names:
        for sampler in ("dense", "16"):
            times = [total_s(predict(CARDS[name], with_tokens(config, sampler), "compile", "bf16", b)) for b in BATCHES]
            rows.append([name, sampler, *(f"{1e3 * t:.0f}" for t in times)])
        both = [[float(cell) for cell in row[2:]] for row in rows[-2:]]
        rows.append([name, "dense / 16", *(f"{dense / kept:.2f}" for dense, kept in zip(*both, strict=True))])
    return _table(["predicted ms, compile bf16", "tokens", *(f"batch {b}" for b in BATCHES)], rows)


def published_table(config: PolicyConfig) -> str:
    """Published times beside ours for the same card, cameras, precision and kind of engine."""
    rows = []
    for entry in PUBLISHED:
        found = predict(CARDS[entry.card], published_config(config, entry), entry.engine, entry.precision)
        ours = sum(found[stage].seconds for stage in entry.stages) * 1e3
        words = f"{entry.what}, {entry.cameras} camera{'s' if entry.cameras > 1 else ''}"
        rows.append(
            [
                entry.card,
                words,
                f"{entry.milliseconds:.1f}",
                f"{ours:.1f}",
                f"{ours / entry.milliseconds:.2f}",
                entry.source,
            ]
        )
    return _table(["card", "published", "ms", "predicted ms", "predicted / published", "source"], rows)


def processor_table(config: PolicyConfig) -> str:
    """Predicted over measured times of the one processor on which the full size was measured, by stage."""
    rows = []
    for label, engine, sampler, measured in MEASURED:
        found = predict(MEASURED_CPU, with_tokens(config, sampler), engine, "fp32")
        ours = [found[stage].seconds * 1e3 for stage in ("vision", "prefix", "denoise")]
        both = [(*pair, pair[0] / pair[1]) for pair in zip(ours, measured, strict=True)]
        both.append((sum(ours), sum(measured), sum(ours) / sum(measured)))
        rows.append([f"{label} fp32", sampler, *(f"{p:.0f} / {m:.0f} = {ratio:.2f}" for p, m, ratio in both)])
    return _table(
        [f"predicted / measured ms, {MEASURED_CPU.name}", "tokens", "vision", "prefix", "10 steps", "sum"], rows
    )


def assumptions() -> str:
    """What the prediction assumes, as a list."""
    return "\n".join(f"* {what}: {text}." for what, text in ASSUMPTIONS)


def markdown(names: list[str], config: PolicyConfig) -> str:
    """All predicted tables of these cards."""
    parts = [
        totals_table(names, config), stages_table(names[0], config), batch_table(names[:1], config),
        published_table(config), processor_table(config), assumptions(),
    ]  # fmt: skip
    return "\n\n".join(parts)


def predicted_report(names: list[str], config: PolicyConfig, size: str) -> dict[str, Any]:
    """The same as JSON: rows in the form of `./grids bench gpu`, each with its card and `predicted` true."""
    rows = []
    for name in names:
        for engine, precision in ENGINES:
            for sampler in SAMPLERS:
                stages = predict(CARDS[name], with_tokens(config, sampler), engine, precision)
                rows.append(
                    {
                        "card": name, "predicted": True, "engine": engine, "precision": precision, "sampler": sampler,
                        "batch": 1, "seconds": _seconds(stages),
                        "limit": {stage: time.limit for stage, time in stages.items()},
                    }
                )  # fmt: skip
    return {"bench": "gpu", "schema": 1, "predicted": True, "size": size, "rows": rows}


def _seconds(stages: dict[str, StageTime]) -> dict[str, dict[str, float]]:
    found = {stage: {"p50": time.seconds} for stage, time in stages.items()}
    return {**found, "total": {"p50": total_s(stages)}}


def add_predictions(rows: list[dict[str, Any]], report: dict[str, Any], config: PolicyConfig) -> None:
    """Add to each measured row what was predicted for it: from the data sheet, where the card is in `CARDS`, and from
    the peaks measured in this run. Rows of unknown size or engine stay as they are.
    """
    gpu = report["device"]["kind"] == "cuda"
    sheet = find_card(report["device"]["name"]) if gpu else None
    measured = card_of(report["device"]["name"], report["peaks"])
    for row in rows:
        if not row["known"] or row["engine"] not in ENGINE_MODELS:
            continue
        for key, card in (("predicted_s", sheet), ("from_peaks_s", measured)):
            if card and row["precision"] in card.tflops:
                row[key] = _predicted(card, row, config)


def _predicted(card: Card, row: dict[str, Any], config: PolicyConfig) -> dict[str, float]:
    tokens = with_tokens(config, row["sampler"])
    stages = predict(card, tokens, row["engine"], row["precision"], row["batch"])
    return {**{name: time.seconds for name, time in stages.items()}, "total": total_s(stages)}
