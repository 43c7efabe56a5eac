"""Runs episodes in several processes. Each loads the policy once, then takes the next episode and returns its result.

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

_NO_RESULT_S = 300.0  # without any finished episode for this long, a worker is taken for stuck


class EvaluationError(GridsError):
    """A worker or a run failed. The text is its message, or the traceback of an unexpected exception."""


def _work(folder: str, options: dict, nice: int, jobs, results) -> None:
    """Worker process. Every error ends the whole evaluation: a missing episode would bias the result."""
    os.nice(nice)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    choose_backend()
    try:
        from grids_eval.actors import load_actor
        from grids_eval.rollout import Rollouts

        try:
            actor = load_actor(Path(folder), threads=1, **options)
        except (ValueError, OSError) as error:  # of the files in `folder`
            raise EvaluationError(str(error)) from error
        rollouts = Rollouts(actor)
        while (job := jobs.get()) is not None:
            number, config = job
            results.put((number, rollouts.run(config), ""))
    except GridsError as error:
        results.put((-1, None, str(error)))
    except Exception:  # sent to the parent process, which raises it
        results.put((-1, None, traceback.format_exc()))


def evaluate(
    folder: Path,
    episodes: Sequence[EpisodeConfig],
    options: dict[str, object],
    *,
    processes: int = 2,
    nice: int = 0,
    report: Callable[[int, int, EpisodeResult], None] | None = None,
) -> list[EpisodeResult]:
    """Run the episodes in worker processes and return their results in the same order.

    options: keyword arguments of `load_actor`. nice: added to the workers' niceness. `report(done, total, result)` is
    called in this process after each episode. Raises EvaluationError when a worker fails or none returns a result for
    300 s.
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
        return _collect(results, workers, len(episodes), report)
    finally:
        for worker in workers:
            if worker.is_alive():
                worker.terminate()
            worker.join()


def _collect(results, workers, total: int, report) -> list[EpisodeResult]:
    found: dict[int, EpisodeResult] = {}
    last = time.monotonic()
    while len(found) < total:
        try:
            number, result, problem = results.get(timeout=1.0)
        except queue.Empty:
            dead = [w.exitcode for w in workers if w.exitcode not in (None, 0)]
            if dead:
                raise EvaluationError(f"a worker ended with exit code {dead[0]} and sent no message") from None
            if time.monotonic() - last > _NO_RESULT_S:
                raise EvaluationError(f"no episode finished for {_NO_RESULT_S:.0f} s") from None
            continue
        if problem:
            raise EvaluationError(problem)
        last = time.monotonic()
        found[number] = result
        if report is not None:
            report(len(found), total, result)
    return [found[i] for i in range(total)]
