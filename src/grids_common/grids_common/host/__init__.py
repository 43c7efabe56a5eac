"""What a node needs of the computer it runs on: scheduling, ROS middleware."""
