"""The simulator's side of the table of tasks."""

import pytest

from grids_common.tasks import TASKS
from grids_sim.physics.objects import STANDARD_OBJECTS
from grids_sim.tasks.judge import RULES, SYMMETRY


@pytest.mark.parametrize("table", [RULES, SYMMETRY], ids=["rules", "symmetry"])
def test_rules_and_geometry_are_kept_for_exactly_the_tasks_of_the_table(table: dict) -> None:
    assert list(table) == list(TASKS)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_the_objects_of_a_task_exist_and_are_named_in_its_instruction(task) -> None:
    for name in task.objects:
        assert name in STANDARD_OBJECTS
        assert name.replace("_", " ") in task.instruction
