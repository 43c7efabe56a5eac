"""Camera nodes: RealSense, webcams and video files behind one source interface."""
