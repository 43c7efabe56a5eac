"""Domain randomisation (Tobin et al. 2017, "Domain randomization for transferring deep neural networks")."""

import numpy as np

from grids_eval.demos.config import DemoConfig
from grids_sim.physics.appearance import draw_appearance, standard_appearance
from grids_sim.physics.world import World


class AppearanceRandomiser:
    """Changes a world's appearance between images. Its own random generator leaves the motion unchanged."""

    def __init__(self, world: World, config: DemoConfig, seed: int) -> None:
        self._world, self._config, self._rng = world, config, np.random.default_rng([seed, 78])
        self._left = 0

    def before_image(self) -> None:
        """Call before each rendered image; sets a new appearance after a random number of images."""
        if not self._config.varied_share:
            return
        if not self._left:
            varied = self._rng.random() < self._config.varied_share
            scene = self._world.scene
            self._world.set_appearance(draw_appearance(scene, self._rng) if varied else standard_appearance(scene))
            self._left = self._rng.geometric(1 / self._config.images_per_look)
        self._left -= 1
