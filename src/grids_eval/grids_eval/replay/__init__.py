"""`./grids replay`: a recorded episode through the arm or through a policy."""
