"""`./grids check`: is an episode worth training on."""
