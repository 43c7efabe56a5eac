"""`./grids` commands as a user runs them."""

import subprocess
import sys

TIMEOUT_S = 280.0  # below the limit of a test


def made(command: str, *words: object, answers: str = "") -> str:
    """What the command printed; it must succeed. `answers`: what is typed into its questions."""
    arguments = [sys.executable, "-m", "grids_bringup.cli", command, *map(str, words)]
    done = subprocess.run(arguments, input=answers, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
