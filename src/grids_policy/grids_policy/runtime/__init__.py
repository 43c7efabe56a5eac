"""Runtimes behind one interface, ONNX on the robot and torch before an export, and the one preparation of their inputs."""
