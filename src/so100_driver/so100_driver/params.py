"""Parameters of the driver and leader nodes: type, safe default, unit, range and meaning."""

from dataclasses import dataclass

from grids_common.chunk import BLEND_S
from grids_common.params import ParameterError, param
from grids_common.so100 import JOINT_LIMITS_RAD, REST_POSE_RAD

_GRIPPER = JOINT_LIMITS_RAD[-1]


@dataclass(frozen=True)
class DriverParams:
    """Parameters of the node `driver`. ParameterError when values contradict each other."""

    serial_port: str = param("", "serial device of the follower, e.g. /dev/serial/by-id/…")
    baud: int = param(1_000_000, "bus speed", unit="bit/s", choices=())
    reply_timeout_ms: float = param(6.0, "silence after which a reply counts as lost", unit="ms", lo=1, hi=50)
    calibration: str = param(
        "", "LeRobot calibration: a file, or a name in LeRobot's folders; empty: see require_calibration"
    )
    require_calibration: bool = param(
        False, "refuse to start without a calibration (set on real hardware; the twin needs none)"
    )
    write_settings: bool = param(True, "write LeRobot's servo settings where they differ and torque is off")
    mode: str = param("policy", "mode on activation", choices=("idle", "policy", "teleop"))
    on_shutdown: str = param(
        "rest", "at SIGINT or SIGTERM: go to rest and switch torque off, or hold", choices=("rest", "hold")
    )

    rate_hz: float = param(100.0, "control rate", unit="Hz", lo=10, hi=250)
    realtime_priority: int = param(50, "SCHED_FIFO priority, 0: no real-time scheduling", lo=0, hi=90)

    velocity_limit: float = param(3.0, "largest speed of each joint", unit="rad/s", lo=0.05, hi=6.0)
    speed_scale: float = param(1.0, "share of velocity_limit that is allowed now", lo=0.05, hi=1.0, live=True)
    acceleration_limit: float = param(20.0, "largest acceleration of each joint", unit="rad/s^2", lo=0.5, hi=100.0)
    stop_deceleration: float = param(40.0, "braking for holds and the emergency stop", unit="rad/s^2", lo=0.5, hi=200.0)
    range_margin: float = param(0.0, "distance kept from both ends of the calibrated range", unit="rad", lo=0.0, hi=0.3)
    ramp_velocity: float = param(0.5, "speed limit until the first command is reached", unit="rad/s", lo=0.05, hi=2.0)
    ramp_time: float = param(
        2.0,
        "the ramp also ends when the arm came no nearer to a policy's goal for this long",
        unit="s",
        lo=0.1,
        hi=10.0,
    )
    ramp_open: float = param(1.0, "time from ramp_velocity to velocity_limit", unit="s", lo=0.05, hi=10.0)
    ramp_tolerance: float = param(0.05, "distance at which a command counts as reached", unit="rad", lo=0.01, hi=0.5)
    jump_tolerance: float = param(
        0.25,
        "a first command further away than this, or a leader that jumps by more, starts a new ramp",
        unit="rad",
        lo=0.05,
        hi=1.0,
    )

    blend_time: float = param(BLEND_S, "time over which a new chunk is blended in", unit="s", lo=0.01, hi=1.0)
    command_timeout: float = param(
        0.2, "time after the last action step until the arm counts as waiting", unit="s", lo=0.02, hi=2.0
    )
    chunk_max_age: float = param(2.0, "oldest observation accepted", unit="s", lo=0.1, hi=10.0)
    chunk_max_future: float = param(0.05, "furthest stamp in the future accepted", unit="s", lo=0.0, hi=1.0)
    heartbeat_timeout: float = param(
        0.2,
        "hold when a policy that reported its status at 10 Hz or faster falls silent; 0: never",
        unit="s",
        lo=0.0,
        hi=5.0,
    )

    leader_timeout: float = param(0.2, "silence of the leader after which the arm holds", unit="s", lo=0.03, hi=2.0)
    leader_delay: float = param(0.01, "leader samples are read with this delay", unit="s", lo=0.0, hi=0.1)
    leader_sign: tuple[float, ...] = param((1.0,) * 6, "direction of each leader joint: 1 or -1", choices=())
    leader_calibration: str = param("", "LeRobot calibration of the leader; its gripper's range replaces the next two")
    leader_gripper_low: float = param(_GRIPPER[0], "angle of the closed leader gripper", unit="rad", lo=-3.2, hi=3.2)
    leader_gripper_high: float = param(_GRIPPER[1], "angle of the open leader gripper", unit="rad", lo=-3.2, hi=3.2)
    takeover: bool = param(True, "moving the leader takes over from the policy")
    takeover_threshold: float = param(0.12, "leader movement that takes over", unit="rad", lo=0.02, hi=1.0)
    takeover_release: float = param(
        2.0,
        "a leader at rest this long returns control to the policy; 0: only ~/set_mode does",
        unit="s",
        lo=0.0,
        hi=60.0,
    )

    temperature_warn: float = param(50.0, "speed is reduced from here on", unit="degC", lo=30, hi=70)
    temperature_release: float = param(65.0, "the arm goes to rest and switches torque off", unit="degC", lo=40, hi=80)
    voltage_warn: float = param(
        4.8, "supply voltage below this is reported (12 V servos: set 10.5)", unit="V", lo=3.0, hi=12.0
    )
    load_limit: float = param(
        0.75, "share of the maximum torque from which a joint is relaxed (the servo trips at 0.8)", lo=0.1, hi=1.0
    )
    load_time: float = param(0.7, "load above load_limit for this long relaxes the joint", unit="s", lo=0.1, hi=30)
    overload_fault_time: float = param(
        3.0, "an overload or a joint that does not follow for this long is a fault", unit="s", lo=0.2, hi=30
    )
    following_error: float = param(
        0.6, "largest distance between goal and joint; a joint near it counts as blocked", unit="rad", lo=0.1, hi=2.0
    )
    gripper_stall_time: float = param(0.3, "a jaw blocked for this long is relaxed", unit="s", lo=0.05, hi=5.0)
    gripper_load: float = param(
        0.2, "share of the maximum torque with which an object is held (the servo trips at 0.25)", lo=0.05, hi=1.0
    )
    gripper_squeeze: float = param(0.15, "furthest goal past a blocked jaw", unit="rad", lo=0.01, hi=1.0)

    miss_hold: int = param(5, "readings without a reply from a servo until the arm holds", lo=1, hi=50)
    miss_fault: float = param(1.0, "silence of a servo until a fault", unit="s", lo=0.1, hi=10.0)

    rest_velocity: float = param(1.0, "peak speed of the motion to the rest pose", unit="rad/s", lo=0.1, hi=2.0)
    rest_pose: tuple[float, ...] = param(
        REST_POSE_RAD, "pose in which torque can be switched off without a fall", unit="rad", lo=-3.2, hi=3.2
    )

    def __post_init__(self) -> None:
        found = []
        if self.velocity_limit / self.stop_deceleration > 0.2:
            found.append("velocity_limit / stop_deceleration: expected at most 0.2 s, so that the arm stops quickly")
        if self.acceleration_limit > self.stop_deceleration:
            found.append("stop_deceleration: expected at least acceleration_limit")
        if self.ramp_velocity > self.velocity_limit:
            found.append("ramp_velocity: expected at most velocity_limit")
        if self.temperature_warn >= self.temperature_release:
            found.append("temperature_warn: expected below temperature_release")
        if len(self.rest_pose) != 6:
            found.append(f"rest_pose: expected 6 angles, got {len(self.rest_pose)}")
        if len(self.leader_sign) != 6 or any(abs(s) != 1 for s in self.leader_sign):
            found.append(f"leader_sign: expected six values of 1 or -1, got {list(self.leader_sign)}")
        if self.leader_gripper_low >= self.leader_gripper_high:
            found.append("leader_gripper_low: expected below leader_gripper_high")
        if found:
            raise ParameterError("; ".join(found))

    @property
    def period_s(self) -> float:
        """Length of one tick, s."""
        return 1.0 / self.rate_hz

    @property
    def step_limit(self) -> float:
        """Largest goal change of one tick, rad: one and a half ticks at the velocity limit."""
        return 1.5 * self.velocity_limit * self.period_s


@dataclass(frozen=True)
class LeaderParams:
    """Parameters of the node `leader`."""

    serial_port: str = param("", "serial device of the leader")
    baud: int = param(1_000_000, "bus speed", unit="bit/s")
    reply_timeout_ms: float = param(6.0, "silence after which a reply counts as lost", unit="ms", lo=1, hi=50)
    calibration: str = param("", "LeRobot calibration: a file, or a name in LeRobot's folders")
    require_calibration: bool = param(False, "refuse to start without a calibration")
    rate_hz: float = param(100.0, "reading rate", unit="Hz", lo=10, hi=250)
    realtime_priority: int = param(40, "SCHED_FIFO priority, 0: no real-time scheduling", lo=0, hi=90)
    estop_squeezes: int = param(3, "full squeezes of the leader's gripper that stop the arm; 0: off", lo=0, hi=10)
    estop_window: float = param(1.5, "time within which the squeezes count", unit="s", lo=0.3, hi=5.0)
