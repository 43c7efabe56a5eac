"""`python -m grids_bringup.cli`: what `./grids` runs."""

import sys

from grids_bringup.cli.commands import main

sys.exit(main())
