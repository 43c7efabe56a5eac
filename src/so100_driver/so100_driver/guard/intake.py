"""Which action chunks the driver accepts, and why it refuses the others. Pure.

Times are monotonic ns: the node converts a chunk's ROS stamp once, on arrival, so a step of the wall clock neither
starts nor stops the arm. Positions are rad, (horizon, joints). How a chunk is executed: grids_common.chunk.
"""

from dataclasses import dataclass, replace

import numpy as np

from grids_common.chunk import Chunk
from grids_common.so100 import JOINT_NAMES

MAX_STEPS = 2000
ABSURD_RAD = 2 * np.pi  # no joint of this arm turns further than one revolution


@dataclass(frozen=True, slots=True)
class Request:
    """A chunk as received. `start_ns`: its stamp on the monotonic clock. `positions`: flat (horizon * joints,) rad."""

    joint_names: tuple[str, ...]
    dt_s: float
    horizon: int
    positions: np.ndarray
    start_ns: int
    sequence: int
    epoch: int
    bundle_id: str = ""


@dataclass(frozen=True, slots=True)
class Rules:
    """Acceptance rules that are parameters. A chunk's age is measured from the capture time of its observation."""

    max_age_s: float = 2.0
    max_future_s: float = 0.05
    source_timeout_s: float = 2.0


@dataclass(frozen=True, slots=True)
class IntakeState:
    """What was accepted last. `not_before_ns`: chunks observed before this (activation, mode change) are refused."""

    epoch: int = 0
    sequence: int = -1
    accepted_ns: int | None = None
    not_before_ns: int | None = None
    running_until_ns: int = 0


def _shape_problem(request: Request) -> str | None:
    layout = _layout_problem(request)
    return layout or _value_problem(request.positions)


def _layout_problem(request: Request) -> str | None:
    if request.joint_names != JOINT_NAMES:
        return f"joint names: expected {list(JOINT_NAMES)}, got {list(request.joint_names)}"
    if not (np.isfinite(request.dt_s) and 1e-3 <= request.dt_s <= 1.0):
        return f"dt: expected 0.001 to 1 s, got {request.dt_s}"
    if not 1 <= request.horizon <= MAX_STEPS:
        return f"horizon: expected 1 to {MAX_STEPS} steps, got {request.horizon}"
    expected = request.horizon * len(JOINT_NAMES)
    if len(request.positions) != expected:
        return f"positions: expected {expected} values for {request.horizon} steps, got {len(request.positions)}"
    return None


def _value_problem(positions: np.ndarray) -> str | None:
    bad = np.flatnonzero(~np.isfinite(positions))
    if len(bad):
        step, joint = divmod(int(bad[0]), len(JOINT_NAMES))
        return f"positions: expected finite values, got {positions[bad[0]]} for {JOINT_NAMES[joint]} in step {step}"
    worst = int(np.argmax(np.abs(positions)))
    if abs(positions[worst]) > ABSURD_RAD:
        joint = JOINT_NAMES[worst % len(JOINT_NAMES)]
        return f"positions: expected radians within one turn, got {positions[worst]:.6g} for {joint}"
    return None


def _time_problem(request: Request, intake: IntakeState, now_ns: int, rules: Rules) -> str | None:
    age_s = (now_ns - request.start_ns) * 1e-9
    if age_s < -rules.max_future_s:
        return f"stamp: expected at most {rules.max_future_s} s in the future, got {-age_s:.3f} s"
    if age_s > rules.max_age_s:
        return f"stamp: expected an observation younger than {rules.max_age_s} s, got {age_s:.3f} s"
    overdue_s = age_s - (request.horizon - 1) * request.dt_s
    if overdue_s > request.dt_s:
        return f"stamp: all {request.horizon} steps are past: the last was due {overdue_s:.3f} s ago"
    if intake.not_before_ns is not None and request.start_ns < intake.not_before_ns:
        late = (intake.not_before_ns - request.start_ns) * 1e-9
        return f"stamp: observed {late:.3f} s before the arm was last armed or stopped"
    return None


def _order_problem(request: Request, intake: IntakeState, now_ns: int, rules: Rules) -> str | None:
    if intake.accepted_ns is None:
        return None
    quiet_s = (now_ns - intake.accepted_ns) * 1e-9
    if quiet_s > rules.source_timeout_s and now_ns > intake.running_until_ns:
        return None  # the previous publisher has ended; a new one counts from 0 again
    if request.epoch < intake.epoch:
        return f"epoch: expected {intake.epoch} or later, got {request.epoch}"
    if request.epoch == intake.epoch and request.sequence <= intake.sequence:
        return f"sequence: expected more than {intake.sequence}, got {request.sequence} (repeated, or two publishers)"
    return None


def accept(intake: IntakeState, request: Request, now_ns: int, rules: Rules) -> tuple[IntakeState, Chunk | None, str]:
    """Check one chunk. Returns (new intake, chunk, "") or (old intake, None, the reason in one sentence)."""
    problem = (
        _shape_problem(request)
        or _time_problem(request, intake, now_ns, rules)
        or _order_problem(request, intake, now_ns, rules)
    )
    if problem:
        return intake, None, problem
    positions = np.array(request.positions, float).reshape(request.horizon, len(JOINT_NAMES))
    chunk = Chunk(request.start_ns, request.dt_s, positions, request.sequence, request.epoch, request.bundle_id)
    updated = replace(
        intake,
        epoch=request.epoch,
        sequence=request.sequence,
        accepted_ns=now_ns,
        running_until_ns=chunk.end_ns,
    )
    return updated, chunk, ""
