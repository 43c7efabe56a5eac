"""Episodes: recorded as bags, judged, converted to LeRobot datasets, replayed, and made by the scripted expert."""
