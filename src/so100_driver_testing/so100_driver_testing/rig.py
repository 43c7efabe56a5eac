"""The test rig: a driver process on a twin process, and a client that commands it. For the fault campaign and tests.

Only the motors are simulated: the driver node runs in its own process, on the twin's serial line and DDS. Promises are
checked on the twin's log of goals and torque.
"""

import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import rclpy
from grids_msgs.msg import ActionChunk, DriverStatus, PolicyStatus
from grids_msgs.srv import SetMode
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool
from std_srvs.srv import Trigger

from grids_common import services, topics
from grids_common.process import Child
from grids_common.so100 import JOINT_NAMES, REST_POSE_RAD
from so100_driver_testing.twin_process import TwinProcess

START_TIMEOUT_S = 120.0  # an upper limit: a process that ends is noticed at once
# Amplitude of each joint from the rest pose, inwards; a phase rate of 2 rad/s gives at most 1 rad/s.
SWING_RAD = np.array([0.5, 0.4, -0.4, -0.4, 0.3, 0.4])
PHASE_RATE = 2.0
STEPS, DT_S = 30, 1 / 30


def swing(t_s: np.ndarray | float) -> np.ndarray:
    """The test motion (…, 6) rad at monotonic time `t_s`: smoothly out of the rest pose and back, repeated."""
    t = np.asarray(t_s, float)[..., None]
    return np.array(REST_POSE_RAD) + SWING_RAD * (1 - np.cos(PHASE_RATE * t))


def start_node(module: str, folder: Path, parameters: dict[str, object]) -> Child:
    """Start a node as a process that activates itself (`autostart`). Its output goes to a file in `folder`."""
    command = [sys.executable, "-m", module, "--ros-args"]
    for name, value in ({"autostart": True} | parameters).items():
        text = str(value).lower() if isinstance(value, bool) else str(value) or '""'
        command += ["-p", f"{name}:={text}"]
    handle, name = tempfile.mkstemp(dir=folder, suffix=f"-{module}.txt")
    os.close(handle)
    return Child(command, log=Path(name))


class Client:
    """A policy that can swing the arm, with the driver's newest status and joint states. Has its own threads."""

    def __init__(self, name: str = "rig") -> None:
        self._own_context = not rclpy.ok()
        if self._own_context:
            rclpy.init()
        self.node = rclpy.create_node(name)
        self.status: DriverStatus | None = None
        self.joints: JointState | None = None
        self.joint_count = 0
        self.sequence, self.epoch = 0, 0
        self.clock_offset_s = 0.0
        self._swinging = False
        topics.subscription(self.node, "/follower/status", DriverStatus, self._on_status)
        topics.subscription(self.node, "/follower/joint_states", JointState, self._on_joints)
        self.chunks = topics.publisher(self.node, "/policy/action_chunk", ActionChunk)
        self._estop = topics.publisher(self.node, "/estop", Bool)
        self._services = {
            name: services.client(self.node, f"/driver/{name}", Trigger)
            for name in ("estop", "estop_reset", "release", "rest")
        }
        self._mode = services.client(self.node, "/driver/set_mode", SetMode)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._stop = False
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()
        self._mover = threading.Thread(target=self._move, daemon=True)
        self._mover.start()

    def _spin(self) -> None:
        try:
            while not self._stop:
                self._executor.spin_once(timeout_sec=0.1)
        except ExternalShutdownException:
            return

    def _on_status(self, message: DriverStatus) -> None:
        self.status = message

    def _on_joints(self, message: JointState) -> None:
        self.joints = message
        self.joint_count += 1

    def _move(self) -> None:
        while not self._stop:
            if self._swinging:
                self.publish(self.swing_chunk())
            time.sleep(0.1)

    # -- commands ------------------------------------------------------------------------------------------------
    def swinging(self, *, on: bool) -> None:
        """Switch publishing of the test motion on or off."""
        self._swinging = on

    def stamp(self, offset_s: float = 0.0):
        """builtin_interfaces/Time of now plus `offset_s` and the clock offset under test."""
        now = self.node.get_clock().now() + rclpy.duration.Duration(seconds=self.clock_offset_s + offset_s)
        return now.to_msg()

    def swing_chunk(self) -> ActionChunk:
        """A chunk of one second of the test motion from now on."""
        message = ActionChunk(joint_names=list(JOINT_NAMES), dt=DT_S, horizon=STEPS, bundle_id="campaign")
        message.header.stamp = self.stamp()
        message.positions = swing(time.monotonic() + np.arange(STEPS) * DT_S).ravel().tolist()
        self.sequence += 1
        message.sequence, message.epoch = self.sequence, self.epoch
        return message

    def pose_chunk(self, pose: np.ndarray) -> ActionChunk:
        """A chunk of one second that holds `pose` (joints,) rad."""
        message = self.swing_chunk()
        message.positions = np.tile(pose, message.horizon).tolist()
        return message

    def publish(self, message: ActionChunk) -> None:
        """Publish a chunk."""
        self.chunks.publish(message)

    def estop_topic(self) -> None:
        """Publish an emergency stop on /estop."""
        self._estop.publish(Bool(data=True))

    def call(self, name: str, timeout_s: float = 5.0):
        """Call a Trigger service of the driver. Returns its response, None without one within `timeout_s`.

        The call is repeated every 2 s: a request is lost while DDS still knows a killed driver of the same name.
        """
        end = time.monotonic() + timeout_s
        while (left_s := end - time.monotonic()) > 0:
            answer = self.request(self._services[name], Trigger.Request(), min(2.0, left_s))
            if answer is not None:
                return answer
        return None

    def set_mode(self, mode: str, timeout_s: float = 5.0):
        """Call driver/set_mode. Returns its response, None without one."""
        return self.request(self._mode, SetMode.Request(mode=mode), timeout_s)

    @staticmethod
    def request(client, request, timeout_s: float):
        """Call any service. Returns its response, None without one within `timeout_s`."""
        if not client.wait_for_service(timeout_sec=timeout_s):
            return None
        future, done = client.call_async(request), threading.Event()
        future.add_done_callback(lambda _: done.set())
        return future.result() if done.wait(timeout_s) else None

    def until(self, condition, timeout_s: float) -> bool:
        """Wait until `condition(status)` is true. False after `timeout_s`."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            if self.status is not None and condition(self.status):
                return True
            time.sleep(0.01)
        return False

    def close(self) -> None:
        """End the threads, then destroy the node."""
        self._stop = True
        self._thread.join()  # a node that is destroyed while it spins or publishes ends the process
        self._mover.join()
        self._executor.shutdown()
        self.node.destroy_node()
        if self._own_context:
            rclpy.try_shutdown()


def send_heartbeats(client: Client, stop: threading.Event) -> None:
    """Publish the policy's status at 20 Hz until `stop`, as a policy node does."""
    publisher = topics.publisher(client.node, "/policy/status", PolicyStatus)
    while not stop.wait(0.05):
        publisher.publish(PolicyStatus(state="running"))


class Rig:
    """Twin, client and (once started) a driver. A context manager that ends every process it started."""

    def __init__(self, *twin_arguments: str, client: bool = True) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="grids-rig-")
        self.folder = Path(self._folder.name)
        self.driver: Child | None = None
        self.twin = TwinProcess(self.folder, *twin_arguments)
        self.client = Client() if client else None

    def __enter__(self) -> "Rig":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def launch(self, **parameters) -> Child:
        """Start a driver without waiting for it. `parameters`: of the node `driver`."""
        self.driver = start_node(
            "so100_driver.nodes.driver", self.folder, {"serial_port": self.twin.paths["follower"]} | parameters
        )
        return self.driver

    def start(self, **parameters) -> Child:
        """Start a driver and wait until it is active. RuntimeError with its output if that fails."""
        self.client.status = None
        driver = self.launch(**parameters)
        mode = parameters.get("mode", "policy")
        if not self._armed(driver, mode):
            raise RuntimeError(f"the driver did not arm: {driver.output[-2000:]}")
        return driver

    def _armed(self, driver: Child, mode: str) -> bool:
        end = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < end and driver.alive:
            if self.client.until(lambda s: s.mode == mode and s.state != "inactive", 0.2):
                return True
        return False

    def recover(self) -> bool:
        """Clear the twin's faults, reset the driver, and swing in policy mode. False if that fails within 8 s."""
        self.twin.clear()
        self.client.swinging(on=True)
        end = time.monotonic() + 8.0
        while time.monotonic() < end:
            if self.client.status.mode in ("fault", "estop"):
                self.client.call("estop_reset")
            if self.client.status.mode != "policy":
                self.client.set_mode("policy")
            if self.client.until(lambda s: s.mode == "policy" and s.state in ("executing", "ramping"), 0.5):
                return True
        return False

    def stop_driver(self) -> None:
        """Kill the driver."""
        if self.driver is not None:
            self.driver.kill()
            self.driver = None

    def close(self) -> None:
        """End every process and delete the folder."""
        self.stop_driver()
        if self.client is not None:
            self.client.close()
        self.twin.close()
        self._folder.cleanup()


def mover() -> int:
    """The program of a policy process: swings the arm and publishes its status until a signal ends it."""
    client, stop = Client(f"mover_{os.getpid()}"), threading.Event()
    client.swinging(on=True)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    send_heartbeats(client, stop)
    client.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(mover())
