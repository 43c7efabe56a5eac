"""`./grids calibrate` and `./grids doctor`: calibrate and check an arm before its first run."""
