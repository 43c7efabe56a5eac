"""The table of all services and actions of the graph: name, type and description.

docs/interfaces.md is generated from this table. Nodes create servers and clients with `serve` and `client`; a name that
is not in the table is an error. Names are made relative, so that namespaces and remappings apply.
"""

import inspect
import traceback
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Service:
    """One service or action. `type` is "package/srv/Name" or "package/action/Name"."""

    name: str
    type: str
    note: str

    @property
    def node(self) -> str:
        """Name of the node that offers it."""
        return self.name.split("/")[1]


# fmt: off
SERVICES = (
    Service("/driver/set_mode", "grids_msgs/srv/SetMode",
            "idle, policy, teleop or freedrive; the response contains the mode now in force"),
    Service("/driver/estop", "std_srvs/srv/Trigger",
            "latches the emergency stop: the arm stops where it is and holds with torque on"),
    Service("/driver/estop_reset", "std_srvs/srv/Trigger",
            "leaves `estop` or `fault` for `idle`"),
    Service("/driver/rest", "std_srvs/srv/Trigger",
            "goes to the rest pose at limited speed, then releases torque"),
    Service("/driver/release", "std_srvs/srv/Trigger",
            "torque off now, wherever the arm is; repeated for each servo until it confirms"),
    Service("/recorder/start", "grids_msgs/srv/StartEpisode",
            "begins an episode"),
    Service("/recorder/stop", "grids_msgs/srv/StopEpisode",
            "ends the episode with an outcome; responds after the episode is saved and judged"),
    Service("/run_manager/clock", "std_srvs/srv/Trigger",
            "part:=robot: the message is when the request came and when it was answered, ns of the robot's ROS clock"),
    Service("/twin/reset", "grids_msgs/srv/TwinReset",
            "twin only: sets up a task's scene again, by seed"),
    Service("/twin/fault", "grids_msgs/srv/TwinFault",
            "twin only: injects a fault of the bus, a servo or a camera; an empty kind clears all"),
)
ACTIONS = (
    Service("/policy/run_task", "grids_msgs/action/RunTask",
            "follows one instruction; on the twin the judge's verdict ends it with success"),
)
# fmt: on
_BY_NAME = {service.name: service for service in SERVICES + ACTIONS}


def relative(name: str) -> str:
    """The relative name of a service or action of the table, for rclpy. Raises KeyError that lists the known names."""
    if name not in _BY_NAME:
        raise KeyError(f"expected one of {sorted(_BY_NAME)}, got {name!r}: add it to grids_common/services.py")
    return name.removeprefix("/")


def serve(node, name: str, service_type, callback, **options):
    """Create a server for a service of the table; options go to create_service (callback_group=…).

    An exception in `callback` is logged and answered with success=false: no request may end a node that holds an arm.
    """

    def refuse(error: Exception):
        text = "".join(traceback.format_exception(error)).strip()
        node.get_logger().error(f"{name} failed, the request is refused: {text}")
        response = service_type.Response()
        response.message = f"{name} failed: {error}"
        return response

    def answer(request, response):
        try:
            return callback(request, response)
        except Exception as error:
            return refuse(error)

    async def answer_later(request, response):
        try:
            return await callback(request, response)
        except Exception as error:
            return refuse(error)

    answering = answer_later if inspect.iscoroutinefunction(callback) else answer
    return node.create_service(service_type, relative(name), answering, **options)


def client(node, name: str, service_type):
    """Create a client for a service of the table."""
    return node.create_client(service_type, relative(name))
