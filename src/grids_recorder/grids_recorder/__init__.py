"""Episodes: recorded as bags, judged, converted to LeRobot datasets, and replayed."""
