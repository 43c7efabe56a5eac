import numpy as np
import pytest

from so100_driver.guard.teleop import LeaderTrack, Mapping, Squeezes


def test_the_gripper_is_mapped_range_to_range_and_the_rest_one_to_one():
    mapping = Mapping(np.ones(6), (0.0, 0.6), (-1.0, 1.0))
    leader = np.array([0.1, -0.2, 0.3, 0.4, 0.5, 0.15])
    assert mapping.follower(leader) == pytest.approx([0.1, -0.2, 0.3, 0.4, 0.5, -0.5])


def test_an_inverted_joint_and_an_inverted_gripper_follow_their_sign():
    mapping = Mapping(np.array([-1.0, 1, 1, 1, 1, -1.0]), (0.0, 1.0), (-1.0, 1.0))
    assert mapping.follower(np.array([0.4, 0, 0, 0, 0, 1.0])) == pytest.approx([-0.4, 0, 0, 0, 0, -1.0])


def test_the_leader_is_interpolated_a_fixed_delay_in_the_past():
    track = LeaderTrack(0.01, 0.25)
    for i in range(5):
        track.add(i * 10_000_000, i * 10_000_000, np.full(6, i * 0.1))
    assert track.sample(35_000_000) == pytest.approx(np.full(6, 0.25))
    assert track.sample(99_000_000) == pytest.approx(np.full(6, 0.4))


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e9, -6.3], ids=str)
def test_a_sample_that_is_no_angle_is_ignored_with_a_reason(bad):
    track = LeaderTrack(0.0, 0.25)
    assert track.add(10, 10, np.zeros(6)) == ""
    position = np.zeros(6)
    position[2] = bad
    reason = track.add(20, 20, position)
    assert "finite angles within one turn" in reason
    assert reason.endswith("for elbow_flex")
    assert track.newest == pytest.approx(np.zeros(6))


def test_an_older_sample_is_ignored_with_a_reason():
    track = LeaderTrack(0.0, 0.25)
    assert track.add(10, 10, np.zeros(6)) == ""
    assert "expected a later one" in track.add(20, 10, np.full(6, 0.1))
    assert track.newest == pytest.approx(np.zeros(6))


def test_a_jump_empties_the_track_and_the_next_sample_is_a_new_beginning():
    track = LeaderTrack(0.0, 0.25)
    wrapped = np.array([0, 0, 0, 0, 3.1, 0])
    assert track.add(10, 10, wrapped) == ""
    assert "wrist_roll jumped by 6.20 rad" in track.add(20, 20, -wrapped)
    assert track.newest is None
    assert track.sample(20) is None
    assert track.add(30, 30, -wrapped) == ""
    assert track.sample(30) == pytest.approx(-wrapped)


def test_a_hand_that_moved_while_samples_were_late_has_not_jumped():
    track = LeaderTrack(0.0, 0.25)
    assert track.add(0, 0, np.zeros(6)) == ""
    assert track.add(100_000_000, 100_000_000, np.full(6, 0.6)) == ""
    assert "jumped" in track.add(110_000_000, 110_000_000, np.full(6, 1.2))


def test_a_sample_from_the_future_is_ignored_and_none_outlives_its_arrival():
    track = LeaderTrack(0.0, 0.25)
    assert "in the future" in track.add(0, 50_000_001, np.ones(6))
    assert track.age_s(0) == float("inf")
    assert track.add(0, 50_000_000, np.zeros(6)) == ""
    assert track.age_s(300_000_000) == pytest.approx(0.3)


def test_a_sample_that_was_old_when_it_arrived_is_no_sign_of_life():
    track = LeaderTrack(0.0, 0.25)
    assert track.add(1_000_000_000, 200_000_000, np.zeros(6)) == ""
    assert track.age_s(1_000_000_000) == pytest.approx(0.8)


def squeeze(times, *, open_part=0.9):
    state = Squeezes()
    for t in times:
        for part, at in ((open_part, t), (0.05, t + 0.1), (open_part, t + 0.2)):
            state = state.update(int(at * 1e9), part, low=0.0, high=1.0, window_s=1.5)
    return state


def test_three_quick_squeezes_count_and_slow_ones_do_not():
    assert len(squeeze([0, 0.4, 0.8]).times_ns) == 3
    assert len(squeeze([0, 1.4, 2.8]).times_ns) < 3


def test_a_gripper_that_never_fully_opens_is_one_squeeze():
    assert len(squeeze([0, 0.4, 0.8], open_part=0.4).times_ns) == 1
