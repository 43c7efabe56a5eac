"""Runs one episode of a suite: look, infer, execute action steps, until the task is done or its steps are used up."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from grids_eval.actors import AbstractActor, ActorObservation, ActorSpec
from grids_eval.suites.catalogue import SuiteError
from grids_eval.suites.interface import TaskDescription
from grids_eval.suites.session import SuiteWorker

Watch = Callable[[tuple[np.ndarray, ...], AbstractActor], None]


@dataclass(frozen=True, slots=True)
class SuiteResult:
    """The result of one episode.

    steps: control steps until success or the end; time_s: the same in simulated seconds. jerk: RMS over the arm, in
    the suite's unit. retention: mean of the retention maps, 0 to 1. coordinate_spread: mean standard deviation of the
    sample coordinates over the episode, in fractions of the image; both are 0 for an expert, which samples nothing.
    """

    task: str
    seed: int
    success: bool
    steps: int
    time_s: float
    jerk: float
    n_action_steps: int  # action steps executed between two inferences
    inferences: int
    retention: float
    coordinate_spread: float


@dataclass(frozen=True, slots=True)
class Fit:
    """How a policy fits a task. cameras: the suite's camera for each of the policy's; per_step: control steps each."""

    cameras: tuple[str, ...]
    per_step: int
    executed: int  # action steps of a chunk that are executed before the next inference


def fit(spec: ActorSpec, task: TaskDescription, camera_map: dict[str, str], replan: int) -> Fit:
    """How a policy fits a task. replan 0: the policy's own n_action_steps. Raises SuiteError, naming what differs."""
    if spec.joints != task.action:
        raise SuiteError(
            f"actions: {task.suite} has {len(task.action)} numbers ({', '.join(task.action)}), the policy's actions "
            f"have {len(spec.joints)} ({', '.join(spec.joints)})"
        )
    chosen = [camera_map.get(name, name) for name in spec.cameras]
    for own, name in zip(spec.cameras, chosen, strict=True):
        if name not in task.cameras:
            raise SuiteError(
                f"cameras: the policy's {own!r} would be {task.suite}'s {name!r}, which has {', '.join(task.cameras)}: "
                f"give --camera-map {own}={next(iter(task.cameras))} if it is that one"
            )
    if unknown := sorted(set(camera_map) - set(spec.cameras)):
        raise SuiteError(f"--camera-map: the policy has the cameras {', '.join(spec.cameras)}, got {unknown[0]!r}")
    per_step = task.control_hz * spec.dt_s
    if abs(per_step - round(per_step)) > 1e-3 or round(per_step) < 1:
        raise SuiteError(
            f"rate: {task.suite} has {task.control_hz} steps per second, which the policy's {1 / spec.dt_s:g} action "
            "steps per second do not divide; give --fps for a checkpoint that states no rate"
        )
    executed = replan or spec.n_action_steps
    if not 1 <= executed <= spec.chunk_size:
        raise SuiteError(f"--replan: expected 1 to {spec.chunk_size}, the policy's chunk, got {executed}")
    return Fit(tuple(chosen), round(per_step), executed)


def commands_of(chunk: np.ndarray, fitted: Fit, *, interpolated: bool) -> np.ndarray:
    """(executed * per_step, A) commands, one per control step, from a chunk (S, A).

    Action step i belongs to control step i * per_step after the observation; between two of them the commands are
    interpolated where that has a meaning, else repeated.
    """
    step, part = np.divmod(np.arange(fitted.executed * fitted.per_step), fitted.per_step)
    if not interpolated:
        return chunk[step]
    after = chunk[np.minimum(step + 1, len(chunk) - 1)]
    return chunk[step] + (part / fitted.per_step)[:, None] * (after - chunk[step])


def run_episode(
    worker: SuiteWorker,
    actor: AbstractActor,
    task: TaskDescription,
    seed: int,
    fitted: Fit,
    *,
    watch: Watch | None = None,
) -> SuiteResult:
    """Run the episode of `seed`. The task must be open. `watch(frames, actor)` is called after each inference."""
    spec, state = actor.spec, worker.reset(seed)
    actor.begin()
    sizes = dict(zip(fitted.cameras, spec.image_hw, strict=True))
    nothing = np.zeros((0, len(task.action)))
    path, coordinates, retention, success = [state], [], [], False
    while not success and len(path) - 1 < task.max_steps:
        tick = len(path) - 1
        images, _ = worker.look(sizes)
        frames = tuple(images[name] for name in fitted.cameras)
        chunk = actor.act(
            ActorObservation(frames, (True,) * len(frames), state, task.instruction, (seed << 16) + tick, nothing)
        )
        where, kept = actor.sampled()
        coordinates.append(where)
        retention.append(float(kept.mean()))
        if watch is not None:
            watch(frames, actor)
        commands = commands_of(chunk, fitted, interpolated=task.interpolated)
        states, success = worker.step(commands[: task.max_steps - tick])
        path.extend(states)
        state = path[-1]
    steps, spread = len(path) - 1, np.mean(np.std(np.stack(coordinates), axis=0))
    return SuiteResult(
        task.task, seed, success, steps, steps / task.control_hz,
        jerk_of(np.stack(path)[:, list(task.arm)], 1 / task.control_hz),
        fitted.executed, len(retention), float(np.mean(retention)), float(spread),
    )  # fmt: skip


def run_expert(worker: SuiteWorker, task: TaskDescription, seed: int) -> SuiteResult:
    """Run the episode of `seed` by the suite's scripted expert, as `run_episode` does by a policy."""
    path, success = [worker.reset(seed)], False
    while not success and len(path) - 1 < task.max_steps:
        states, success = worker.step(worker.expert_action()[None])
        path.extend(states)
    steps = len(path) - 1
    jerk = jerk_of(np.stack(path)[:, list(task.arm)], 1 / task.control_hz)
    return SuiteResult(task.task, seed, success, steps, steps / task.control_hz, jerk, 1, 0, 0.0, 0.0)


def jerk_of(path: np.ndarray, dt_s: float) -> float:
    """RMS of the third differences of positions (T, n) measured every dt_s, over dt_s³; 0 for fewer than four."""
    if len(path) < 4:
        return 0.0
    return float(np.sqrt(np.mean((np.diff(path, n=3, axis=0) / dt_s**3) ** 2)))
