"""`./grids bench graph`: ages and losses of camera images, CPU per process."""
