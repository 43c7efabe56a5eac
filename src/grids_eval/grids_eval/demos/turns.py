"""A policy and the expert take turns within one demonstration (as in HG-DAgger, Kelly et al. 2019).

The states a policy gets itself into are in the data, with the way out of them. Steps of the policy's turns could not be
targets even with the expert's opinion of each: a chunk is what the expert goes on to do, not a list of opinions.
"""

import numpy as np

from grids_common.so100 import JOINT_NAMES
from grids_eval.actors import AbstractActor, Seen
from grids_eval.demos.config import DemoConfig
from grids_sim.physics.world import World


class Turns:
    """Who drives when, and a policy's chunks as evaluation would execute them, a straight line from step to step.

    Raises ValueError where the policy's action steps are no multiple of the demonstration's.
    """

    def __init__(self, actor: AbstractActor, config: DemoConfig, rng: np.random.Generator, seed: int) -> None:
        self._actor, self._config, self._rng, self._seed = actor, config, rng, seed
        self._per_action = round(config.fps * actor.spec.dt_s)
        if abs(self._per_action - config.fps * actor.spec.dt_s) > 1e-6 or not self._per_action:
            raise ValueError(
                f"expected a policy whose action steps are multiples of {1 / config.fps:g} s apart, "
                f"got {actor.spec.dt_s:g} s"
            )
        self._chunk, self._asked = np.zeros((0, len(JOINT_NAMES))), 0
        self.expert_drives = bool(rng.random() < 0.5)
        self._until = self._length()

    def _length(self) -> float:
        """Of a turn, in action steps."""
        config = self._config
        return config.fps * self._rng.uniform(*(config.expert_s if self.expert_drives else config.policy_s))

    def change(self, tick: int) -> bool:
        """Call once per action step; True when somebody else drives from here on."""
        if tick < self._until:
            return False
        self.expert_drives = not self.expert_drives
        self._until = tick + self._length()
        self._chunk = self._chunk[:0]
        return True

    def action(self, tick: int, world: World, sentence: str) -> np.ndarray:
        """The policy's target for now, (6,). It sees images of its own size, which may not be the demonstration's."""
        if not len(self._chunk) or tick - self._asked >= self._actor.spec.n_action_steps * self._per_action:
            spec, state = self._actor.spec, world.position_rad
            frames = tuple(world.render(camera, *hw) for camera, hw in zip(spec.cameras, spec.image_hw, strict=True))
            none = np.zeros((0, len(state)))
            seen = Seen(frames, (True,) * len(frames), state, sentence, (self._seed << 16) + tick, none)
            self._chunk, self._asked = self._actor.act(seen), tick
        row, part = divmod(tick - self._asked, self._per_action)
        low, high = self._chunk[row], self._chunk[min(row + 1, len(self._chunk) - 1)]
        return low + part / self._per_action * (high - low)
