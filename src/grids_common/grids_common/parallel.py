"""Independent jobs over processes: results as they come, nothing left running when the parent ends or is killed."""

import ctypes
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from grids_common.errors import GridsError

Job = TypeVar("Job")
Result = TypeVar("Result")
_PR_SET_PDEATHSIG = 1


def _begin(start: Callable[..., None] | None, arguments: tuple[object, ...]) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    # Ctrl-C reaches the whole terminal group; the parent decides what happens.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if start is not None:
        start(*arguments)


def run_jobs(
    work: Callable[[Job], Result],
    jobs: Sequence[Job],
    *,
    workers: int,
    start: Callable[..., None] | None = None,
    arguments: tuple[object, ...] = (),
) -> Iterator[Result]:
    """Yield `work(job)` in order of completion; one worker runs in this process. `start(*arguments)` runs once in each.

    The first exception ends it; jobs not begun are dropped.
    """
    workers = min(workers, len(jobs))
    if workers <= 1:
        if start is not None and jobs:
            start(*arguments)
        yield from map(work, jobs)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _begin, (start, arguments)) as pool:
        futures = [pool.submit(work, job) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise GridsError(
                "a worker process was ended from outside, perhaps for want of memory: run the same command to go on, "
                "with fewer --workers"
            ) from error
        finally:
            for future in futures:
                future.cancel()
