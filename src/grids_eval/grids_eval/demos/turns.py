"""A policy and the expert take turns within one demonstration (as in HG-DAgger, Kelly et al. 2019).

The data then contain the states that the policy reaches, and how the expert continues from them. Steps of the policy's
turns are no targets, not even relabelled by the expert: a chunk must be one continuous motion of the expert, and
relabelled steps are each chosen in another state.
"""

import numpy as np

from grids_common.so100 import JOINT_NAMES
from grids_eval.actors import AbstractActor, ActorObservation
from grids_eval.demos.config import DemoConfig
from grids_sim.physics.world import World


class Turns:
    """Decides who drives, and executes the policy's chunks, interpolated linearly between action steps.

    Raises ValueError when the policy's action step is not a multiple of the demonstration's.
    """

    def __init__(self, actor: AbstractActor, config: DemoConfig, rng: np.random.Generator, seed: int) -> None:
        self._actor, self._config, self._rng, self._seed = actor, config, rng, seed
        self._per_action = round(config.fps * actor.spec.dt_s)
        if abs(self._per_action - config.fps * actor.spec.dt_s) > 1e-6 or not self._per_action:
            raise ValueError(
                f"expected a policy whose action steps are multiples of {1 / config.fps:g} s apart, "
                f"got {actor.spec.dt_s:g} s"
            )
        self._chunk, self._inferred = np.zeros((0, len(JOINT_NAMES))), 0
        self.expert_drives = bool(rng.random() < 0.5)
        self._until = self._length()

    def _length(self) -> float:
        """The length of the next turn, in action steps."""
        config = self._config
        return config.fps * self._rng.uniform(*(config.expert_s if self.expert_drives else config.policy_s))

    def change(self, tick: int) -> bool:
        """Call once per action step; True when the driver changes at this step."""
        if tick < self._until:
            return False
        self.expert_drives = not self.expert_drives
        self._until = tick + self._length()
        self._chunk = self._chunk[:0]
        return True

    def action(self, tick: int, world: World, sentence: str) -> np.ndarray:
        """The policy's target (6,) in rad at this tick. Its images have the policy's size, not the dataset's."""
        if not len(self._chunk) or tick - self._inferred >= self._actor.spec.n_action_steps * self._per_action:
            spec, state = self._actor.spec, world.position_rad
            frames = tuple(world.render(camera, *hw) for camera, hw in zip(spec.cameras, spec.image_hw, strict=True))
            none = np.zeros((0, len(state)))
            seen = ActorObservation(frames, (True,) * len(frames), state, sentence, (self._seed << 16) + tick, none)
            self._chunk, self._inferred = self._actor.act(seen), tick
        step, part = divmod(tick - self._inferred, self._per_action)
        low, high = self._chunk[step], self._chunk[min(step + 1, len(self._chunk) - 1)]
        return low + part / self._per_action * (high - low)
