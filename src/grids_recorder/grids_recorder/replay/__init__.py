"""Recorded commands through a running driver."""
