"""From the fp32 graphs of an export to those of the precision asked for, measured on recorded observations if given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from grids_policy.export.cameras import ExportError
from grids_policy.export.observations import Observations
from grids_policy.export.precision import convert
from grids_policy.export.quantise import even_enough
from grids_policy.export.ranges import Range, measure_ranges, refuse_overflow, table, write_report
from grids_policy.runtime import bundle as bundles
from grids_policy.runtime.base import PolicyInputs
from grids_policy.runtime.bundle import PRECISIONS


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
    *, precision: str, observations: Observations | None, beside: Path,
) -> dict[str, Any]:  # fmt: skip
    """Convert the fp32 graphs in `partial` in place; returns the fields of policy.json that follow from it.

    values: the other fields. With observations the values inside are measured first, reported, written to
    `beside`.ranges.json and judged. Raises ExportError.
    """
    ranges: list[Range] = []
    provenance = dict(values["provenance"])
    if observations is not None:
        draft = {**values, "precision": "fp32", "runs_on": [bundles.CPU], "parity": {"passed": False}}
        bundle = bundles.seal(partial, draft, gated=False)
        ranges = measure_ranges(partial, bundle, observations.measured)
        path, count = beside.with_name(f"{beside.name}.ranges.json"), len(observations.measured)
        write_report(ranges, path, observations.source, count)
        for line in table(ranges):
            report(line)
        report(f"{len(ranges)} tensors over {count} observations, all of them in {path}")
        refuse_overflow(ranges, precision)
        provenance["measured_on"] = {"source": observations.source, "observations": count}
    elif precision not in ("fp32", "bf16", "int8"):
        report(f"{precision} without --ranges: whether values overflow fp16 was not measured on recorded observations")
    for name in bundles.GRAPHS:
        even = [found for found in ranges if found.graph == name and even_enough(found.largest, found.rms)]
        convert(partial / f"{name}.onnx", precision, {found.tensor: found.largest for found in even})
    return {"precision": precision, "provenance": provenance}
