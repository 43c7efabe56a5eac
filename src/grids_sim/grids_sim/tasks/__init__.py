"""Tasks of the simulation: initial layouts, success rules, out-of-distribution scenarios."""
