"""The driver and leader nodes, their messages and publishing thread."""
