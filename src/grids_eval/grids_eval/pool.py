"""Episodes spread over processes: each loads the policy once, takes the next episode, sends back the result.

Results do not depend on the number of processes: an episode's randomness comes from its own config only.
"""

import multiprocessing
import os
import queue
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from grids_common.errors import GridsError
from grids_eval.rollout import EpisodeConfig, EpisodeResult
from grids_sim.gl import choose_backend

_SILENCE_S = 300.0


class EvaluationError(GridsError):
    """A worker failed; the text holds its message, or its traceback where nobody expected it."""


def _work(folder: str, options: dict, nice: int, jobs, results) -> None:
    """Worker process. Every error ends the whole evaluation: a missing episode would bias the result."""
    os.nice(nice)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    choose_backend()
    try:
        from grids_eval.actors import load_actor
        from grids_eval.rollout import Rollouts

        rollouts = Rollouts(load_actor(Path(folder), threads=1, **options))
        while (job := jobs.get()) is not None:
            number, config = job
            results.put((number, rollouts.run(config), ""))
    except GridsError as error:
        results.put((-1, None, str(error)))
    except Exception:  # handed to the parent, who raises it
        results.put((-1, None, traceback.format_exc()))


def evaluate(
    folder: Path,
    episodes: Sequence[EpisodeConfig],
    options: dict[str, object],
    *,
    processes: int = 2,
    nice: int = 0,
    say: Callable[[int, int, EpisodeResult], None] | None = None,
) -> list[EpisodeResult]:
    """Results in the order of `episodes`; `options` as load_actor takes them. Raises EvaluationError.

    `say(done, total, result)` is called after each.
    """
    context = multiprocessing.get_context("spawn")
    jobs, results = context.Queue(), context.Queue()
    count = max(1, min(processes, len(episodes)))
    for job in enumerate(episodes):
        jobs.put(job)
    for _ in range(count):
        jobs.put(None)
    workers = [
        context.Process(target=_work, args=(str(folder), options, nice, jobs, results), daemon=True)
        for _ in range(count)
    ]
    for worker in workers:
        worker.start()
    try:
        return _collect(results, workers, len(episodes), say)
    finally:
        for worker in workers:
            if worker.is_alive():
                worker.terminate()
            worker.join()


def _collect(results, workers, total: int, say) -> list[EpisodeResult]:
    found: dict[int, EpisodeResult] = {}
    last = time.monotonic()
    while len(found) < total:
        try:
            number, result, problem = results.get(timeout=1.0)
        except queue.Empty:
            dead = [w.exitcode for w in workers if w.exitcode not in (None, 0)]
            if dead:
                raise EvaluationError(f"a worker ended with exit code {dead[0]}, without a message") from None
            if time.monotonic() - last > _SILENCE_S:
                raise EvaluationError(f"no episode finished for {_SILENCE_S:.0f} s") from None
            continue
        if problem:
            raise EvaluationError(problem)
        last = time.monotonic()
        found[number] = result
        if say is not None:
            say(len(found), total, result)
    return [found[i] for i in range(total)]
