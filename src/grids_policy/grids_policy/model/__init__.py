"""The network: SmolVLA, token samplers, normalisation, and LeRobot checkpoints. torch, no ROS."""
