"""The twin running in real time without ROS: physics thread, serial lines, faults, shared state."""
