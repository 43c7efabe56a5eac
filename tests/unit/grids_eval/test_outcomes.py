"""Every way in which an episode can fail has a word of the table, and every word is used."""

from types import SimpleNamespace

import numpy as np

from grids_common.tasks import OUTCOMES, TASKS
from grids_eval.rollout import _History, failure_of
from grids_eval.through_ros import failure_of_run


def ended(held: str | None, apart_m: float) -> SimpleNamespace:
    """The twin at the end of a failed pick_place, the object `apart_m` from its goal."""
    moved, goal = TASKS["pick_place"].objects
    objects = {
        moved: SimpleNamespace(position_m=np.array([apart_m, 0.0, 0.0])),
        goal: SimpleNamespace(position_m=np.zeros(3)),
    }
    return SimpleNamespace(task="pick_place", success=False, held=held, objects=objects)


def history(*happened: str) -> _History:
    return _History({}, **dict.fromkeys(happened, True))


def test_every_failure_has_a_word_with_an_explanation_and_no_word_is_left_over() -> None:
    gripped, carried = history("touched"), history("touched", "lifted")
    found = [
        failure_of(history(), ended(None, 0.2)),
        failure_of(gripped, ended(None, 0.2)),
        failure_of(history("touched", "lifted", "settled"), ended(None, 0.0)),
        failure_of(carried, ended("green_cube", 0.0)),
        failure_of(carried, ended(None, 0.05)),
        failure_of(carried, ended(None, 0.2)),
        failure_of_run({"success": False, "chunks": 0}),
        failure_of_run({"success": False, "chunks": 9, "driver": {"chunks_refused": 9}}),
        failure_of_run({"success": False, "chunks": 9, "driver": {"chunks_accepted": 9}}),
    ]
    assert found == list(OUTCOMES)
