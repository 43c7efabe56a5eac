"""The scripted expert as the person at the leader arm: it watches the scene and the follower, and says where to go.

Planning takes tens of milliseconds now and then, so it runs in a thread of its own; the hand reads the newest target.
"""

import threading
import time

import numpy as np

from grids_common.pacing import Pacer
from grids_sim.expert.expert import Expert

DECISIONS_HZ = 30.0


class ExpertTarget:
    """Callable for `Hand`: the pose wanted now. Follows resets of the scene by itself. `close` ends its thread."""

    def __init__(self, truth, follower_rad) -> None:
        """`truth()` gives the newest Truth, `follower_rad()` the follower's measured angles (6,)."""
        self._truth, self._follower_rad = truth, follower_rad
        self._target: np.ndarray | None = None
        self._stopping = threading.Event()
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="operator", daemon=True)
        self._thread.start()

    def __call__(self, now_s: float) -> np.ndarray | None:
        if self.failure is not None:
            raise RuntimeError("the operator's thread ended") from self.failure
        return self._target

    def close(self) -> None:
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
                expert = Expert(truth.task, truth.seed)
            self._target = expert.action(truth, self._follower_rad(), time.monotonic())
