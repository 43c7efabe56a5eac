"""The variants of `./grids bench policy`: one policy on one engine at one batch size, timed stage by stage."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from grids_policy.bench.device import AbstractDevice, CpuDevice, set_precision
from grids_policy.bench.operators import DTYPES
from grids_policy.bench.random_policy import random_checkpoint
from grids_policy.bench.stages import Stage, example_inputs, policy_stages
from grids_policy.export import bfloat16, fused, graphs, pi0, prefill, quantise, xvla
from grids_policy.export import precision as precisions
from grids_policy.export.cli import export_bundle, reduce_bundle
from grids_policy.export.spec import ExportOptions
from grids_policy.model.config import SamplerConfig, part_from_dict, sampler_from_text
from grids_policy.model.families import Policy
from grids_policy.model.initialise import init_sampler
from grids_policy.model.reducers import catalogue
from grids_policy.model.reducers.build import build_sampler
from grids_policy.runtime import bundle as bundles
from grids_policy.runtime.agreement import random_inputs
from grids_policy.runtime.base import STAGES, PolicyOutputs
from grids_policy.runtime.engines.base import EngineOptions
from grids_policy.runtime.onnx import OnnxRuntime

_CALIBRATED_ON = (
    5  # random observations, one of them for the gate; the scales of random weights only have to be plausible
)

TORCH_MODES = ("eager", "compile", "graph", "compile+graph")


class Variant(Protocol):
    """A policy on an engine that can be timed."""

    label: str
    sampler: SamplerConfig
    batch: int

    def run(self) -> dict[str, float]:
        """Infer one batch of chunks. Returns seconds by stage."""
        ...


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


def with_sampler(policy: Policy, sampler: SamplerConfig) -> Policy:
    """A policy with another sampler that shares all other weights with `policy`."""
    other = copy.copy(policy)
    other._modules = dict(policy._modules)  # noqa: SLF001 - copy.copy shares the dict of children
    other.config = dataclasses.replace(policy.config, sampler=sampler)
    other.sampler = build_sampler(other.config)
    init_sampler(other)
    return other.eval().requires_grad_(False)


class TorchVariant:
    """The torch model itself: eager, compiled, or captured in CUDA graphs, one per stage.

    mode: of TORCH_MODES. The policy is moved to the device, in the type of `precision`. Raises RuntimeError where the
    device has no graphs, and whatever torch.compile raises.
    """

    def __init__(
        self, policy: Policy, batch: int, *, device: AbstractDevice | None = None, mode: str = "eager",
        precision: str = "fp32",
    ) -> None:  # fmt: skip
        self.config, self.batch, self.mode = policy.config, batch, mode
        self.sampler = policy.config.sampler
        self.label = f"torch {mode}" if precision == "fp32" else f"torch {mode} {precision}"
        self.precision = precision
        self.device = device or CpuDevice()
        kind, dtype = self.device.kind, DTYPES[precision]
        self.policy = policy.to(kind, dtype)
        self.inputs = example_inputs(self.config, batch, kind, dtype)
        self._stages = self._compiled() if "compile" in mode else self._plain(self.policy)
        if "graph" in mode:
            self._stages = self._captured()

    def _plain(self, policy: Policy) -> list[Stage]:
        return list(policy_stages(policy, self.inputs).values())

    def _compiled(self) -> list[Stage]:
        """Compiled stages; of denoising one step, because the compiler would write out all of them."""
        stepped = copy.copy(self.policy)
        stepped.denoise_step = torch.compile(self.policy.denoise_step, dynamic=False)
        *stages, denoise = self._plain(stepped)
        return [*(torch.compile(stage, dynamic=False) for stage in stages), denoise]

    @torch.no_grad()
    def _captured(self) -> list[Stage]:
        """Each stage as a graph whose input is the previous one's output buffer."""
        replays, value = [], None
        for stage in self._stages:
            replays.append(self.device.capture(stage, value))
            value = replays[-1](value)
        return replays

    @torch.no_grad()
    def run(self) -> dict[str, float]:
        """See `Variant.run`."""
        set_precision(self.precision)
        value, marks = None, [self.device.mark()]
        for stage in self._stages:
            value = stage(value)
            marks.append(self.device.mark())
        return dict(zip(STAGES, self.device.seconds(marks), strict=True))


class OnnxVariant:
    """A bundle on ONNX Runtime, batch 1: what the robot runs."""

    def __init__(self, folder: Path, options: EngineOptions) -> None:
        self.folder = folder
        self._runtime = OnnxRuntime(folder, options)
        bundle = self._runtime.bundle
        self.sampler, self.batch = part_from_dict(SamplerConfig, bundle.sampler, "sampler"), 1
        engine = self._runtime.provider.removesuffix("ExecutionProvider")
        self.precision = bundle.precision
        self.label = f"onnx {engine} {bundle.precision}"
        if self._runtime.precision:
            self.label += f" in {self._runtime.precision}"
        self._inputs = random_inputs(bundle, 300, 0)
        self._outputs = PolicyOutputs.empty(bundle)

    def run(self) -> dict[str, float]:
        """See `Variant.run`."""
        return self._runtime.infer(self._inputs, self._outputs)

    def close(self) -> None:
        """Free the engine."""
        self._runtime.close()


def cached_bundle(policy: Policy, precision: str, root: Path, report: Callable[[str], None]) -> tuple[Path, float]:
    """The folder below `root` of `policy` as a bundle, exported once per code version, and the export's seconds."""
    reducers = sorted(Path(catalogue.__file__).parent.glob("*.py"))
    modules = (graphs, pi0, xvla, prefill, fused, precisions, bfloat16, quantise, bundles)
    code = "".join(path.read_text() for path in (*(Path(m.__file__) for m in modules), *reducers))
    words = json.dumps([dataclasses.asdict(policy.config), torch.__version__, code])
    digest = hashlib.sha256(words.encode()).hexdigest()[:12]
    key = f"{policy.config.family}-{sampler_name(policy.config.sampler)}-{digest}"
    full, folder = root / f"{key}-fp32", root / f"{key}-{precision}"
    if (folder / bundles.MANIFEST).is_file():
        return folder, 0.0
    report(f"exporting {sampler_name(policy.config.sampler)}, {precision} (kept in {folder})")
    began = time.monotonic()
    checkpoint = random_checkpoint(policy, root)
    if precision == "int8-static":
        cached_bundle(policy, "fp32", root, report)
        bundle = bundles.read_manifest(full)
        random = [random_inputs(bundle, 300, seed) for seed in range(_CALIBRATED_ON)]
        reduce_bundle(checkpoint, full, folder, precision, report, observations=random)
    elif precision != "fp32" and (full / bundles.MANIFEST).is_file():
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


def training_step_s(policy: Policy, batch: int, device: AbstractDevice) -> tuple[float, float]:
    """Wall and processor seconds of forward and backward of the whole policy on random data, without the optimiser."""
    from grids_policy.model.flow import FlowDraw, TrainBatch, draw, flow_loss

    policy.to(device.kind)
    given = example_inputs(policy.config, batch, device.kind)
    images = policy.preprocess(given.frames)
    actions = torch.zeros(batch, policy.config.chunk_size, policy.config.action_dim, device=device.kind)
    data = TrainBatch(images, given.mask, given.state, given.tokens, given.token_mask, actions)
    policy.train().requires_grad_(True)
    random = FlowDraw(*(None if t is None else t.to(device.kind) for t in draw(policy, batch)))
    device.synchronize()
    marks, began = [device.mark()], time.process_time()
    flow_loss(policy, data, random).backward()
    (seconds,), processor_s = device.seconds([*marks, device.mark()]), time.process_time() - began
    policy.zero_grad(set_to_none=True)
    policy.eval().requires_grad_(False)
    return seconds, processor_s


def stage_percentiles(runs: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """p50, p95 and p99 of each stage and of the total, in seconds. total: the stages' sum where a run has none."""
    columns = {name: np.array([run[name] for run in runs]) for name in STAGES}
    columns["total"] = np.array([run.get("total", sum(run[name] for name in STAGES)) for run in runs])
    return {name: {f"p{q}": float(np.percentile(values, q)) for q in (50, 95, 99)} for name, values in columns.items()}
