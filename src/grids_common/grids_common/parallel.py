"""Independent jobs in several worker processes. The workers end with the parent, even if the parent is killed."""

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
    # Ctrl-C sends SIGINT to every process of the terminal; the parent alone handles it.
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
    """Yield `work(job)` in order of completion. `start(*arguments)` runs once in each worker before its first job.

    With one worker the jobs run in this process. The first exception is raised and cancels the jobs not yet started.
    Raises GridsError if a worker process is killed.
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
                "a worker process was killed, perhaps because memory ran out: run the same command again to continue, "
                "with fewer --workers"
            ) from error
        finally:
            for future in futures:
                future.cancel()
