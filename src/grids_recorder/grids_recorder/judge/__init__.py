"""`./grids check`: judges whether an episode is good enough for training."""
