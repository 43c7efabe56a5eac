"""Camera nodes, the overlay of sample locations and its video, the robot description, the paper's figures."""
