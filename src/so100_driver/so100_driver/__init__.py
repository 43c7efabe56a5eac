"""SO-100 driver: Feetech bus, safety limits, chunk execution, leader, calibration and checks."""
