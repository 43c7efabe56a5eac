"""GridS inside LeRobot. LeRobot imports this package by its name, which registers the policy types."""

from lerobot_policy_grids.configuration_grids import GridsSmolVLAConfig

__all__ = ["GridsSmolVLAConfig"]
