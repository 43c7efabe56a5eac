"""`./grids replay EPISODE --to arm|policy`: recorded commands to the driver, or recorded observations to a bundle."""

import argparse
import sys
from pathlib import Path

from grids_common.host import robots
from grids_policy.runtime.engines.table import CHOICES


def build_parser() -> argparse.ArgumentParser:
    """The options of `./grids replay`."""
    parser = argparse.ArgumentParser(prog="grids replay", description=__doc__)
    add = parser.add_argument
    add("episode", type=Path, help="a recorded episode")
    add("--to", choices=("arm", "policy"), required=True, help="what replays it")
    add("--bundle", type=Path, help="policy: bundle folder (default: the one in ./models named like the recorded one)")
    add("--engine", choices=CHOICES, help="policy: engine, as the policy node's parameter (default: auto)")
    add("--robot", type=robots.option, help=f"arm: {robots.OPTION_TEXT}")
    add("--speed", type=float, help="arm: 0.1 to 1.0 of the recorded speed (default: 1)")
    return parser


def main(argv: list[str]) -> int:
    """Exit status: 0 executed (arm) or equal bit for bit (policy), 1 different or ended early, 2 refused."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    for name in {"arm": ("bundle", "engine"), "policy": ("speed", "robot")}[arguments.to]:
        if getattr(arguments, name) is not None:
            parser.error(f"--{name}: has no meaning with --to {arguments.to}")
    speed = 1.0 if arguments.speed is None else arguments.speed
    if not 0.1 <= speed <= 1.0:
        parser.error(f"--speed: expected 0.1 to 1.0, got {speed}")
    try:
        if arguments.to == "arm":
            from grids_recorder.replay.arm import replay_arm

            return replay_arm(arguments.episode, speed, arguments.robot or "")
        from grids_eval.replay.policy import replay_policy

        return replay_policy(arguments.episode, arguments.bundle, arguments.engine or "auto")
    except (RuntimeError, ValueError) as error:  # a broken bundle or a broken bag
        sys.stderr.write(f"grids replay: {error}\n")
        return 2
