"""The nodes of a run: how they are launched, monitored and summarised; and the command line behind `./grids`."""
