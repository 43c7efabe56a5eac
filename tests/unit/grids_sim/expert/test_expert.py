"""The scripted expert in lock-step: it does the tasks, recovers from failures, and its chunks match their times."""

import numpy as np
import pytest

from grids_common.so100 import JOINT_LIMITS_RAD, REST_POSE_RAD
from grids_common.tasks import TASKS
from grids_sim.expert.expert import ScriptedExpert, ScriptedExpertConfig
from grids_sim.physics.lockstep import ON, LockstepEnv
from grids_sim.physics.world import World, WorldConfig

LIMIT_S = 15.0


@pytest.fixture(scope="module")
def worlds():
    built = {task: World(WorldConfig(task)) for task in TASKS}
    yield built
    for world in built.values():
        world.close()


def _episode(world, seed, expert, *, until_s=LIMIT_S, disturb=None):
    env = LockstepEnv(world)
    env.reset(seed)
    while world.time_s < until_s and not world.success():
        if disturb is not None:
            disturb(world)
        env.step(expert.action(world.truth(), world.position_rad, world.time_s))
    return world.truth()


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("seed", [11, 12])
def test_expert_does_the_task(worlds, task, seed):
    expert = ScriptedExpert(task, seed)
    truth = _episode(worlds[task], seed, expert)
    assert truth.success
    assert truth.held is None
    assert expert.attempts == 1
    assert 4.0 < truth.success_time_s < 12.0


@pytest.mark.parametrize("task", TASKS)
def test_expert_does_the_task_from_rest_with_late_chunks(worlds, task):
    """Chunks at 4 Hz that take effect 0.2 s after the observation, executed by time."""
    world, expert, latency_s = worlds[task], ScriptedExpert(task, 3), 0.2
    world.reset(3, arm_rad=np.array(REST_POSE_RAD))
    queue, active, next_s = [], None, 0.0
    setpoint = np.array(REST_POSE_RAD)
    while world.time_s < LIMIT_S and not world.success():
        now_s = world.time_s
        if now_s >= next_s:
            steps, dt_s = expert.chunk(world.truth(), world.position_rad, now_s)
            queue.append((now_s, steps))
            next_s = now_s + 0.25
        while queue and queue[0][0] + latency_s <= now_s:
            active = queue.pop(0)
        if active is not None:
            index = np.clip((now_s - active[0]) / dt_s, 0, len(active[1]) - 1)
            target = np.array([np.interp(index, np.arange(len(active[1])), column) for column in active[1].T])
            setpoint = setpoint + np.clip(target - setpoint, -0.0133, 0.0133)  # 4 rad/s
        world.step(setpoint, world.rated_torque_nm, ON)
    assert world.success()


def test_a_missed_first_grasp_is_detected_and_repeated(worlds):
    for seed in (20, 21, 22):
        expert = ScriptedExpert("pick_place", seed, ScriptedExpertConfig(miss_share=1.0))
        truth = _episode(worlds["pick_place"], seed, expert)
        assert truth.success
        assert expert.attempts > 1


def test_a_cube_moved_during_the_approach_is_followed(worlds):
    world, moved = worlds["pick_place"], []

    def push(world):
        if world.time_s > 0.8 and not moved:
            start = world.model.joint("green_cube").qposadr[0]
            world.data.qpos[start + 1] += 0.03
            moved.append(world.time_s)

    expert = ScriptedExpert("pick_place", 8)
    assert _episode(world, 8, expert, disturb=push).success
    assert moved


def test_a_cube_knocked_out_of_the_gripper_is_picked_up_again(worlds):
    world, dropped = worlds["stack_cubes"], []

    def knock(world):
        truth = world.truth()
        if not dropped and expert.phase == "carry" and truth.objects["green_cube"].position_m[2] > 0.07:
            start = world.model.joint("green_cube").qposadr[0]
            world.data.qpos[start : start + 3] = (
                0.24,
                0.02 if truth.objects["blue_cube"].position_m[1] < 0 else -0.12,
                0.016,
            )
            world.data.qvel[:] = 0
            dropped.append(world.time_s)

    expert = ScriptedExpert("stack_cubes", 30)
    assert _episode(world, 30, expert, until_s=20.0, disturb=knock).success
    assert dropped
    assert expert.attempts > 1


def test_without_friction_on_the_jaws_nothing_is_lifted():
    """Control experiment: gripper torque is limited, so lifting needs friction on the pads."""
    world = World(WorldConfig("pick_place"))
    jaws = np.flatnonzero(world._jaw_of_geom)
    world.model.geom_friction[jaws] = (0.004, 1e-5, 1e-6)
    world.model.geom_priority[jaws] = 1
    truth = _episode(world, 11, ScriptedExpert("pick_place", 11), until_s=4.5)
    assert truth.objects["green_cube"].position_m[2] < 0.03


def test_the_steps_of_a_chunk_are_the_actions_of_their_times(worlds):
    world = worlds["pick_place"]
    config = ScriptedExpertConfig(chunk_size=20, dt_s=1 / 30)
    env = LockstepEnv(world)
    env.reset(2)
    planner, follower = ScriptedExpert("pick_place", 2, config), ScriptedExpert("pick_place", 2, config)
    steps, dt_s = planner.chunk(world.truth(), world.position_rad, 0.0)
    assert steps.shape == (20, 6)
    assert dt_s == config.dt_s
    for step in steps[:15]:
        action = follower.action(world.truth(), world.position_rad, world.time_s)
        np.testing.assert_allclose(action, step, atol=1e-6)
        env.step(action)


def test_actions_stay_within_the_joint_limits_and_do_not_jump(worlds):
    world = worlds["transfer_pen"]
    env, expert = LockstepEnv(world), ScriptedExpert("transfer_pen", 5)
    env.reset(5)
    low, high = np.transpose(JOINT_LIMITS_RAD)
    last = None
    while world.time_s < 9.0:
        action = expert.action(world.truth(), world.position_rad, world.time_s)
        assert (action >= low).all()
        assert (action <= high).all()
        if last is not None:
            assert np.abs(action - last)[:5].max() < 3.0 / 30, "faster than the driver's 3 rad/s"
        last = action
        env.step(action)


def test_seeds_vary_the_style_only_when_configured(worlds):
    world = worlds["pick_place"]
    world.reset(1)
    truth, position = world.truth(), world.position_rad

    def chunk(seed, config):
        return ScriptedExpert("pick_place", seed, config).chunk(truth, position, 0.0)[0]

    plain, varied = ScriptedExpertConfig(), ScriptedExpertConfig(speed_spread=0.2, height_spread_m=0.02)
    np.testing.assert_array_equal(chunk(1, plain), chunk(2, plain))
    np.testing.assert_array_equal(chunk(1, varied), chunk(1, varied))
    assert not np.array_equal(chunk(1, varied), chunk(2, varied))


def test_unknown_task_is_named():
    with pytest.raises(ValueError, match=r"expected one of .*'pick_place'.*got 'juggle'"):
        ScriptedExpert("juggle")
