"""ROS node of the twin: truth on topics, faults and resets as services. Physics and serial lines run in `Twin`."""

import time

from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point, Pose, Quaternion, Vector3
from grids_msgs.msg import TaskState
from grids_msgs.srv import TwinFault, TwinReset
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from grids_common import params, services
from grids_common.host.realtime import become_realtime, shorten_switch_interval
from grids_common.lifecycle import SetupError, run_node
from grids_common.so100 import JOINT_NAMES
from grids_common.stamps import to_stamp
from grids_common.topics import publisher, subscription
from grids_sim.nodes.params import TwinParams
from grids_sim.twin.faults import FaultError
from grids_sim.twin.link_folder import FolderInUseError
from grids_sim.twin.twin import PHYSICS_PRIORITY, Twin

BASE_FRAME = "base"
OBJECTS_HZ = 30.0
TASK_STATE_S = 0.5


class TwinNode(Node):
    """The node `twin`, no lifecycle node: the arm answers as soon as the process runs. SetupError if it cannot."""

    def __init__(self) -> None:
        super().__init__("twin")
        self.params = params.declare(self, TwinParams, "twin")
        log = self.get_logger()
        try:
            self.twin = Twin(self.params, warn=log.warning)
        except (FolderInUseError, OSError) as error:
            raise SetupError(str(error)) from error
        self.twin.start()
        self._objects = publisher(self, "/twin/objects", MarkerArray)
        self._task = publisher(self, "/twin/task_state", TaskState)
        services.serve(self, "/twin/reset", TwinReset, self._on_reset)
        services.serve(self, "/twin/fault", TwinFault, self._on_fault)
        if self.params.operator == "topic":
            subscription(self, "/twin/hand", JointState, self._on_hand)
        self._markers: dict[str, list[Marker]] = {}
        self._published_state: tuple | None = None
        self._published_s = 0.0
        # This thread too: if it were preempted while it holds the interpreter lock, the serial lines would wait.
        become_realtime(PHYSICS_PRIORITY)
        self._tick_timer = self.create_timer(1 / OBJECTS_HZ, self._tick)
        log.info(f"twin is up: {self.twin.paths}, task {self.params.task}, seed {self.params.seed}")

    def destroy_node(self) -> None:
        self.twin.close()
        super().destroy_node()

    def _tick(self) -> None:
        self.twin.check()
        truth, stamp_ns = self.twin.stamped_truth()
        if truth is None:
            return
        stamp = to_stamp(stamp_ns)
        self._publish_objects(truth, stamp)
        state = (truth.task, truth.seed, truth.episode, truth.success)
        now_s = time.monotonic()
        if state == self._published_state and now_s - self._published_s < TASK_STATE_S:
            return
        self._published_state, self._published_s = state, now_s
        self._task.publish(
            TaskState(
                header=Header(stamp=stamp, frame_id=self.params.frame_prefix + BASE_FRAME),
                task=truth.task,
                instruction=truth.instruction,
                seed=truth.seed,
                episode=truth.episode,
                time=truth.time_s,
                success=truth.success,
                success_time=truth.success_time_s,
                object_names=list(truth.objects),
            )
        )

    def _publish_objects(self, truth, stamp: Time) -> None:
        message = MarkerArray()
        for name, pose in truth.objects.items():
            marker = self._marker(name)
            marker.header.stamp = stamp
            x, y, z = (float(v) for v in pose.position_m)
            w, qx, qy, qz = (float(v) for v in pose.quaternion)
            marker.pose = Pose(position=Point(x=x, y=y, z=z), orientation=Quaternion(x=qx, y=qy, z=qz, w=w))
            message.markers.append(marker)
        self._objects.publish(message)

    def _marker(self, name: str) -> Marker:
        """The marker of an object, made once: its pose changes, its shape and colour do not."""
        if name not in self._markers:
            from grids_sim.physics.objects import footprint_m, rest_height_m

            items = (*self.twin.world.scene.objects, *self.twin.world.scene.distractors)
            config = next(item for item in items if item.name == name)
            radius, height = footprint_m(config), max(2 * rest_height_m(config), 0.01)
            solid = config.kind in ("cube", "pen")
            red, green, blue, alpha = config.rgba
            side = height if config.kind == "cube" else 2 * radius
            depth = height if solid else 2 * radius
            marker = Marker(
                header=Header(frame_id=self.params.frame_prefix + BASE_FRAME),
                ns=name,
                id=0,
                type=Marker.CUBE if solid else Marker.CYLINDER,
                action=Marker.ADD,
                scale=Vector3(x=side, y=depth, z=height),
                color=ColorRGBA(r=red, g=green, b=blue, a=alpha),
                text=config.kind,
            )
            self._markers[name] = marker
        return self._markers[name]

    def _on_reset(self, request, response):
        try:
            seed = None if request.keep_seed else int(request.seed)
            response.seed = self.twin.reset(request.task, seed)
            self._markers.clear()
            response.success, response.message = True, f"scene drawn from seed {response.seed}"
        except (ValueError, TimeoutError) as error:
            response.success, response.message = False, str(error)
        return response

    def _on_fault(self, request, response):
        try:
            response.message = self.twin.inject(
                request.kind,
                target=request.target,
                arm=request.arm,
                value=request.value,
                duration_s=request.duration,
            )
            response.success = True
            self.get_logger().warning(response.message)
        except FaultError as error:
            response.success, response.message = False, str(error)
        return response

    def _on_hand(self, message: JointState) -> None:
        """Pose of the operator's hand by joint name, rad; an empty message releases the leader."""
        if not message.name:
            self.twin.set_hand(None)
            return
        angles = dict(zip(message.name, message.position, strict=False))
        if set(angles) == set(JOINT_NAMES):
            self.twin.set_hand([angles[name] for name in JOINT_NAMES])
        else:
            self.get_logger().error(
                f"twin/hand: expected the joints {', '.join(JOINT_NAMES)}, got {', '.join(angles)}",
                throttle_duration_sec=5.0,
            )


def main(args=None) -> int:
    """Run the node; returns the exit code."""
    # The serial threads must not wait 5 ms for the interpreter while a callback runs.
    shorten_switch_interval()
    return run_node(TwinNode, args)
