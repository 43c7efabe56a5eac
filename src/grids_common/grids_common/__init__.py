"""Shared by every node: topic table, QoS names, parameter schema, lifecycle base, pacing. At most 400 lines."""
