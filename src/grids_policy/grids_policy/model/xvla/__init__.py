"""X-VLA (arXiv 2510.10274), LeRobot's `xvla`: Florence-2's vision and encoder, action transformer with soft prompts."""
