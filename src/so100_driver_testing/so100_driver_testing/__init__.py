"""A driver process on a twin process, the fault campaign, its promises and the driver bench."""
