"""The variants of `./grids bench policy`: one policy on one engine at one batch size, timed stage by stage."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from grids_policy.export import fused, graphs
from grids_policy.export.cli import export_bundle, reduce_bundle
from grids_policy.export.spec import ExportOptions
from grids_policy.export.untrained import demo_tokenizer
from grids_policy.model.checkpoint import Checkpoint
from grids_policy.model.config import PolicyConfig, SamplerConfig, part_from_dict, sampler_from_text
from grids_policy.model.initialise import init_sampler, init_weights
from grids_policy.model.reducers import catalogue
from grids_policy.model.reducers.build import build_sampler
from grids_policy.model.smolvla import SmolVLA
from grids_policy.runtime import bundle as bundles
from grids_policy.runtime.agreement import random_inputs
from grids_policy.runtime.base import STAGES, PolicyOutputs
from grids_policy.runtime.onnx import EngineOptions, OnnxRuntime


class Variant(Protocol):
    """A policy on an engine that can be timed."""

    label: str
    sampler: SamplerConfig
    batch: int

    def run(self) -> dict[str, float]:
        """Infer one batch of chunks. Returns seconds by stage."""
        ...


def full_config() -> PolicyConfig:
    """SmolVLA: two cameras of 640 x 480, 48 language tokens, chunk_size 50, ten denoising steps."""
    return PolicyConfig(language_padding="max_length")


def small_config() -> PolicyConfig:
    """The sizes of models/untrained with dense tokens, for a bench of seconds instead of minutes."""
    from grids_policy.export.untrained import demo_config

    return dataclasses.replace(demo_config(), sampler=SamplerConfig(), max_committed=0)


def random_policy(config: PolicyConfig) -> SmolVLA:
    """A policy with random weights whose output depends on all inputs; only to measure speed."""
    policy = SmolVLA(config)
    init_weights(policy, 0)
    # Seeded, so that a bundle kept from an earlier call has the same weights.
    generator = torch.Generator().manual_seed(0)
    torch.nn.init.normal_(policy.action_out_proj.weight, std=config.expert.width**-0.5, generator=generator)
    return policy.eval().requires_grad_(False)


def parse_sampler(word: str) -> SamplerConfig:
    """ "16" (GridS behind the connector), "16@4" (behind vision layer 4), or a reducer as "dense" or "lattice:16".

    Raises ValueError.
    """
    if word[:1].isalpha():
        return sampler_from_text(word)
    count, _, layer = word.partition("@")
    try:
        after = int(layer) if layer else -1
        return SamplerConfig("grids", int(count), input_norm=True, lattice_init=True, after_layer=after)
    except ValueError as error:
        raise ValueError(f"expected dense, a number of tokens, or tokens@layer, got {word!r}: {error}") from error


def sampler_name(sampler: SamplerConfig) -> str:
    """Inverse of `parse_sampler`."""
    if sampler.kind != "grids":
        return f"{sampler.kind}:{sampler.tokens}" if catalogue.REDUCERS[sampler.kind].counted else sampler.kind
    return f"{sampler.tokens}" + (f"@{sampler.after_layer}" if sampler.after_layer >= 0 else "")


def with_sampler(policy: SmolVLA, sampler: SamplerConfig) -> SmolVLA:
    """A policy with another sampler that shares all other weights with `policy`."""
    other = copy.copy(policy)
    other._modules = dict(policy._modules)  # noqa: SLF001 - copy.copy shares the dict of children
    other.config = dataclasses.replace(policy.config, sampler=sampler)
    other.sampler = build_sampler(other.config)
    init_sampler(other)
    return other.eval().requires_grad_(False)


def random_checkpoint(policy: SmolVLA, folder: Path) -> Checkpoint:
    """A checkpoint of `policy` that can be exported: mean 0, std 0.5 and a small tokenizer, written to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    demo_tokenizer(320, folder / "tokenizer.json")
    stats = {}
    for feature, dim in (("observation.state", policy.config.state_dim), ("action", policy.config.action_dim)):
        stats[f"{feature}.mean"], stats[f"{feature}.std"] = torch.zeros(dim), torch.full((dim,), 0.5)
    return Checkpoint(policy, stats, {}, tokenizer=folder / "tokenizer.json")


class TorchVariant:
    """The torch model itself, eager; on a GPU also captured in CUDA graphs, one per stage."""

    def __init__(self, policy: SmolVLA, batch: int, *, device: str = "cpu", captured: bool = False) -> None:
        self.config, self.batch = policy.config, batch
        self.sampler = policy.config.sampler
        self.label = "torch CUDA graph" if captured else "torch eager"
        self._policy, self._device = policy.to(device), device
        self._inputs = self._random_inputs()
        self._stages: list[Callable] = [self._preprocess, self._vision, self._prefix, self._denoise]
        if captured:
            self._stages = self._capture()

    def _random_inputs(self) -> dict[str, Tensor | list[Tensor]]:
        config, generator = self.config, torch.Generator().manual_seed(0)
        batch, language = self.batch, config.tokenizer_max_length
        frames = [
            torch.randint(0, 256, (batch, h, w, 3), generator=generator, dtype=torch.uint8) for h, w in config.image_hw
        ]
        inputs = {
            "mask": torch.ones(batch, len(frames), dtype=torch.bool),
            "state": torch.randn(batch, config.state_dim, generator=generator),
            "tokens": torch.randint(3, config.text.vocab, (batch, language), generator=generator),
            "token_mask": torch.arange(language).expand(batch, -1) < 32,
            "noise": torch.randn(batch, config.chunk_size, config.max_action_dim, generator=generator),
        }
        moved = {name: tensor.to(self._device) for name, tensor in inputs.items()}
        return {**moved, "frames": [frame.to(self._device) for frame in frames]}

    def _preprocess(self, _) -> Tensor:
        return self._policy.preprocess(self._inputs["frames"])

    def _vision(self, images: Tensor) -> Tensor:
        return self._policy.dense_tokens(images)

    def _prefix(self, dense: Tensor):
        policy, given = self._policy, self._inputs
        sampled = policy.sampler(dense)
        prefix = policy.embed_prefix(
            sampled.tokens, given["mask"], given["state"], given["tokens"], given["token_mask"]
        )
        keys, values, _ = policy.prefill(prefix)
        return policy.cache(prefix, keys, values, (sampled.coords, dense[..., 0]))

    def _denoise(self, cache) -> Tensor:
        return self._policy.sample(self._inputs["noise"], cache)

    def _capture(self) -> list[Callable]:
        """Each stage as a CUDA graph whose input is the previous one's output buffer."""
        replays, value = [], None
        stream = torch.cuda.Stream()
        for stage in self._stages:
            with torch.no_grad(), torch.cuda.stream(stream):
                for _ in range(3):
                    stage(value)
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.no_grad(), torch.cuda.graph(graph):
                result = stage(value)
            replays.append(lambda _, graph=graph, result=result: (graph.replay(), result)[1])
            value = result
        return replays

    @torch.no_grad()
    def run(self) -> dict[str, float]:
        """See `Variant.run`."""
        value, seconds = None, {}
        for name, stage in zip(STAGES, self._stages, strict=True):
            start = self._now()
            value = stage(value)
            seconds[name] = self._now() - start
        return seconds

    def _now(self) -> float:
        if self._device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter()


class OnnxVariant:
    """A bundle on ONNX Runtime, batch 1: what the robot runs."""

    def __init__(self, folder: Path, options: EngineOptions) -> None:
        self.folder = folder
        self._runtime = OnnxRuntime(folder, options)
        bundle = self._runtime.bundle
        self.sampler, self.batch = part_from_dict(SamplerConfig, bundle.sampler, "sampler"), 1
        engine = self._runtime.provider.removesuffix("ExecutionProvider")
        self.label = f"onnx {engine} {bundle.precision}"
        self._inputs = random_inputs(bundle, 300, 0)
        self._outputs = PolicyOutputs.empty(bundle)

    def run(self) -> dict[str, float]:
        """See `Variant.run`."""
        return self._runtime.infer(self._inputs, self._outputs)


def cached_bundle(policy: SmolVLA, precision: str, root: Path, report: Callable[[str], None]) -> tuple[Path, float]:
    """The folder below `root` of `policy` as a bundle, exported once per code version, and the export's seconds."""
    reducers = sorted(Path(catalogue.__file__).parent.glob("*.py"))
    code = "".join(path.read_text() for path in (*(Path(m.__file__) for m in (graphs, fused, bundles)), *reducers))
    words = json.dumps([dataclasses.asdict(policy.config), torch.__version__, code])
    key = f"{sampler_name(policy.config.sampler)}-{hashlib.sha256(words.encode()).hexdigest()[:12]}"
    full, folder = root / f"{key}-fp32", root / f"{key}-{precision}"
    if (folder / bundles.MANIFEST).is_file():
        return folder, 0.0
    report(f"exporting {sampler_name(policy.config.sampler)}, {precision} (kept in {folder})")
    began = time.monotonic()
    checkpoint = random_checkpoint(policy, root)
    if precision != "fp32" and (full / bundles.MANIFEST).is_file():
        reduce_bundle(checkpoint, full, folder, precision, report)
    else:
        export_bundle(checkpoint, folder, ExportOptions(precision=precision, instruction="bench"), report)
    return folder, time.monotonic() - began


def counted_flops(variant: TorchVariant) -> float:
    """Floating point operations of one run from torch's FlopCounterMode, with unfused attention, which it counts."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        variant.run()
    return float(counter.get_total_flops())


@dataclasses.dataclass(frozen=True, slots=True)
class Peaks:
    """The machine's measured peaks, with the threads of the bench: fp32 GFLOP/s, and memory reads in GB/s."""

    fp32_gflops: float
    read_gb_s: float


def measure_peaks(device: str) -> Peaks:
    """Measure the peaks: the best of six 2048 x 2048 matrix products and of six sums over half a gigabyte."""
    side, count = 2048, 1 << 27
    a = torch.randn(side, side, device=device)
    x = torch.ones(count, device=device)

    def best(work: Callable[[], object]) -> float:
        times = []
        for _ in range(6):
            start = _now(device)
            work()
            times.append(_now(device) - start)
        return min(times)

    with torch.no_grad() if device == "cpu" else nullcontext():
        return Peaks(2 * side**3 / best(lambda: a @ a) / 1e9, 4 * count / best(x.sum) / 1e9)


def _now(device: str) -> float:
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()


def training_step_s(policy: SmolVLA, batch: int, repeats: int, device: str = "cpu") -> list[float]:
    """Seconds of forward and backward of the whole policy on random data, per repeat; without the optimiser."""
    from grids_policy.model.flow import FlowDraw, TrainBatch, draw, flow_loss

    variant = TorchVariant(policy, batch, device=device)
    given = variant._inputs  # noqa: SLF001 - the same random data
    images = policy.preprocess(given["frames"])
    actions = torch.zeros(batch, policy.config.chunk_size, policy.config.action_dim, device=device)
    data = TrainBatch(images, given["mask"], given["state"], given["tokens"], given["token_mask"], actions)
    policy.train().requires_grad_(True)
    seconds = []
    for _ in range(repeats):
        random = FlowDraw(*(None if t is None else t.to(device) for t in draw(policy, batch)))
        start = _now(device)
        flow_loss(policy, data, random).backward()
        seconds.append(_now(device) - start)
        policy.zero_grad(set_to_none=True)
    policy.eval().requires_grad_(False)
    return seconds


def stage_percentiles(runs: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """p50, p95 and p99 of each stage and of the total, in seconds."""
    columns = {name: np.array([run[name] for run in runs]) for name in STAGES}
    columns["total"] = np.sum(list(columns.values()), axis=0)
    return {name: {f"p{q}": float(np.percentile(values, q)) for q in (50, 95, 99)} for name, values in columns.items()}
