"""pi0 and pi0.5: the network, and LeRobot's checkpoints of it."""
