"""Digital twin of the SO-100. Importing the package picks an off-screen OpenGL before MuJoCo loads one."""

from grids_sim.gl import choose_backend

choose_backend()
