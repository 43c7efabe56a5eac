"""Planned and executed positions of one joint as options of an ECharts chart. Pure functions."""

import math

import numpy as np

from grids_rqt.captions import FUTURE_S, PAST_S, curves, value_range
from grids_rqt.view_model import ViewState

EXECUTED, PLANNED, NOW, LINE, MUTED = "#e8eaee", "#56b4e9", "#f0be28", "#3a3f4a", "#969ca6"
MAX_POINTS = 60  # per curve: more cannot be distinguished at the plot's width


def points(times_s: np.ndarray, values: np.ndarray) -> list[list[float]]:
    """Finite (time, value) pairs, rounded for the wire, MAX_POINTS at most, the last one kept."""
    step = math.ceil(len(times_s) / MAX_POINTS) or 1
    kept = np.arange(len(times_s))[::-1][::step][::-1]
    pairs = np.column_stack([times_s[kept], values[kept]])
    return np.round(pairs[np.isfinite(pairs).all(axis=1)], 2).tolist()


def update(state: ViewState, joint: int) -> dict:
    """What changes in a chart: both curves and the limits of the vertical axis, degrees."""
    executed, planned = curves(state, joint)
    low, high = value_range([executed[1], planned[1]])
    low, high = math.floor(low), math.ceil(high)
    return {
        "yAxis": {"min": low, "max": high, "interval": high - low},
        "series": [{"data": points(*executed)}, {"data": points(*planned)}],
    }


def options(name: str) -> dict:
    """An empty chart: white is executed, blue is planned, the vertical line is now."""

    def curve(color: str, kind: str, **more) -> dict:
        style = {"color": color, "width": 1.8, "type": kind}
        return {"type": "line", "showSymbol": False, "silent": True, "lineStyle": style, "data": [], **more}

    now = {
        "symbol": "none", "silent": True, "label": {"show": False}, "data": [{"xAxis": 0}],
        "lineStyle": {"color": NOW, "type": "solid", "width": 1},
    }  # fmt: skip
    label = {"color": MUTED, "fontSize": 9}
    return {
        "animation": False,
        "textStyle": {"fontFamily": "Roboto"},
        "title": {"text": name, "left": 30, "top": 0, "textStyle": {"color": EXECUTED, "fontSize": 11}},
        "grid": {"left": 32, "right": 6, "top": 17, "bottom": 15},
        "xAxis": {
            "type": "value", "min": -PAST_S, "max": FUTURE_S, "interval": 1, "splitLine": {"show": False},
            "axisLine": {"show": False}, "axisTick": {"show": False}, "axisLabel": {**label, "margin": 4},
        },
        "yAxis": {
            "type": "value", "min": -5, "max": 5, "interval": 10, "splitLine": {"lineStyle": {"color": LINE}},
            "axisLabel": {**label, "margin": 4, "formatter": "{value}°"},
        },
        "series": [curve(EXECUTED, "solid", markLine=now), curve(PLANNED, "dashed")],
    }  # fmt: skip
