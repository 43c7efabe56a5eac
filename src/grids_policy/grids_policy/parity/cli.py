"""Compare a policy with a reference file, stage by stage: `grids parity CHECKPOINT_DIR ORACLE_NPZ`.

The file holds LeRobot's inputs, intermediates, outputs, losses and gradients under the names below.
A stage provider has a name, a tolerance and `stages(reference)`, which returns arrays under the same
names; every name that both have is compared. Exit status: 0 all within
tolerance, 1 some stage above it, 2 the checkpoint or the file cannot be used.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import re
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from grids_common.errors import GridsError
from grids_policy.model.checkpoint import Checkpoint, load_checkpoint
from grids_policy.model.files import optional_json

TORCH_TOLERANCE = 1e-4
ONNX_TOLERANCE = 1e-3
# Inputs and LeRobot's mixed-precision run, which float32 cannot reproduce.
NOT_STAGES = ("in/", "stats/", "out/actions_padded_mixed_bf16")
# Rows of padded tokens contain values that nothing reads and that depend on the kernel.
PADDED_ROWS = re.compile(r"prefix/out|prefix/layer\d+|cache/\d+/[kv]")

# Two stages are not in network units, where an absolute tolerance means something: actions in the
# dataset's units are divided by their std, squared errors are compared as their roots.
DATASET_UNITS, SQUARED = "out/action_chunk_unnormalised", "train/losses"
# Gradients have the scale of the loss. The error of a stage with values above 1 is relative to its largest value.
GRADIENTS = ("grad/", "grad_norm/")


class OracleError(GridsError, ValueError):
    """A reference file that cannot be used."""


@dataclasses.dataclass(frozen=True)
class Reference:
    """One reference file. Arrays as stored: images uint8 (B, 3, h, w), the rest float32 or bool."""

    arrays: dict[str, np.ndarray]
    tasks: tuple[str, ...] = ()
    cameras: tuple[str, ...] = ()  # feature keys of the slots, present cameras first; (): not stated
    overrides: dict[str, object] = dataclasses.field(default_factory=dict)
    grad_norms: dict[str, float] = dataclasses.field(default_factory=dict)

    def __getitem__(self, name: str) -> np.ndarray:
        """One array. Raises OracleError when the file lacks it."""
        if name not in self.arrays:
            raise OracleError(f"the reference file lacks {name!r}")
        return self.arrays[name]

    def numbered(self, prefix: str, suffix: str = "") -> int:
        """How many of prefix1suffix, prefix2suffix, ... there are."""
        count = 0
        while f"{prefix}{count + 1}{suffix}" in self.arrays:
            count += 1
        return count

    @property
    def frames(self) -> list[np.ndarray]:
        """Raw frames as a camera gives them: uint8 (B, h, w, 3), one array per camera."""
        count = self.numbered("in/image", "_uint8")
        return [np.moveaxis(self[f"in/image{i + 1}_uint8"], 1, -1) for i in range(count)]

    @property
    def slots(self) -> int:
        """Camera slots in the prefix: real cameras and masked empty ones."""
        return max(self.numbered("pre/image"), len(self.frames))

    @property
    def image_mask(self) -> np.ndarray:
        """(B, slots) bool."""
        real, masks = len(self.frames), []
        for i in range(self.slots):
            absent = np.full(len(self["in/noise"]), i < real)
            masks.append(self.arrays.get(f"pre/image_mask{i + 1}", absent))
        return np.stack(masks, 1)

    def times(self) -> list[str]:
        """The flow times in the names denoise/v_t<time>, as text."""
        names = (name.removeprefix("denoise/v_t") for name in self.arrays if name.startswith("denoise/v_t"))
        return [text for text in names if text[0].isdigit()]


class StageProvider(Protocol):
    """One implementation of the policy."""

    name: str
    tolerance: float

    def stages(self, reference: Reference) -> dict[str, np.ndarray]:
        """This implementation's arrays for the reference's inputs, under the reference's names."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class StageDifference:
    """One compared stage. `error` is the max abs difference, `scale` the reference's max abs."""

    stage: str
    error: float
    scale: float


def read_reference(path: Path | str) -> Reference:
    """Read the npz and, when present, oracle_config.json and grad_norms.json beside it.

    Raises OracleError or CheckpointError, with the name of the file.
    """
    path = Path(path)
    try:
        # Opened here: numpy leaves a damaged file open.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise OracleError(f"{path} cannot be read as npz: {error}") from error
    oracle = path.with_name("oracle_config.json")
    config = optional_json(oracle) or {}
    data, overrides = config.get("data", {}), config.get("policy", {})
    tasks = data.get("tasks", []) if isinstance(data, dict) else None
    if not isinstance(overrides, dict) or not isinstance(tasks, list) or not all(isinstance(t, str) for t in tasks):
        raise OracleError(f"{oracle}: expected objects 'policy' and 'data', the latter with a list of texts 'tasks'")
    return Reference(
        arrays=arrays,
        tasks=tuple(tasks),
        cameras=tuple(map(str, config.get("slots", ()))),
        overrides=overrides,
        grad_norms=optional_json(path.with_name("grad_norms.json")) or {},
    )


def compare(reference: Reference, found: dict[str, np.ndarray]) -> tuple[list[StageDifference], list[str]]:
    """The differences of all stages that both sides have, in the file's order, and the names of the other stages."""
    expected = {n: a for n, a in reference.arrays.items() if not n.startswith(NOT_STAGES)}
    norms = reference.grad_norms.items()
    expected |= {f"grad_norm/{key}": np.array(value, np.float32) for key, value in norms}
    rows, skipped = [], []
    for name, array in expected.items():
        if name in found:
            rows.append(_row(name, array, found[name], reference))
        else:
            skipped.append(name)
    return rows, skipped


def _row(name: str, expected: np.ndarray, got: np.ndarray, reference: Reference) -> StageDifference:
    """A difference in shape or a value that is not finite counts as an infinite error."""
    if got.shape != expected.shape:
        return StageDifference(name, math.inf, math.nan)
    wide, other = expected.astype(np.float64), got.astype(np.float64)
    if name == DATASET_UNITS and "stats/action/std" in reference.arrays:
        wide, other = (x / reference["stats/action/std"] for x in (wide, other))
    if name == SQUARED:
        wide, other = np.sqrt(wide), np.sqrt(other)
    if PADDED_ROWS.fullmatch(name):
        valid = reference["prefix/pad_masks"].astype(bool)
        wide, other = wide[valid], other[valid]
    error, scale = (float(np.abs(x).max(initial=0.0)) for x in (wide - other, wide))
    if name.startswith(GRADIENTS):
        error /= max(scale, 1.0)
    return StageDifference(name, error if math.isfinite(error) else math.inf, scale)


def group_norms(rows: list[StageDifference]) -> list[StageDifference]:
    """Replace the gradient norms, about a hundred rows, by one row with the worst of them."""
    norms = [row for row in rows if row.stage.startswith("grad_norm/")]
    rest = [row for row in rows if not row.stage.startswith("grad_norm/")]
    if norms:
        worst = max(norms, key=lambda row: row.error)
        rest.append(StageDifference(f"grad norms ({len(norms)})", worst.error, worst.scale))
    return rest


def report(name: str, tolerance: float, rows: list[StageDifference], skipped: list[str]) -> str:
    """The differences as a text table. rows: at least one."""
    width = max([len(row.stage) for row in rows] + [24])
    lines = [f"{'stage (' + name + ')':{width}}  max abs error  max abs value"]
    for row in rows:
        mark = "" if row.error <= tolerance else "  <- above tolerance"
        lines.append(f"{row.stage:{width}}  {row.error:13.2e}  {row.scale:13.3g}{mark}")
    if skipped:
        groups = Counter(stage.split("/")[0] for stage in skipped)
        lines.append(f"not compared: {', '.join(f'{n} of {group}/' for group, n in groups.items())}")
    worst = max(rows, key=lambda row: row.error)
    verdict = "within" if worst.error <= tolerance else "ABOVE"
    lines.append(f"{name}: worst {worst.error:.2e} at {worst.stage}, {verdict} the tolerance {tolerance:.0e}")
    return "\n".join(lines) + "\n"


def run(reference: Reference, provider: StageProvider, write: Callable[[str], object]) -> bool:
    """Compare one provider and write its table. Returns whether all stages are within tolerance; raises OracleError."""
    rows, skipped = compare(reference, provider.stages(reference))
    rows = group_norms(rows)
    if not rows:
        raise OracleError("the reference file holds no stage that can be compared")
    write(report(provider.name, provider.tolerance, rows, skipped))
    return max(row.error for row in rows) <= provider.tolerance


def build_providers(checkpoint: Checkpoint, *, torch_only: bool) -> list[StageProvider]:
    """The implementations that must agree with the reference: torch and, unless torch_only, ONNX."""
    if checkpoint.config.family == "xvla":
        from grids_policy.parity.xvla import XvlaOnnxStages, XvlaStages

        return [XvlaStages(checkpoint), *([] if torch_only else [XvlaOnnxStages(checkpoint)])]
    from grids_policy.parity.torch import TorchStages  # imports this module, as the next one does

    providers: list[StageProvider] = [TorchStages(checkpoint)]
    if not torch_only:
        from grids_policy.parity.onnx import OnnxStages

        providers.append(OnnxStages(checkpoint))
    return providers


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 all stages within tolerance, 1 some above it, 2 checkpoint or reference file unusable."""
    parser = argparse.ArgumentParser(prog="grids parity", description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", metavar="CHECKPOINT_DIR", type=Path, help="folder as LeRobot saves it")
    parser.add_argument("reference", metavar="ORACLE_NPZ", type=Path, help="reference inputs and stages")
    parser.add_argument("--torch-only", action="store_true", help="skip the export to ONNX (about 10 s)")
    arguments = parser.parse_args(argv)
    try:
        reference = read_reference(arguments.reference)
        checkpoint = load_checkpoint(arguments.checkpoint, overrides=reference.overrides, whole=True)
        providers = build_providers(checkpoint, torch_only=arguments.torch_only)
        passed = [run(reference, provider, sys.stdout.write) for provider in providers]
    except (ValueError, OSError) as error:  # of checkpoint, reference file or bundle: one sentence each
        sys.stderr.write(f"parity: {error}\n")
        return 2
    return 0 if all(passed) else 1


if __name__ == "__main__":
    from grids_policy.parity.cli import main as imported  # so that parity.onnx imports the same classes

    sys.exit(imported())
