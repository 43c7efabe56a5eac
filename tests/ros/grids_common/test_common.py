"""Shared ROS parts: QoS pairs, message types, parameters and the lifecycle base."""

import importlib
import signal
import sys
import time

import pytest

rclpy = pytest.importorskip("rclpy")

from dataclasses import dataclass  # noqa: E402

from builtin_interfaces.msg import Time  # noqa: E402
from lifecycle_msgs.msg import Transition  # noqa: E402
from lifecycle_msgs.srv import ChangeState  # noqa: E402
from rclpy.lifecycle import TransitionCallbackReturn  # noqa: E402
from rclpy.qos import QoSCompatibility, qos_check_compatible  # noqa: E402
from rosgraph_msgs.msg import Clock  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

from grids_common import lifecycle, qos, services  # noqa: E402
from grids_common.lifecycle import ManagedNode, SetupError, wait_for_clock  # noqa: E402
from grids_common.params import ParameterError, declare, param  # noqa: E402
from grids_common.process import Child  # noqa: E402
from grids_common.topics import TOPICS  # noqa: E402

pytestmark = pytest.mark.ros


@pytest.fixture
def context():
    rclpy.init()
    yield
    rclpy.try_shutdown()


@pytest.mark.parametrize("row", TOPICS, ids=lambda row: row.name)
def test_offered_and_requested_qos_match_and_the_type_exists(row):
    level, reason = qos_check_compatible(qos.PROFILES[row.offered], qos.PROFILES[row.requested])
    assert level == QoSCompatibility.OK, reason
    package, _, name = row.type.split("/")
    assert hasattr(importlib.import_module(f"{package}.msg"), name)


RELIABLE = rclpy.qos.QoSProfile(depth=10)
LATCHED = rclpy.qos.QoSProfile(depth=100, durability=rclpy.qos.DurabilityPolicy.TRANSIENT_LOCAL)
# What other packages of Jazzy ask for by default, by the topics of the table that they may be pointed at.
CONSUMERS = {
    "robot_state_publisher": (rclpy.qos.qos_profile_sensor_data, ("joint_states",)),
    "image_transport, message_filters, rviz's displays": (RELIABLE, ("color/image_raw", "camera_info", "overlay")),
    "image_transport with sensor data": (rclpy.qos.qos_profile_sensor_data, ("color/image_raw", "camera_info")),
    "tf2, joints": (rclpy.qos.QoSProfile(depth=100), ("/tf",)),
    "tf2, static": (LATCHED, ("/tf_static",)),
    "rviz's robot model, foxglove_bridge": (LATCHED, ("/robot_description",)),
    "diagnostic_aggregator": (RELIABLE, ("/diagnostics",)),
    "rviz's markers": (RELIABLE, ("/twin/objects",)),
    "joint_trajectory_controller": (RELIABLE, ("/joint_trajectory",)),
}


@pytest.mark.parametrize("consumer", CONSUMERS)
def test_the_usual_consumers_are_offered_what_they_ask_for(consumer):
    asked, ends = CONSUMERS[consumer]
    rows = [row for row in TOPICS if row.name.endswith(ends)]
    assert len(rows) >= len(ends)
    for row in rows:
        level, reason = qos_check_compatible(qos.PROFILES[row.offered], asked)
        # Where they leave liveliness to the middleware, the answer is a warning: Fast DDS takes automatic, as ours.
        assert level == QoSCompatibility.OK or "liveliness" in reason.lower(), f"{row.name}: {reason}"
        assert level != QoSCompatibility.ERROR, f"{row.name}: {reason}"


@dataclass(frozen=True)
class Params:
    rate_hz: float = param(100.0, "rate", unit="Hz", lo=10, hi=250)
    names: tuple[str, ...] = param(("a", "b"), "names")
    port: str = param("", "port")


def test_parameters_come_back_typed_and_overrides_are_checked(context):
    overrides = [rclpy.Parameter("rate_hz", value=50), rclpy.Parameter("names", value=["x"])]
    node = rclpy.create_node("typed", parameter_overrides=overrides)
    assert declare(node, Params) == Params(rate_hz=50.0, names=("x",), port="")
    bad = rclpy.create_node("bad", parameter_overrides=[rclpy.Parameter("rate_hz", value=999.0)])
    with pytest.raises(ParameterError, match="'bad': rate_hz: expected 10 to 250 Hz, got 999"):
        declare(bad, Params)


@dataclass(frozen=True)
class Renamed:
    n_action_steps: int = param(0, "steps")


def test_a_node_refuses_a_parameter_by_its_old_name(context):
    node = rclpy.create_node("old", parameter_overrides=[rclpy.Parameter("execute_rows", value=5)])
    with pytest.raises(ParameterError, match="'execute_rows': it is now called 'n_action_steps'; set that instead"):
        declare(node, Renamed)


class Fragile(ManagedNode):
    def __init__(self, error):
        super().__init__("fragile")
        self.error = error
        self.safe = 0

    def configure(self):
        if self.error:
            raise self.error

    def activate(self): ...
    def deactivate(self): ...
    def cleanup(self): ...

    def make_safe(self):
        self.safe += 1


@pytest.mark.parametrize("error", [SetupError("expected a port, got none"), RuntimeError("a bug")])
def test_an_exception_in_a_transition_fails_it_and_makes_the_node_safe(context, error):
    node = Fragile(error)
    assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
    assert node.safe == 1
    node.error = None
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    assert node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
    assert node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    node.destroy_node()


def test_after_a_failed_activation_the_node_is_unconfigured_and_may_be_configured_again(context):
    node = Fragile(None)
    node.activate = lambda: (_ for _ in ()).throw(SetupError("expected servos, got none"))
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    assert node.trigger_activate() != TransitionCallbackReturn.SUCCESS
    assert node.safe == 1
    del node.activate
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    node.destroy_node()


def change(node, number, label=""):
    """What a client is answered."""
    service = next(s for s in node.services if s.srv_type is ChangeState)
    request = ChangeState.Request(transition=Transition(id=number, label=label))
    return service.callback(request, ChangeState.Response()).success


def test_a_transition_that_the_state_does_not_allow_is_refused_and_changes_nothing(context):
    node = Fragile(None)
    unallowed = [n for n in range(256) if n not in (Transition.TRANSITION_CONFIGURE, 5)]
    assert not any(change(node, n) for n in unallowed)
    assert change(node, Transition.TRANSITION_CONFIGURE)
    assert change(node, Transition.TRANSITION_ACTIVATE)
    unallowed = [n for n in range(256) if n not in (Transition.TRANSITION_DEACTIVATE, 7)]
    assert not any(change(node, n) for n in unallowed)
    assert not change(node, 0, "no such label")
    assert not change(node, Transition.TRANSITION_DEACTIVATE, "configure")  # rclpy: the label wins
    assert node.safe == 0
    assert change(node, 0, "deactivate")
    assert change(node, Transition.TRANSITION_CLEANUP)
    assert change(node, Transition.TRANSITION_UNCONFIGURED_SHUTDOWN)
    assert not any(change(node, n) for n in range(256))
    node.destroy_node()


def sim_node(name):
    return rclpy.create_node(name, parameter_overrides=[rclpy.Parameter("use_sim_time", value=True)])


def test_simulated_time_without_a_clock_is_refused(context, monkeypatch):
    monkeypatch.setattr(lifecycle, "CLOCK_WAIT_S", 0.3)
    node = sim_node("lost")
    with pytest.raises(SetupError, match=r"expected a time on /clock within 0 s, got none; start what publishes"):
        wait_for_clock(node, lambda: rclpy.spin_once(node, timeout_sec=0.05))
    node.destroy_node()


def test_simulated_time_starts_with_the_first_clock_message_and_cannot_be_changed_later(context):
    node = sim_node("timed")
    clock = node.create_publisher(Clock, "/clock", 10)

    def spin():
        clock.publish(Clock(clock=Time(sec=7)))
        rclpy.spin_once(node, timeout_sec=0.05)

    wait_for_clock(node, spin)
    assert node.get_clock().now().nanoseconds == 7 * 10**9
    result = node.set_parameters([rclpy.Parameter("use_sim_time", value=False)])[0]
    assert not result.successful
    assert "at the start of the node only" in result.reason
    node.destroy_node()


@dataclass(frozen=True)
class LiveParams:
    rate_hz: float = param(100.0, "rate", unit="Hz", lo=10, hi=250)
    count: int = param(3, "count", lo=0)
    scale: float = param(1.0, "share", lo=0.05, hi=1.0, live=True)
    quality: int = param(90, "quality", lo=1, hi=100, live=True)
    colour: str = param("red", "colour", choices=("red", "blue"), live=True)
    low: float = param(0.0, "low", lo=0.0, hi=1.0, live=True)

    def __post_init__(self) -> None:
        if self.low > self.scale:
            raise ValueError("low: expected at most scale")


@pytest.fixture
def live(context):
    applied = []
    node = rclpy.create_node("live")
    declare(node, LiveParams, apply=applied.append)
    yield node, applied
    node.destroy_node()


def test_ranges_and_choices_are_in_the_descriptors(live):
    node, _ = live
    rate, count, scale, colour = (node.describe_parameter(name) for name in ("rate_hz", "count", "scale", "colour"))
    assert (rate.floating_point_range[0].from_value, rate.floating_point_range[0].to_value) == (10.0, 250.0)
    assert (count.integer_range[0].from_value, count.integer_range[0].to_value) == (0, 2**63 - 1)
    assert "fixed while the node runs" in rate.additional_constraints
    assert "fixed" not in scale.additional_constraints
    assert colour.additional_constraints == "one of red, blue"


def test_live_parameters_are_checked_and_handed_on_together(live):
    node, applied = live
    wanted = [rclpy.Parameter("scale", value=0.5), rclpy.Parameter("quality", value=70)]
    assert node.set_parameters_atomically(wanted).successful
    assert applied == [LiveParams(scale=0.5, quality=70)]
    assert node.set_parameters([rclpy.Parameter("colour", value="blue")])[0].successful
    assert applied[-1] == LiveParams(scale=0.5, quality=70, colour="blue")


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("rate_hz", 50.0, "rate_hz: read once, when the node starts"),
        ("count", 4, "Can be set now: colour, low, quality, scale"),
        ("scale", 0.01, "0.01"),
        ("scale", float("nan"), "nan"),
        ("scale", "fast", "scale: expected float"),
        ("quality", 101, "101"),
        ("colour", "green", "colour: expected one of"),
        ("low", 0.9, "low: expected at most scale"),
    ],
)
def test_what_cannot_be_set_is_refused_with_the_reason_and_nothing_changes(live, name, value, reason):
    node, applied = live
    node.set_parameters([rclpy.Parameter("scale", value=0.6)])
    before = node.get_parameter(name).value
    result = node.set_parameters([rclpy.Parameter(name, value=value)])[0]
    assert not result.successful
    assert reason in result.reason
    assert node.get_parameter(name).value == before
    assert applied == [LiveParams(scale=0.6)]


@pytest.mark.parametrize("later", [False, True], ids=["function", "coroutine"])
def test_a_failing_service_callback_is_answered_and_the_node_lives(context, later):
    def fail(_request, _response):
        raise RuntimeError("a bug")

    async def fail_later(request, response):
        return fail(request, response)

    node = rclpy.create_node("serving")
    services.serve(node, "/driver/rest", Trigger, fail_later if later else fail)
    client = services.client(node, "/driver/rest", Trigger)
    for _ in range(2):
        future = client.call_async(Trigger.Request())
        rclpy.spin_until_future_complete(node, future, timeout_sec=20)
        assert not future.result().success
        assert future.result().message == "/driver/rest failed: a bug"
    node.destroy_node()


STUCK_AT_EXIT = """
import ctypes, sys
from rclpy.node import Node
from grids_common.lifecycle import run_node
libc = ctypes.CDLL(None)
libc.__cxa_atexit(libc.pause, None, None)  # as a library that waits at exit for a thread of its own

class Stuck(Node):
    def __init__(self):
        super().__init__("stuck")
        self.create_timer(0.1, lambda: print("spinning", flush=True))

sys.exit(run_node(Stuck))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_node_ends_although_a_library_hangs_at_exit(tmp_path, number):
    with Child([sys.executable, "-c", STUCK_AT_EXIT], log=tmp_path / "log") as node:
        deadline = time.monotonic() + 20
        while "spinning" not in node.output and time.monotonic() < deadline:
            time.sleep(0.05)
        began = time.monotonic()
        node.send(number)
        assert node.wait(10) == -signal.SIGALRM, node.output
        assert time.monotonic() - began < 5


WORKING = """
import pathlib, sys, time
import rclpy.node
from grids_common.lifecycle import run_node

class Working(rclpy.node.Node):
    def __init__(self):
        super().__init__("working")
        self.create_timer(0.01, self.work)
    def work(self):
        part = pathlib.Path(sys.argv[1], "bag.partial")
        part.touch()
        print("working", flush=True)
        for _ in range(30):
            time.sleep(0.01)
        part.unlink()

if __name__ == "__main__":
    sys.exit(run_node(Working, args=[]))
"""


@pytest.mark.parametrize("presses", [1, 3])
def test_a_plain_node_finishes_what_it_is_writing_when_it_is_interrupted(tmp_path, presses):
    node = Child([sys.executable, "-u", "-c", WORKING, str(tmp_path)], log=tmp_path / "log.txt")
    try:
        deadline = time.monotonic() + 60
        while "working" not in node.output and time.monotonic() < deadline:
            time.sleep(0.01)
        for _ in range(presses):
            node.send(signal.SIGINT)
            time.sleep(0.05)
        assert node.wait(20) == 0
        assert not (tmp_path / "bag.partial").exists()
        assert "Traceback" not in node.output
    finally:
        node.kill()
