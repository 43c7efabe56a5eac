"""The scripted expert as teleoperator: it plans from the scene and the follower, and gives targets for the leader arm.

Some plans take tens of milliseconds, so planning has its own thread; the physics thread reads the newest target.
"""

import threading
import time

import numpy as np

from grids_common.pacing import Pacer
from grids_sim.expert.expert import ScriptedExpert

DECISIONS_HZ = 30.0


class ExpertTarget:
    """Target pose of a `LeaderHand`. Starts a new expert at each scene reset; `close` ends the planning thread."""

    def __init__(self, truth, follower_rad) -> None:
        """`truth()` returns the newest Truth, `follower_rad()` the follower's measured angles (6,); any thread."""
        self._truth, self._follower_rad = truth, follower_rad
        self._target: np.ndarray | None = None
        self._stopping = threading.Event()
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="operator", daemon=True)
        self._thread.start()

    def __call__(self, now_s: float) -> np.ndarray | None:
        """Newest target (6,) rad, None before the first one. RuntimeError when the planning thread has failed."""
        if self.failure is not None:
            raise RuntimeError("the operator's thread ended") from self.failure
        return self._target

    def close(self) -> None:
        """Stop the planning thread; waits at most 2 s."""
        self._stopping.set()
        self._thread.join(timeout=2.0)

    def _run(self) -> None:
        try:
            self._loop()
        except Exception as error:  # the thread's top: raised again by __call__
            self.failure = error

    def _loop(self) -> None:
        pacer, expert, scene = Pacer(DECISIONS_HZ), None, None
        while not self._stopping.is_set():
            pacer.wait()
            truth = self._truth()
            if (truth.task, truth.seed, truth.episode) != scene:
                scene = (truth.task, truth.seed, truth.episode)
                expert = ScriptedExpert(truth.task, truth.seed)
            self._target = expert.action(truth, self._follower_rad(), time.monotonic())
