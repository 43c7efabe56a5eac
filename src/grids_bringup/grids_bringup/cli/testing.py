"""`./grids test`: unit, process, ROS and end-to-end tests, in this order, as one pytest run."""

import os
import random
import signal
import sys
from pathlib import Path


def main(argv: list[str]) -> int:
    """Extra arguments go to pytest. A random domain keeps parallel runs on one host from hearing each other."""
    import pytest

    # 0 to 101 are the domains whose ports stay clear of Linux's ephemeral range; tests count up from this one.
    os.environ.setdefault("ROS_DOMAIN_ID", str(random.randint(1, 60)))
    os.environ["ROS_PYTHON_CHECK_FIELDS"] = "1"
    # A shell starts background jobs with Ctrl-C ignored, and every process of a test would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    root = Path(os.environ["GRIDS_ROOT"])
    os.chdir(root)
    chosen = [word for word in argv if not word.startswith("-") and Path(word.split("::")[0]).exists()]
    folders = [] if chosen else [f"tests/{name}" for name in ("unit", "process", "ros", "e2e")]
    sys.stdout.flush()
    return int(pytest.main([*folders, *argv]))
