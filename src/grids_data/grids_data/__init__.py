"""Units, calibration, LeRobot datasets and rosbags: what recorded numbers mean and where they are kept."""
