"""ros2 launch grids_bringup record.launch.py hardware:=twin task:=pick_place episodes:=20

ros2 launch does not forward keys. Without the scripted expert, start and end episodes with the services recorder/start
and recorder/stop, or use `./grids record`, which reads the keyboard.
"""

from grids_bringup.cli.command import RECORD
from grids_bringup.launching import describe


def generate_launch_description():
    return describe(RECORD)
