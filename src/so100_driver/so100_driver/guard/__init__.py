"""What decides the next goal: limits, chunks, teleop, health. Pure: no I/O, no clock, no ROS."""
