"""`./grids train`: data, loss and the run. torch, no ROS."""
