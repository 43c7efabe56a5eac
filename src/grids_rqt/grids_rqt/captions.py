"""What the viewers say about a snapshot: titles, numbers, problems and curves, the same in Qt and in a browser."""

import math
from dataclasses import dataclass

import numpy as np

from grids_rqt.view_model import CameraState, Servo, ViewState

GOOD, WARN, BAD = "good", "warn", "bad"  # levels; "" is neither
TEMPERATURE_WARN_C, TEMPERATURE_HOT_C = 50.0, 60.0
LOAD_WARN, LOAD_HIGH = 0.6, 0.85
ERROR_NAMES = {1: "voltage", 2: "angle sensor", 4: "overheat", 8: "overcurrent", 32: "overload"}
NO_DRIVER = "waiting for /follower/status"
MODE_LEVELS = {"policy": "run", "teleop": GOOD, "estop": BAD, "fault": BAD}
PAST_S, FUTURE_S = 4.0, 3.0
DEGREES = 180.0 / math.pi


@dataclass(frozen=True, slots=True)
class Reading:
    """One line of a table: name, value with unit, and a level."""

    name: str
    value: str
    level: str = ""


def level(value: float, warn: float, high: float) -> str:
    """GOOD below `warn`, WARN below `high`, else BAD."""
    return BAD if value >= high else WARN if value >= warn else GOOD


def headline(state: ViewState) -> Reading:
    """The driver's mode and state, and as value its reason."""
    driver = state.driver
    if driver is None:
        return Reading("NO DRIVER", NO_DRIVER)
    verdict = "  ·  SUCCESS" if state.success else ""
    return Reading(
        f"{driver.mode.upper()}  ·  {driver.state}{verdict}", driver.reason, MODE_LEVELS.get(driver.mode, "")
    )


def silence(camera: CameraState) -> str:
    """How long a camera has sent nothing; "" while images arrive."""
    return f"no image for {camera.silent_s:.0f} s" if camera.silent_s else ""


def camera_title(name: str, camera: CameraState | None) -> str:
    """Rate, number of samples, mean retention and their age."""
    if camera is None or camera.image is None:
        return f"{name}  ·  no image"
    parts = [name, silence(camera) or f"{camera.rate_hz:.0f} Hz"]
    if camera.samples:
        last = camera.samples[-1]
        parts.append(f"K = {len(last.coordinates)}")
        if last.mean_retention == last.mean_retention:  # not NaN
            parts.append(f"retention {last.mean_retention:.2f}")
        parts.append(f"{max(0.0, (camera.image_ns - last.stamp_ns) * 1e-9):.1f} s old")
    return "  ·  ".join(parts)


def chunk_title(state: ViewState) -> str:
    """Number, length and age of the newest chunk."""
    chunk = state.chunk
    if chunk is None:
        return "Joints  ·  no chunk yet"
    length_s = len(chunk.positions) * chunk.dt_s
    age_s = (state.now_ns - chunk.stamp_ns) * 1e-9
    return f"Joints  ·  chunk {chunk.sequence}, {len(chunk.positions)} steps = {length_s:.1f} s, {age_s:.1f} s old"


def policy_title(state: ViewState) -> str:
    """The policy's state and engine."""
    if state.policy is None:
        return "Policy  ·  no status"
    engine = state.policy.provider.replace("ExecutionProvider", "")
    return "  ·  ".join(part for part in ("Policy", state.policy.state, engine) if part)


def stage_ms(seconds: tuple[float, ...]) -> str:
    """p50 / p95 / p99 of a stage in ms."""
    return " / ".join(f"{v * 1e3:.0f}" if v >= 0.01 else f"{v * 1e3:.1f}" for v in seconds)


def readings(state: ViewState) -> list[Reading]:
    """Queue, ticks and errors of the driver, drops of the policy."""
    rows, driver, policy = [], state.driver, state.policy
    if driver is not None:
        low = driver.mode == "policy" and driver.queue_s < 0.2
        late = driver.late_ticks / max(1, driver.ticks)
        rows += [
            Reading("queue left", f"{driver.queue_s:.2f} s", WARN if low else ""),
            Reading("chunk age", f"{driver.chunk_age_s:.2f} s" if driver.chunk_age_s >= 0 else "–"),
            Reading("late ticks", f"{100 * late:.2f} %", WARN if late > 0.005 else ""),
            Reading("lateness p99", f"{driver.lateness_p99_ms:.1f} ms"),
            Reading("bus errors", str(driver.bus_errors), WARN if driver.bus_errors else ""),
            Reading("chunks refused", str(driver.refused), WARN if driver.refused else ""),
        ]
    if policy is not None:
        rows += [
            Reading("observation age", f"{policy.observation_age_s * 1e3:.0f} ms"),
            Reading("chunks sent", str(policy.chunks)),
            Reading("observations dropped", str(policy.dropped), WARN if policy.dropped else ""),
        ]
    return rows


def servo_problem(servo: Servo) -> str:
    """The servo's errors as text; "" if there are none."""
    if not servo.answers:
        return "no answer"
    named = [name for bit, name in ERROR_NAMES.items() if servo.errors & bit]
    unknown = servo.errors & ~sum(ERROR_NAMES)
    return ", ".join(named + ([f"bits {unknown:#x}"] if unknown else []))


def servos_title(state: ViewState) -> str:
    """The problems of all servos."""
    if not state.servos:
        return "Servos  ·  no data"
    bad = [f"{s.name}: {servo_problem(s)}" for s in state.servos if servo_problem(s)]
    return "Servos  ·  " + ("; ".join(bad) if bad else "all answer, no errors")


def curves(state: ViewState, joint: int) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Executed and planned (times, values) of one joint: s from now, degrees; from PAST_S ago to FUTURE_S ahead."""
    chunk, planned_s, planned = state.chunk, np.zeros(0), np.zeros(0)
    if chunk is not None:
        planned_s = (chunk.stamp_ns - state.now_ns) * 1e-9 + np.arange(len(chunk.positions)) * chunk.dt_s
        planned = chunk.positions[:, joint] * DEGREES
    executed_s = (state.joints_ns - state.now_ns) * 1e-9
    rows = ((executed_s, state.joints_rad[:, joint] * DEGREES), (planned_s, planned))
    kept = [(t > -PAST_S - 0.2) & (t < FUTURE_S + 0.2) for t, _ in rows]
    return tuple((t[keep], v[keep]) for (t, v), keep in zip(rows, kept, strict=True))


def value_range(arrays: list[np.ndarray], smallest: float = 10.0) -> tuple[float, float]:
    """Axis limits (low, high) around all finite values, at least `smallest` apart, with a margin of 8 %."""
    values = np.concatenate([a[np.isfinite(a)] for a in arrays]) if arrays else np.zeros(0)
    if not values.size:
        return -smallest / 2, smallest / 2
    low, high = float(values.min()), float(values.max())
    missing = max(0.0, smallest - (high - low)) / 2
    room = 0.08 * max(high - low, smallest)
    return low - missing - room, high + missing + room
