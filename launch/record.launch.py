"""ros2 launch grids_bringup record.launch.py hardware:=twin task:=pick_place episodes:=20

Launch passes no keys on: where nobody demonstrates by script, the services recorder/start and recorder/stop (or
`./grids record`, which listens to the keyboard) begin and end an episode.
"""

from grids_bringup.cli.command import RECORD
from grids_bringup.launching import describe


def generate_launch_description():
    return describe(RECORD)
