"""Digital twin of the SO-100. Importing the package chooses an off-screen OpenGL backend before MuJoCo is loaded."""

from grids_sim.gl import choose_backend

choose_backend()
