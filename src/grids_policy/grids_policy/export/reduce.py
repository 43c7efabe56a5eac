"""From the fp32 graphs of an export to those of the precision asked for, measured on recorded observations if given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from grids_policy.export.cameras import ExportError
from grids_policy.export.observations import read_observations
from grids_policy.export.precision import convert
from grids_policy.export.quantise import even_enough
from grids_policy.export.ranges import Range, measure_ranges, refuse_overflow, table, write_report
from grids_policy.runtime import bundle as bundles
from grids_policy.runtime.agreement import TOLERANCES
from grids_policy.runtime.base import PolicyInputs

PRECISIONS = tuple(TOLERANCES)
_EVERY = 8  # of the recorded observations, one is held out for the parity gate


def refuse_precision(precision: str, observations: Path | Sequence[PolicyInputs] | None) -> None:
    """Raises ExportError for an unknown precision, one that needs observations and has none, and a path to nothing."""
    if precision not in PRECISIONS:
        raise ExportError(f"expected precision {', '.join(PRECISIONS)}, got {precision!r}")
    if precision == "int8-static" and observations is None:
        raise ExportError("int8-static needs recorded observations to scale by: give --calibrate DATASET_BAG_OR_FRAMES")
    if isinstance(observations, Path) and not observations.exists():
        raise ExportError(f"{observations}: expected a bag, a LeRobot dataset or training frames, found nothing")


def reduce_graphs(
    partial: Path, values: dict[str, Any], report: Callable[[str], None],
    *, precision: str, observations: Path | Sequence[PolicyInputs] | None, beside: Path,
) -> tuple[list[PolicyInputs], dict[str, Any]]:  # fmt: skip
    """Convert the fp32 graphs in `partial` in place; returns the fields of policy.json that follow from it.

    values: the other fields. observations: where they are recorded, or themselves. With them the values inside are
    measured first, reported, written to `beside`.ranges.json and judged; some of them are held out and returned. Raises
    ExportError.
    """
    ranges: list[Range] = []
    held_out: list[PolicyInputs] = []
    provenance = dict(values["provenance"])
    if observations is not None:
        draft = {**values, "precision": "fp32", "runs_on": [bundles.CPU], "parity": {"passed": False}}
        bundle = bundles.seal(partial, draft, gated=False)
        source = Path("given to the exporter")
        if isinstance(observations, Path):
            source, observations = observations, read_observations(observations, partial, bundle)
        recorded = list(observations)
        held_out = recorded[_EVERY - 1 :: _EVERY] or recorded[-1:]
        recorded = [inputs for i, inputs in enumerate(recorded) if i % _EVERY != _EVERY - 1]
        ranges = measure_ranges(partial, bundle, recorded)
        path = beside.with_name(f"{beside.name}.ranges.json")
        write_report(ranges, path, str(source), len(recorded))
        for line in table(ranges):
            report(line)
        report(f"{len(ranges)} tensors over {len(recorded)} observations, all of them in {path}")
        refuse_overflow(ranges, precision)
        provenance["measured_on"] = {"source": source.name, "observations": len(recorded)}
    elif precision not in ("fp32", "int8"):
        report(f"{precision} without --ranges: whether values overflow fp16 was not measured on recorded observations")
    for name in bundles.GRAPHS:
        even = [found for found in ranges if found.graph == name and even_enough(found.largest, found.rms)]
        largest = {found.tensor: found.largest for found in even}
        convert(partial / f"{name}.onnx", precision, largest)
    return held_out, {"precision": precision, "provenance": provenance}
