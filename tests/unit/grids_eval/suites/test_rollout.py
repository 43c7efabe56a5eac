"""How a policy fits a suite's task, and which commands its chunks become."""

import numpy as np
import pytest

from grids_eval.actors import ActorSpec
from grids_eval.suites.catalogue import SuiteError
from grids_eval.suites.interface import TaskDescription, description_from
from grids_eval.suites.rollout import Fit, commands_of, fit, jerk_of
from grids_eval.suites.wire import pack, unpack

JOINTS = ("a", "b", "gripper")
TASK = TaskDescription(
    "aloha", "transfer_cube", JOINTS, JOINTS, (0, 1), {"top": (480, 640)}, 50, 400, "Transfer cube",
    interpolated=True, expert=True, versions={"mujoco": "3.8.1"},
)  # fmt: skip


def spec(cameras=("top",), dt_s=0.08, joints=JOINTS) -> ActorSpec:
    return ActorSpec("p", cameras, ((144, 192),) * len(cameras), dt_s, 16, 8, 0, joints)


def test_a_description_travels():
    assert description_from(unpack(pack(TASK.as_message()))) == TASK


def test_a_policy_that_fits_keeps_its_own_n_action_steps_unless_told_otherwise():
    assert fit(spec(), TASK, {}, 0) == Fit(("top",), 4, 8)
    assert fit(spec(("front",)), TASK, {"front": "top"}, 16) == Fit(("top",), 4, 16)


@pytest.mark.parametrize(
    ("policy", "camera_map", "replan", "said"),
    [
        (spec(("front",)), {}, 0, r"'front' would be aloha's 'front', which has top: give --camera-map front=top"),
        (spec(), {"wrist": "top"}, 0, r"--camera-map: the policy has the cameras top, got 'wrist'"),
        (spec(), {"top": "angle"}, 0, r"'top' would be aloha's 'angle'"),
        (
            spec(joints=("a", "b")),
            {},
            0,
            r"aloha has 3 numbers \(a, b, gripper\), the policy's actions have 2 \(a, b\)",
        ),
        (spec(dt_s=1 / 30), {}, 0, r"rate: aloha has 50 steps per second, which the policy's 30"),
        (spec(dt_s=1 / 100), {}, 0, "rate"),
        (spec(), {}, 17, r"--replan: expected 1 to 16, the policy's chunk, got 17"),
    ],
    ids=["camera", "unknown camera", "wrong camera", "actions", "rate", "too fast", "replan"],
)
def test_what_does_not_fit_is_said_in_one_sentence(policy, camera_map, replan, said):
    with pytest.raises(SuiteError, match=said) as caught:
        fit(policy, TASK, camera_map, replan)
    assert "\n" not in str(caught.value)


def test_positions_are_interpolated_between_action_steps_and_the_last_one_is_held():
    chunk = np.array([[0.0], [4.0], [8.0]])
    found = commands_of(chunk, Fit(("top",), 4, 3), interpolated=True)
    np.testing.assert_allclose(found[:, 0], [0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 8, 8])


def test_differences_are_repeated():
    found = commands_of(np.array([[1.0], [2.0], [9.0]]), Fit(("top",), 2, 2), interpolated=False)
    np.testing.assert_array_equal(found[:, 0], [1, 1, 2, 2])


def test_at_the_suites_own_rate_each_action_is_one_command():
    chunk = np.random.default_rng(0).normal(size=(5, 3))
    for interpolated in (True, False):
        np.testing.assert_array_equal(commands_of(chunk, Fit(("top",), 1, 5), interpolated=interpolated), chunk)


def test_jerk_is_the_third_derivative():
    t = np.arange(50) * 0.02
    np.testing.assert_allclose(jerk_of(np.stack([t**3, t**3], axis=1), 0.02), 6.0, rtol=1e-6)
    assert jerk_of(np.zeros((3, 2)), 0.02) == 0.0
