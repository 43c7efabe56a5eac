"""The viewer, as rqt plugin and alone: a view model, Qt widgets that paint it, and feeds from ROS or bags."""
