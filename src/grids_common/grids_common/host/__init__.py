"""What a node needs of the computer it runs on: scheduling, ROS middleware, names of robots that share it."""
