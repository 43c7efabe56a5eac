"""Shared by all packages: topics, services, QoS, parameters, lifecycle base class, pacing, action chunks, the arm."""
