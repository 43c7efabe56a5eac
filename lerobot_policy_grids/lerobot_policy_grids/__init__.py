"""GridS inside LeRobot. LeRobot imports this package by its name, which registers the policy types."""

from lerobot_policy_grids.needed import refuse_older

refuse_older()

from lerobot_policy_grids.configuration_grids import GridsSmolVLAConfig  # noqa: E402 - an older LeRobot fails here
from lerobot_policy_grids.configuration_pi import GridsPI0Config, GridsPI05Config  # noqa: E402

__all__ = ["GridsPI0Config", "GridsPI05Config", "GridsSmolVLAConfig"]
