"""Runs before any test module: MuJoCo reads MUJOCO_GL once, when it is first imported."""

from grids_sim.gl import choose_backend

choose_backend()
