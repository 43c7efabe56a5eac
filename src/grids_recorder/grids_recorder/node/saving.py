"""Saves a finished episode: closes the bag, then judges it or moves it aside. Runs in its own thread."""

import threading
import traceback
from dataclasses import dataclass
from pathlib import Path

from grids_data.bag.reader import DISCARDED
from grids_data.errors import DataError
from grids_recorder.judge.cli import check_bag
from grids_recorder.node.recording import Recording
from grids_recorder.node.session import DISCARD, REDO


@dataclass(frozen=True, slots=True)
class Saved:
    """A saved episode. `level`: OK, WARN or REJECT; `note`: the reason; `failed`: disk error, run `./grids recover`."""

    folder: Path | None
    level: str
    note: str
    failed: bool = False


def save(recording: Recording, outcome: str, changes: dict, closed: threading.Event, ending: threading.Event) -> Saved:
    """Close and judge an episode. A discarded one is moved aside, not deleted: a key may be pressed by mistake.

    closed: set when the bag is whole. ending: set when the node ends, which must not wait for a judgement: a long
    episode takes seconds, and `./grids check` and `convert` make up for it.
    """
    try:
        folder = recording.finish(**changes)
    finally:
        closed.set()
    if folder is None:
        return Saved(None, "REJECT", f"{recording.failure}; fix that, then run ./grids recover", failed=True)
    if outcome in (DISCARD, REDO):
        aside = folder.parent / DISCARDED
        aside.mkdir(exist_ok=True)
        return Saved(folder.rename(aside / folder.name), "REJECT", f"{outcome}: moved to {DISCARDED}/")
    if ending.is_set():
        return Saved(folder, "", f"{folder.name} is complete and not judged yet: ./grids check {folder}")
    try:
        verdict = check_bag(folder)
    except Exception as error:  # top of the thread: the episode is on disk even if judging fails
        known = isinstance(error, (DataError, OSError))
        text = str(error) if known else "".join(traceback.format_exception(error))
        return Saved(folder, "REJECT", f"could not be judged: {text}")
    return Saved(folder, verdict.level, verdict.reasons)
