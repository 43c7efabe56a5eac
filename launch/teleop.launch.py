"""ros2 launch grids_bringup teleop.launch.py hardware:=twin task:=pick_place operator:=expert"""

from grids_bringup.cli.command import TELEOP
from grids_bringup.launching import describe


def generate_launch_description():
    return describe(TELEOP)
