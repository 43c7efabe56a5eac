"""The commands behind `./grids` that start a run, and the dispatcher of all others."""
