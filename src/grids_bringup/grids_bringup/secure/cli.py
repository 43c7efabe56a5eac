"""`./grids secure init`: keys and permissions for every node of a run, from the tables of topics and services."""

import argparse
import os
import shlex
import sys
from pathlib import Path

from grids_bringup.graph import MAX_DOMAIN
from grids_bringup.secure.enforce import KEYSTORE_VARIABLE, keystore_folder
from grids_common.host import robots
from grids_common.params import ParameterError


def _domain(word: str) -> int:
    if not (word.isascii() and word.isdigit() and int(word) <= MAX_DOMAIN):
        raise argparse.ArgumentTypeError(f"expected a number from 0 to {MAX_DOMAIN}, got {word!r}")
    return int(word)


def main(argv: list[str] | None = None) -> int:
    """Exit code 0: the keystore is there; 1: it cannot be written; 2: wrong arguments."""
    parser = argparse.ArgumentParser(prog="grids secure", description=__doc__)
    parser.add_argument("action", choices=("init",), help="make the keystore, or complete it: keys that are there stay")
    parser.add_argument("--keystore", type=Path, help="its folder (default: ROS_SECURITY_KEYSTORE, or keystore/ here)")
    parser.add_argument(
        "--domain", type=_domain, default=os.environ.get("ROS_DOMAIN_ID") or "0", metavar="N",
        help="the ROS domain in which the keys are valid (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--robot", type=robots.option, default="", help=robots.OPTION_TEXT)
    options = parser.parse_args(argv)
    folder = (options.keystore or keystore_folder()).expanduser().resolve()
    try:
        from grids_bringup.secure.keystore import Keystore
    except ImportError as error:
        sys.stderr.write(f"grids secure: keys need a package: bash requirements/setup.sh secure ({error})\n")
        return 1
    try:
        made = Keystore(folder).create(options.domain, options.robot)
    except (ParameterError, OSError) as error:
        sys.stderr.write(f"grids secure: {error}\n")
        return 1
    sys.stdout.write(
        f"{folder}: keys of {', '.join(made)} for ROS domain {options.domain}\n"
        f"run with them: {run_with(folder, options.domain, options.robot)}\n"
        f"keep {folder / 'private'} to yourself\n"
    )
    return 0


def run_with(folder: Path, domain: int, robot: str) -> str:
    """The command of a run with these keys, with the variables that differ from those of this shell."""
    words = [f"ROS_DOMAIN_ID={domain}"] if str(domain) != (os.environ.get("ROS_DOMAIN_ID") or "0") else []
    if folder != keystore_folder().resolve():
        words.append(f"{KEYSTORE_VARIABLE}={shlex.quote(str(folder))}")
    words.append("./grids deploy")
    return " ".join([*words, *([f"robot:={robot}"] if robot else []), "security:=enforce"])
