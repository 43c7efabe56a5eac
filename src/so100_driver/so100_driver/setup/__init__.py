"""`./grids calibrate` and `./grids doctor`: an arm before its first run."""
