"""ros2 launch grids_bringup deploy.launch.py hardware:=twin task:=pick_place policy:=expert seed:=1

The node list is grids_bringup.graph's; `./grids deploy` runs the very same list without launch_ros.
"""

from grids_bringup.cli.command import DEPLOY
from grids_bringup.launching import describe


def generate_launch_description():
    return describe(DEPLOY)
