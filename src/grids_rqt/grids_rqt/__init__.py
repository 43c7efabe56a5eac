"""rqt plugin and stand-alone viewer: a pure view model, widgets that paint it, and the ROS or bag side feeding it."""
