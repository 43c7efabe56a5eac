"""The lock-step evaluation executes the driver's seam: same chunks at the same instants, same targets."""

from dataclasses import replace

import numpy as np
import pytest

from grids_common.chunk import BLEND_S, Chunk
from grids_common.so100 import HOME_POSE_RAD, JOINT_NAMES
from grids_eval.executor import DRIVER_HZ, Executor, control_steps
from so100_driver.guard.arm import Arm
from so100_driver.guard.intake import Request
from so100_driver.guard.state import ArmState
from so100_driver.params import DriverParams

PERIOD_NS = 10**9 // DRIVER_HZ
DT_S = 0.1
HOME = np.array(HOME_POSE_RAD)


def chunks(delay: int) -> dict[int, Chunk]:
    """Control step: the chunk that arrives before it. Slow enough for every limit, each off the last one's course."""
    random, found, start = np.random.default_rng(4), {}, HOME
    for number, asked in enumerate((0, 45, 90, 137)):
        course = start + np.cumsum(random.uniform(-0.02, 0.02, (20, 6)), axis=0)
        found[asked + delay + 1] = Chunk(asked * PERIOD_NS, DT_S, course, sequence=number + 1)
        start = course[5] + random.uniform(-0.02, 0.02, 6)
    return found


def seen(now_ns: int, position: np.ndarray) -> ArmState:
    """Six healthy servos that are where they were told to be."""
    healthy = {"valid": np.ones(6, bool), "seen_ns": np.full(6, now_ns), "temperature": np.full(6, 30.0)}
    return replace(ArmState.unknown(6), stamp_ns=now_ns, position=position, voltage=np.full(6, 12.0), **healthy)


def driver_targets(arriving: dict[int, Chunk], count: int, **parameters: float) -> np.ndarray:
    """Goals (count, 6) that an armed driver sends. The start ramp is open; the limits are the default ones."""
    velocity = DriverParams().velocity_limit
    arm = Arm(DriverParams(ramp_velocity=velocity, **parameters), np.full(6, -3.0), np.full(6, 3.0))
    begin = 10**9  # another clock than the evaluation's
    arm.observe(begin, seen(begin, HOME))
    arm.activate(begin - PERIOD_NS, np.full(6, np.nan), "policy")
    arm.tick(begin, 1 / DRIVER_HZ)
    goals = []
    for number in range(1, count + 1):
        now_ns = begin + number * PERIOD_NS
        if (chunk := arriving.get(number)) is not None:
            positions = chunk.positions_rad
            request = Request(
                JOINT_NAMES, DT_S, len(positions), positions.ravel(), begin + chunk.start_ns, chunk.sequence, 0
            )
            assert arm.offer(now_ns - PERIOD_NS // 2, request) == ""
        goals.append(arm.tick(now_ns, 1 / DRIVER_HZ).goal)
        arm.observe(now_ns, seen(now_ns, goals[-1]))
    return np.array(goals)


def executor_targets(arriving: dict[int, Chunk], count: int, executor: Executor) -> np.ndarray:
    """Targets (count, 6) of the evaluation at the same instants."""
    targets = []
    for number in range(1, count + 1):
        if number in arriving:
            executor.take(arriving[number])
        targets.append(executor.advance(number * PERIOD_NS))
    return np.array(targets)


@pytest.mark.parametrize("delay", [0, 8, 20])
def test_the_evaluation_gives_the_targets_that_the_driver_gives(delay: int) -> None:
    arriving = chunks(delay)
    driver = driver_targets(arriving, 260)
    np.testing.assert_allclose(executor_targets(arriving, 260, Executor(HOME, "blend")), driver, atol=1e-6)
    assert np.abs(np.diff(driver, axis=0)).max() > 1e-3, "the arm moved"


def test_another_blend_time_gives_other_targets() -> None:
    """So the comparison above is able to fail, and the driver's default is the evaluation's."""
    assert DriverParams().blend_time == BLEND_S
    arriving = chunks(0)
    other = driver_targets(arriving, 260, blend_time=0.4)
    targets = executor_targets(arriving, 260, Executor(HOME, "blend"))
    assert np.abs(targets - other).max() > 1e-3


def test_naive_switching_jumps_to_the_new_chunk_and_holds_its_last_step() -> None:
    executor = Executor(np.zeros(6), "naive")
    assert executor.chunk is None
    assert not executor.advance(PERIOD_NS).any()
    executor.take(Chunk(0, DT_S, np.arange(8.0)[:, None] * np.ones(6)))
    assert executor.advance(2 * PERIOD_NS) == pytest.approx(np.full(6, 0.2))
    assert executor.advance(10**9) == pytest.approx(np.full(6, 7.0))


def test_a_blended_chunk_is_left_and_reached_without_a_step() -> None:
    executor = Executor(np.zeros(6), "blend")
    executor.take(Chunk(0, DT_S, np.full((8, 6), 1.0)))
    targets = np.array([executor.advance(n * PERIOD_NS)[0] for n in range(1, 31)])
    assert np.abs(np.diff(targets, prepend=0.0)).max() < 0.1
    assert targets[round(BLEND_S * DRIVER_HZ) - 1 :] == pytest.approx(1.0)


@pytest.mark.parametrize(("policy_hz", "steps"), [(10, 10), (20, 5), (30, 2), (50, 2), (60, 1), (100, 1), (150, 1)])
def test_control_steps_fit_the_physics_and_stay_at_most_as_fast_as_the_driver(policy_hz: int, steps: int) -> None:
    assert control_steps(policy_hz, 300) == steps
    assert DriverParams().rate_hz == DRIVER_HZ
