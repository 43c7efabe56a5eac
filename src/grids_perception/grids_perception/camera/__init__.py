"""The camera node; its sources: RealSense, V4L2 webcams, video files."""
