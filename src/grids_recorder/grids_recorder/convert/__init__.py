"""`./grids convert`: bags to a LeRobot dataset."""
