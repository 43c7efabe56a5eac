"""The tasks that the twin sets up and judges: instruction, objects, time limit; and why an episode failed.

Geometry and success rules are in `grids_sim.physics.scene` and `grids_sim.tasks.judge`, under the same names.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Task:
    """One task. moved, goal: names of objects in the scene. limit_s: simulated time after which an episode fails."""

    name: str
    instruction: str
    moved: str
    goal: str
    limit_s: float

    @property
    def objects(self) -> tuple[str, str]:
        """The names of the objects the task needs."""
        return self.moved, self.goal


_ALL = (
    Task("pick_place", "pick up the green cube and place it in the green bowl", "green_cube", "green_bowl", 18.0),
    Task("stack_cubes", "stack the green cube on the blue cube", "green_cube", "blue_cube", 18.0),
    Task("transfer_pen", "pick up the pen and put it in the cup", "pen", "cup", 20.0),
)
TASKS: dict[str, Task] = {task.name: task for task in _ALL}

# Why an episode failed. The first six: in lock-step evaluation, in the order in which they are tested. The last three:
# through the real-time ROS graph, where object poses are not known.
OUTCOMES = {
    "no_contact": "the jaws never held the object",
    "no_lift": "the object was gripped but not lifted",
    "not_settled": "the object reached its goal but was not released and at rest there for a second",
    "holding": "the time limit passed with the object still in the jaws",
    "misplaced": "the object was released near its goal, but not at it",
    "dropped": "the object was released far from its goal",
    "no_chunks": "the policy sent no action chunk",
    "arm_refused": "the driver refused every action chunk",
    "not_done": "the task was not done in time",
}
