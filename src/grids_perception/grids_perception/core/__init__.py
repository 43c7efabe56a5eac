"""Pure functions on frozen data: no ROS, no threads, no clock."""
