"""`./grids bench policy`: inference time per stage and floating point operations."""
