"""Replay of recorded commands through a running driver."""
