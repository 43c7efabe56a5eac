"""Every service and action of the graph, once: name, type and meaning.

docs/interfaces.md is made from this table. Nodes offer and call services through `serve` and `client`, so that a name
outside the table is an error; names are made relative, so that a namespace or a remapping applies.
"""

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
            "idle, policy, teleop or freedrive; the answer names the mode now in force"),
    Service("/driver/estop", "std_srvs/srv/Trigger",
            "latches the emergency stop: the arm stops where it is and holds with torque on"),
    Service("/driver/estop_reset", "std_srvs/srv/Trigger",
            "leaves `estop` or `fault` for `idle`"),
    Service("/driver/rest", "std_srvs/srv/Trigger",
            "goes to the rest pose at limited speed, then releases torque"),
    Service("/driver/release", "std_srvs/srv/Trigger",
            "torque off now, wherever the arm is; asked of each servo until it confirms"),
    Service("/recorder/start", "grids_msgs/srv/StartEpisode",
            "begins an episode"),
    Service("/recorder/stop", "grids_msgs/srv/StopEpisode",
            "ends the episode with an outcome; answers after it is saved and judged"),
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
    """The name to hand to rclpy for a service or action of the table; KeyError names the known ones."""
    if name not in _BY_NAME:
        raise KeyError(f"expected one of {sorted(_BY_NAME)}, got {name!r}: add it to grids_common/services.py")
    return name.removeprefix("/")


def serve(node, name: str, service_type, callback, **options):
    """Offers a service of the table; options go to create_service (callback_group=…)."""
    return node.create_service(service_type, relative(name), callback, **options)


def client(node, name: str, service_type):
    """A client of a service of the table."""
    return node.create_client(service_type, relative(name))
