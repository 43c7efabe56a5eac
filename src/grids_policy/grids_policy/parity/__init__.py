"""`./grids parity`: a checkpoint or its exported graphs against reference numbers."""
