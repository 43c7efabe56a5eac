"""The `./grids` commands that start a run, and the dispatcher of all commands."""
