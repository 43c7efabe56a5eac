"""Runs before torch is imported: small models need one thread, and spinning threads starve others."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OMP_NUM_THREADS", "1")
