"""Normalisation of state and action, as in LeRobot's normalize_processor.py. Works on numpy and torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from grids_common.errors import GridsError

EPS = 1e-8
_STATISTICS = {
    "IDENTITY": (),
    "MEAN_STD": ("mean", "std"),
    "MIN_MAX": ("min", "max"),
    "QUANTILES": ("q01", "q99"),
    "QUANTILE10": ("q10", "q90"),
}
MODES = tuple(_STATISTICS)


class NormalizationError(GridsError, ValueError):
    """Statistics that cannot be used; the text names the feature, the statistic and what was expected."""


@dataclasses.dataclass(frozen=True, slots=True)
class Normalizer:
    """Normalisation of one feature.

    `first`, `second`: mean and std, or the two values that become -1 and 1; (dim,) or (chunk_size, dim).
    """

    mode: str = "IDENTITY"
    first: Any = None
    second: Any = None

    def to(self, convert: Callable[[Any], Any]) -> Normalizer:
        """A copy with both arrays converted, e.g. by `torch.from_numpy` or `lambda t: t.to(device)`."""
        if self.mode == "IDENTITY":
            return self
        return Normalizer(self.mode, convert(self.first), convert(self.second))

    def apply(self, x: Any) -> Any:
        """Normalise x (.., dim) in dataset units."""
        match self.mode:
            case "MEAN_STD":
                return (x - self.first) / (self.second + EPS)
            case "MIN_MAX" | "QUANTILES" | "QUANTILE10":
                return 2 * (x - self.first) / self._range() - 1
            case _:
                return x

    def invert(self, x: Any) -> Any:
        """Unnormalise x (.., dim) to dataset units. MEAN_STD has no eps in this direction, as in LeRobot."""
        match self.mode:
            case "MEAN_STD":
                return x * self.second + self.first
            case "MIN_MAX" | "QUANTILES" | "QUANTILE10":
                return (x + 1) / 2 * self._range() + self.first
            case _:
                return x

    def _range(self) -> Any:
        span = self.second - self.first
        return span + EPS * (span == 0)


def build_normalizer(feature: str, mode: str, stats: Mapping[str, Any], dim: int) -> Normalizer:
    """Normalizer of `feature` with `dim` dims from arrays keyed "<feature>.<statistic>". Raises NormalizationError."""
    if mode not in MODES:
        raise NormalizationError(f"normalisation of {feature} is {mode!r}; supported are {', '.join(MODES)}")
    values = []
    for name in _STATISTICS[mode]:
        value = stats.get(f"{feature}.{name}")
        if value is None:
            raise NormalizationError(
                f"statistic {feature}.{name} is missing ({mode} needs it): published base models have none of your "
                "robot; fine-tune the checkpoint with `./grids train` (start_from), or take a fine-tuned one"
            )
        if value.shape[-1:] != (dim,):
            raise NormalizationError(f"statistic {feature}.{name} has shape {tuple(value.shape)}, expected ({dim},)")
        if not bool((abs(value) < float("inf")).all()):
            raise NormalizationError(f"statistic {feature}.{name} has a value that is not finite")
        values.append(value)
    if mode == "MEAN_STD" and not bool((values[1] >= 0).all()):
        raise NormalizationError(f"statistic {feature}.std has a negative value")
    return Normalizer(mode, *values)
