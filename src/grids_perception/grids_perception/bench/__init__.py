"""`./grids bench graph`: ages of camera images, lost images, CPU time per process."""
