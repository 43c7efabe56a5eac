"""Demonstrations of the scripted expert in lock-step: as a LeRobot dataset or as training frames."""
