"""Runtimes with one interface (ONNX on the robot, torch before an export) and the preparation of their inputs."""
