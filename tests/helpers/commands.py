"""`./grids` commands as a user runs them."""

import subprocess
import sys

TIMEOUT_S = 280.0  # below the limit of a test
PATIENCE_S = 1800.0  # where a test may take as long as it likes: tests/interop


def made(command: str, *words: object, answers: str = "", timeout_s: float = TIMEOUT_S) -> str:
    """What the command printed; it must succeed. `answers`: what is typed into its questions."""
    arguments = [sys.executable, "-m", "grids_bringup.cli", command, *map(str, words)]
    done = subprocess.run(arguments, input=answers, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
