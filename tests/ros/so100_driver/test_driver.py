"""The driver node on the twin's serial line: life cycle and set-up errors."""

import gc
import os
import random
import time

import pytest

rclpy = pytest.importorskip("rclpy")

from lifecycle_msgs.msg import Transition  # noqa: E402
from lifecycle_msgs.srv import ChangeState  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

from grids_common.so100 import JOINT_NAMES, SERVO_IDS  # noqa: E402
from grids_data import calibration  # noqa: E402
from so100_driver.bus import registers  # noqa: E402
from so100_driver.bus.bus import ServoBus  # noqa: E402
from so100_driver.control import prepare  # noqa: E402
from so100_driver.nodes.driver import DriverNode  # noqa: E402
from so100_driver.nodes.leader import LeaderNode  # noqa: E402
from so100_driver_testing import lifecycle_scenarios  # noqa: E402
from so100_driver_testing.rig import Rig, start_node  # noqa: E402

pytestmark = pytest.mark.ros
os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")


@pytest.fixture(scope="module")
def free_twin():
    with Rig(client=False) as rig:
        yield rig


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"serial_port": ""}, "expected a serial device in the parameter serial_port"),
        ({"serial_port": "/dev/does_not_exist"}, "no such file; devices that exist"),
        ({"serial_port": "/etc/hostname"}, "expected a serial device, got another kind of file"),
        ({"rate_hz": 1000.0}, "rate_hz: expected 10 to 250 Hz, got 1000.0"),
        ({"calibration": "/nowhere/x.json"}, "/nowhere/x.json: expected a readable calibration file"),
        ({"require_calibration": True}, "expected a calibration of the follower, got none"),
    ],
    ids=["no port", "wrong path", "not a device", "out of range", "no calibration file", "calibration required"],
)
def test_bad_set_up_is_one_sentence_and_a_non_zero_exit(parameters, sentence, free_twin):
    mark = free_twin.twin.mark()
    node = start_node(
        "so100_driver.nodes.driver", free_twin.folder, {"serial_port": free_twin.twin.paths["follower"]} | parameters
    )
    try:
        assert node.wait(60) != 0
        assert sentence in node.output
        assert "Traceback" not in node.output
        assert [r for r in free_twin.twin.records(mark) if r.kind in ("goal", "torque")] == []
    finally:
        node.kill()


def test_a_calibration_that_differs_from_the_servos_is_shown_and_nothing_is_written(free_twin, tmp_path):
    wrong = calibration.uncalibrated()
    path = tmp_path / "arm.json"
    calibration.save(wrong, path)
    mark = free_twin.twin.mark()
    node = start_node(
        "so100_driver.nodes.driver",
        free_twin.folder,
        {"serial_port": free_twin.twin.paths["follower"], "calibration": str(path)},
    )
    try:
        assert node.wait(60) != 0
        for name in JOINT_NAMES:
            assert f"{name}: file has offset 0" in node.output
        assert free_twin.twin.records(mark) == []
    finally:
        node.kill()


@pytest.mark.parametrize("node_name", ["driver", "leader"])
def test_servos_whose_own_limit_is_below_the_supply_get_no_torque(free_twin, node_name):
    path = free_twin.twin.paths["follower"]

    def limit(volts):
        bus = ServoBus(path, SERVO_IDS, reply_timeout_s=0.05)
        bus.open()
        for servo_id in SERVO_IDS:
            bus.write_eeprom(servo_id, [(registers.MAX_VOLTAGE, volts)])
        bus.close()

    limit(80)
    node = start_node(f"so100_driver.nodes.{node_name}", free_twin.folder, {"serial_port": path})
    try:
        assert node.wait(60) != 0
        assert "supply: shoulder_pan (id 1) 12.0 V (its own limits: 4.0 to 8.0 V)" in node.output
        assert not any(free_twin.twin.torque())
    finally:
        node.kill()
        limit(140)


@pytest.mark.parametrize("make_node", [DriverNode, LeaderNode])
def test_an_unforeseen_error_in_configure_leaves_the_port_free(make_node, free_twin, monkeypatch):
    def broken(_bus):
        raise ZeroDivisionError("unforeseen")

    path = free_twin.twin.paths["follower"]
    monkeypatch.setattr(prepare, "find_servos", broken)
    rclpy.init(args=["--ros-args", "-p", f"serial_port:={path}"])
    node = make_node()
    try:
        with pytest.raises(ZeroDivisionError) as caught:
            node.configure()
        another = ServoBus(path, SERVO_IDS)
        another.open()
        another.close()
        assert caught.traceback  # keeps the frames, and with them a port left open, alive until here
        caught = None  # the frames hold the node, too
    finally:
        node.destroy_node()
        rclpy.shutdown()
        del node
        gc.collect()  # its services live as long as the object, and the next test would take them for its driver's


def test_a_leader_node_on_another_arms_port_leaves_its_torque_alone(free_twin, tmp_path):
    path = tmp_path / "leader.json"
    calibration.save(calibration.uncalibrated(), path)
    follower = free_twin.twin.paths["follower"]
    bus = ServoBus(follower, SERVO_IDS, reply_timeout_s=0.05)
    bus.open()
    bus.set_torque(dict.fromkeys(SERVO_IDS, True))
    bus.close()
    node = start_node(
        "so100_driver.nodes.leader", free_twin.folder, {"serial_port": follower, "calibration": str(path)}
    )
    try:
        assert node.wait(60) != 0
        assert "the servos' EEPROM differs from the calibration" in node.output
        assert all(free_twin.twin.torque())
    finally:
        node.kill()


def transition(rig, number):
    client = rig.client.node.create_client(ChangeState, "/driver/change_state")
    return rig.client.request(client, ChangeState.Request(transition=Transition(id=number)), 30).success


def test_the_life_cycle_goes_up_and_down_twice_and_deactivate_keeps_torque():
    with Rig() as rig:
        rig.launch(autostart=False)
        for _ in range(2):
            assert transition(rig, Transition.TRANSITION_CONFIGURE)
            before = rig.client.joint_count
            assert rig.client.until(lambda _, n=before: rig.client.joint_count > n, 10)
            assert transition(rig, Transition.TRANSITION_ACTIVATE)
            rig.client.swinging(on=True)
            assert rig.client.until(lambda s: s.mode == "policy" and s.state in ("executing", "ramping"), 8)
            assert transition(rig, Transition.TRANSITION_DEACTIVATE)
            assert all(rig.twin.torque())
            rig.client.swinging(on=False)
            assert transition(rig, Transition.TRANSITION_CLEANUP)
            assert all(rig.twin.torque())


def test_a_failed_activation_can_be_followed_by_a_new_start():
    with Rig() as rig:
        rig.launch(autostart=False)
        assert transition(rig, Transition.TRANSITION_CONFIGURE)
        rig.twin.fault("dead_servo", target="elbow_flex")
        time.sleep(0.5)  # how long the servo is silent; five missed replies, 50 ms, are enough
        assert not transition(rig, Transition.TRANSITION_ACTIVATE)
        assert "elbow_flex (id 3) has not answered" in rig.driver.output
        rig.twin.clear()
        assert transition(rig, Transition.TRANSITION_CONFIGURE)
        assert transition(rig, Transition.TRANSITION_ACTIVATE)


def test_an_emergency_stop_before_the_driver_is_configured_is_latched_until_it_is_reset():
    with Rig() as rig:
        node = rig.launch(autostart=False)
        assert rig.client.call("rest", timeout_s=20) is not None
        end = time.monotonic() + 10
        while "it will be latched" not in node.output and time.monotonic() < end:
            rig.client.estop_topic()
            time.sleep(0.1)
        for _ in range(2):
            assert transition(rig, Transition.TRANSITION_CONFIGURE)
            assert transition(rig, Transition.TRANSITION_ACTIVATE)
            assert rig.client.until(lambda s: s.mode == "estop" and s.state != "inactive", 5)
            assert not rig.client.set_mode("policy").success
            assert transition(rig, Transition.TRANSITION_DEACTIVATE)
            assert transition(rig, Transition.TRANSITION_CLEANUP)
            rig.client.status = None
        assert transition(rig, Transition.TRANSITION_CONFIGURE)
        assert transition(rig, Transition.TRANSITION_ACTIVATE)
        assert rig.client.call("estop_reset").success
        assert rig.client.set_mode("policy").success


def test_services_answer_before_the_driver_is_configured(tmp_path):
    with Rig() as rig:
        node = rig.launch(autostart=False)
        answer = rig.client.call("rest", timeout_s=20)
        assert isinstance(answer, Trigger.Response)
        assert (answer.success, answer.message) == (False, "the driver is not configured")
        assert rig.client.set_mode("policy").message == "the driver is not configured"
        assert node.alive


@pytest.mark.timeout(300 + lifecycle_scenarios.requested(0))
@pytest.mark.parametrize("clients", [1, 2])
def test_random_transition_requests_do_not_end_the_leader_node(clients):
    with Rig() as rig:
        leader = start_node("so100_driver.nodes.leader", rig.folder, {"serial_port": rig.twin.paths["leader"]})
        requests = lifecycle_scenarios.Requests(rig.client.node, "/leader", clients=clients)
        try:
            assert requests.storm(random.Random(4), lifecycle_scenarios.requested(80)) == [], leader.output
            assert leader.alive, leader.output
        finally:
            requests.close()
            leader.kill()
