"""Conversion of driver records to ROS messages, and of action chunks from them."""

from collections.abc import Callable

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from grids_msgs.msg import ActionChunk, CommandTrace, DriverStatus, ServoState
from sensor_msgs.msg import JointState

from grids_common.so100 import JOINT_NAMES, SERVO_IDS
from so100_driver.bus.registers import status_text
from so100_driver.control.loop import ControlLoop, TickRecord
from so100_driver.guard.health import servo
from so100_driver.guard.intake import Request
from so100_driver.guard.state import ArmState
from so100_driver.guard.view import ArmView

NAMES = list(JOINT_NAMES)


def chunk_request(message: ActionChunk, start_ns: int) -> Request:
    """The request in a chunk message. `start_ns`: its header.stamp on the monotonic clock."""
    return Request(
        tuple(message.joint_names),
        message.dt,
        message.horizon,
        np.asarray(message.positions, float),
        start_ns,
        message.sequence,
        message.epoch,
        message.bundle_id,
    )


def joint_state(stamp, seen: ArmState) -> JointState:
    """Positions rad, velocities rad/s, effort as load -1 to 1 of the maximum torque."""
    message = JointState(name=NAMES)
    message.header.stamp = stamp
    message.position = seen.position.tolist()
    message.velocity = seen.velocity.tolist()
    message.effort = seen.load.tolist()
    return message


def servo_state(stamp, seen: ArmState, torque: np.ndarray) -> ServoState:
    """`seen` in SI units, stamped `stamp` (builtin_interfaces/Time). `torque` (joints,) bool: servos with torque."""
    message = ServoState(joint_names=NAMES)
    message.header.stamp = stamp
    message.position = seen.position.tolist()
    message.velocity = seen.velocity.tolist()
    message.load = seen.load.tolist()
    message.current = seen.current.tolist()
    message.temperature = seen.temperature.tolist()
    message.voltage = seen.voltage.tolist()
    message.error_bits = seen.error_bits.tolist()
    message.torque_enabled = torque.tolist()
    message.valid = seen.valid.tolist()
    return message


def command_trace(stamp, record: TickRecord) -> CommandTrace:
    """One goal: raw, limited, sent and measured (joints,) rad. Message `row`: fractional action step."""
    output, message = record.output, CommandTrace(joint_names=NAMES)
    message.header.stamp = stamp
    message.source = output.source
    message.sequence, message.epoch = output.sequence, output.epoch
    message.row = output.step
    message.raw = output.goal.tolist() if output.raw is None else np.asarray(output.raw).tolist()
    message.limited = output.goal.tolist()
    message.sent = record.sent.tolist()
    message.measured = record.view.seen.position.tolist()
    message.limits_hit = output.hits
    message.human = record.view.human
    return message


def driver_status(stamp, view: ArmView, loop: ControlLoop, now_ns: int) -> DriverStatus:
    """The status of the tick in `view`, which began at `now_ns` (monotonic). Message `row`: action step."""
    message = DriverStatus(joint_names=NAMES)
    message.header.stamp = stamp
    message.mode, message.state, message.reason = str(view.mode), view.state, view.reason
    message.limits_hit, message.limit_events = view.hits, view.totals.limit_events
    message.ticks, message.late_ticks = view.totals.ticks, loop.late_ticks
    message.lateness_p99_ms = loop.lateness_p99_s() * 1e3
    message.realtime = loop.realtime[0]
    message.bus_errors = [loop.bus.counters[i].errors for i in SERVO_IDS]
    message.bus_transactions = loop.bus.transactions
    message.chunks_accepted, message.chunks_refused = view.totals.accepted, view.totals.refused
    message.last_refusal = view.totals.last_refusal
    message.empty_ticks = view.totals.empty_ticks
    message.chunk_age = message.row = -1.0
    if view.chunk is not None:
        chunk = view.chunk
        message.sequence, message.epoch = chunk.sequence, chunk.epoch
        message.chunk_age = (now_ns - chunk.start_ns) * 1e-9
        message.row = view.step
        message.queue_s = max(0.0, (chunk.end_ns - now_ns) * 1e-9)
    return message


def key_values(pairs: dict[str, object]) -> list[KeyValue]:
    """Pairs for diagnostic_msgs/DiagnosticStatus."""
    return [KeyValue(key=key, value=str(value)) for key, value in pairs.items()]


def _servo_status(name: Callable[[str], str], index: int, view: ArmView, loop: ControlLoop) -> DiagnosticStatus:
    seen, counters = view.seen, loop.bus.counters[SERVO_IDS[index]]
    warnings = [w for w in view.verdict.warnings if servo(index) in w]
    level, text = DiagnosticStatus.OK, "ok"
    if seen.misses[index] >= loop.params.miss_hold:
        level, text = DiagnosticStatus.ERROR, "does not answer"
    elif warnings:
        level, text = DiagnosticStatus.WARN, "; ".join(warnings)
    return DiagnosticStatus(
        level=level,
        name=name(servo(index)),
        message=text,
        hardware_id=loop.bus.path,
        values=key_values(
            {
                "position (rad)": f"{seen.position[index]:.4f}",
                "load": f"{seen.load[index]:.3f}",
                "current (A)": f"{seen.current[index]:.3f}",
                "temperature (degC)": f"{seen.temperature[index]:.0f}",
                "voltage (V)": f"{seen.voltage[index]:.1f}",
                "status": status_text(int(seen.error_bits[index])),
                "replies lost": counters.lost,
                "replies corrupt": counters.corrupt,
                "replies foreign": counters.foreign,
                "retries": counters.retries,
            }
        ),
    )


def diagnostics(
    stamp, name: Callable[[str], str], view: ArmView, loop: ControlLoop, *, publishers: int, dropped: int
) -> DiagnosticArray:
    """One entry for the control loop, one for each servo.

    `name`: the whole name of an entry (topics.diagnostic_name). `dropped`: records that were never published.
    """
    level, text = DiagnosticStatus.OK, f"{view.mode}: {view.reason}"
    if view.verdict.warnings or publishers > 1:
        level = DiagnosticStatus.WARN
    if view.mode in ("fault", "estop") or not loop.connected:
        level = DiagnosticStatus.ERROR
    if view.bus_problem and view.bus_problem not in text:
        text += f"; {view.bus_problem}"
    if publishers > 1:
        text += f"; {publishers} publishers on /policy/action_chunk: only one may command"
    loop_status = DiagnosticStatus(
        level=level,
        name=name("control loop"),
        message="; ".join((text, *view.verdict.warnings)),
        hardware_id=loop.bus.path,
        values=key_values(
            {
                "rate (Hz)": loop.params.rate_hz,
                "ticks": view.totals.ticks,
                "late ticks": loop.late_ticks,
                "lateness p99 (ms)": f"{loop.lateness_p99_s() * 1e3:.3f}",
                "real-time": loop.realtime[1],
                "connected": loop.connected,
                "chunks accepted": view.totals.accepted,
                "chunks refused": view.totals.refused,
                "last refusal": view.totals.last_refusal,
                "limit events": view.totals.limit_events,
                "records not published": dropped,
            }
        ),
    )
    message = DiagnosticArray()
    message.header.stamp = stamp
    message.status = [loop_status] + [_servo_status(name, i, view, loop) for i in range(len(SERVO_IDS))]
    return message
