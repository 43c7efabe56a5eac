"""The page's tables and maps as HTML, from a snapshot. Pure functions; every text is escaped."""

import base64
import math
from html import escape

import cv2
import numpy as np

from grids_rqt import captions
from grids_rqt.drawing import MAP_NAMES, maps
from grids_rqt.view_model import Servo, ViewState


def _cell(words: str, level: str = "") -> str:
    return f'<td class="{level}">{escape(words)}</td>'


def _bar(share: float, level: str = "") -> str:
    return f'<i class="bar {level}" style="width:{100 * min(1.0, abs(share)):.0f}%"></i>'


def stages(state: ViewState) -> str:
    """Latency per stage: p50 solid, p95 lighter, p99 a mark."""
    rows = state.policy.stages if state.policy else ()
    if not rows:
        return '<p class="muted">no latency reported yet</p>'
    longest = max(max(row[1:]) for row in rows) or 1.0
    lines = []
    for name, *values in rows:
        p50, p95, p99 = (100 * v / longest for v in values)
        bars = f'<b style="width:{p95:.0f}%"></b><i style="width:{p50:.0f}%"></i><u style="left:{p99:.0f}%"></u>'
        label = escape(name.replace("_", " "))
        lines.append(
            f'<tr class="{"total" if name == "total" else ""}"><th>{label}</th>'
            f'<td class="stage"><span>{bars}</span></td><td>{captions.stage_ms(tuple(values))}</td></tr>'
        )
    head = '<p class="muted">ms over the last minute: p50 / p95 / p99</p>'
    return f"{head}<table>{''.join(lines)}</table>"


def readings(state: ViewState) -> str:
    """Queue, ticks, errors and drops."""
    rows = (f"<div><span>{r.name}</span><b class='{r.level}'>{r.value}</b></div>" for r in captions.readings(state))
    return f'<div class="readings">{"".join(rows)}</div>'


def _servo(servo: Servo) -> str:
    problem = captions.servo_problem(servo)
    heat = captions.level(servo.temperature_c, captions.TEMPERATURE_WARN_C, captions.TEMPERATURE_HOT_C)
    load = captions.level(abs(servo.load), captions.LOAD_WARN, captions.LOAD_HIGH)
    return (
        f"<tr><th class='{captions.BAD if problem else ''}'>{'✖ ' if problem else ''}{escape(servo.name)}</th>"
        f"{_cell(f'{math.degrees(servo.position_rad):.1f}°')}"
        f"<td class='load'><span>{_bar(servo.load, load)}</span>{100 * servo.load:.0f} %</td>"
        f"{_cell(f'{servo.temperature_c:.0f} °C', '' if heat == captions.GOOD else heat)}"
        f"{_cell(f'{servo.voltage_v:.1f} V')}"
        f"{_cell('on' if servo.torque else 'off', '' if servo.torque else captions.WARN)}</tr>"
    )


def servos(state: ViewState) -> str:
    """One line per servo: angle, load, temperature, voltage, torque."""
    if not state.servos:
        return '<p class="muted">no data on /follower/servo_state</p>'
    head = "<tr><td></td><td>angle</td><td>load</td><td>temp.</td><td>supply</td><td>torque</td></tr>"
    return f"<table class='servos'>{head}{''.join(map(_servo, state.servos))}</table>"


def _png(rgb: np.ndarray) -> str:
    data = cv2.imencode(".png", rgb[..., ::-1])[1].tobytes()
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def map_row(state: ViewState, camera: str) -> str:
    """Retention and self-similarity maps of one camera; a cell of the map is a pixel, which the page enlarges."""
    samples = state.cameras[camera].samples
    figures = []
    for name, (rgb, words) in zip(MAP_NAMES, maps(samples[-1] if samples else None), strict=True):
        image = f'<img src="{_png(rgb)}" alt="{name}">' if rgb is not None else '<div class="none">not sent</div>'
        figures.append(f"<figure>{image}<figcaption>{name}<br>{words or '–'}</figcaption></figure>")
    return "".join(figures)


def problems(state: ViewState) -> str:
    """What /diagnostics warns of."""
    return "".join(f"<p>⚠ {escape(text)}</p>" for text in state.problems)
