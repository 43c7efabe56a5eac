"""Run one of LeRobot's commands on the twin: `python patient.py lerobot-record ARGUMENT...`. In LeRobot's environment.

The command is LeRobot's own; only its wait for a reply is longer, see `allow_slow_replies`.
"""

import sys
from importlib.metadata import entry_points

from lerobot.motors.feetech import FeetechMotorsBus
from peer_arm import allow_slow_replies


def main() -> None:
    made = FeetechMotorsBus.__init__

    def patient(self, *arguments, **options) -> None:
        made(self, *arguments, **options)
        allow_slow_replies(self)

    FeetechMotorsBus.__init__ = patient
    name = sys.argv[1]
    command = next(entry for entry in entry_points(group="console_scripts") if entry.name == name).load()
    del sys.argv[0]
    command()


if __name__ == "__main__":
    main()
