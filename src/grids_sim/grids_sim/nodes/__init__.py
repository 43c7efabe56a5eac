"""The ROS side of the twin: twin, cameras, scripted expert."""
