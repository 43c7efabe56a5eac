"""Cameras, the sampled-coordinates overlay and its video, robot description and figures."""
