"""`./grids figures`: the paper's figures from recorded runs."""
