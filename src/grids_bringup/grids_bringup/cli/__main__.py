"""`python -m grids_bringup.cli`: what `./grids` runs."""

import signal
import sys

INTERRUPTED = 128 + signal.SIGINT

try:
    from grids_bringup.cli.commands import main

    code = main()
except KeyboardInterrupt:  # before the command could handle it: nothing has been started
    code = INTERRUPTED
signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C while the interpreter ends keeps the exit code
sys.exit(code)
