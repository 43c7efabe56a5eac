"""`./grids bench record`: messages lost, CPU, write latency, crash recovery."""
