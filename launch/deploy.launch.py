"""ros2 launch grids_bringup deploy.launch.py hardware:=twin task:=pick_place policy:=expert seed:=1

The nodes are defined in grids_bringup.graph; `./grids deploy` starts the same nodes without ros2 launch.
"""

from grids_bringup.cli.command import DEPLOY
from grids_bringup.launching import describe


def generate_launch_description():
    return describe(DEPLOY)
