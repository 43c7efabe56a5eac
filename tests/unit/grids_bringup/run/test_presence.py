"""Which runs in one domain go together."""

from dataclasses import replace

import pytest

from grids_bringup.run.presence import FRESH_S, Announcement, Presence, parse

ROBOT = Announcement("robot", "r1", "pi", "twin", "pick_place")
POLICY = Announcement("policy", "p1", "gpu", "twin", "pick_place")


def heard(own: Announcement, *others: Announcement) -> Presence:
    presence = Presence(own)
    for other in others:
        presence.hear(other.text(), 10.0)
    return presence


def test_two_parts_find_each_other_and_forget_who_falls_silent():
    presence = heard(ROBOT, ROBOT, POLICY)
    assert presence.counterpart(10.5) == POLICY
    assert presence.conflict(10.5) == ""
    assert presence.counterpart(10.1 + FRESH_S) is None
    assert heard(ROBOT, ROBOT).counterpart(10.0) is None


@pytest.mark.parametrize("own", [ROBOT, POLICY], ids=["robot", "policy"])
def test_a_second_one_of_the_same_part_is_refused_until_it_has_ended(own):
    twice = replace(own, run="other", host="desk")
    assert heard(own, twice).conflict(10.5).startswith(f"part:={own.part} of another run is active on desk")
    assert heard(own, replace(twice, state="ended")).conflict(10.5) == ""
    assert heard(own, twice).conflict(10.1 + FRESH_S) == ""


@pytest.mark.parametrize("change", [{"hardware": "real"}, {"task": "stack_cubes"}], ids=["hardware", "task"])
def test_parts_that_contradict_each_other_are_refused(change):
    (name, value), *_ = change.items()
    problem = heard(POLICY, replace(ROBOT, **change)).conflict(10.0)
    assert problem.startswith(f"{name}: expected the same in both parts, got {value} in part:=robot on pi")


def test_the_policys_part_learns_how_the_robots_part_ended():
    presence = heard(POLICY, ROBOT)
    assert presence.ended() == ""
    presence.hear(replace(ROBOT, state="ended", reason="task done").text(), 11.0)
    assert presence.ended() == "task done"
    presence.hear(replace(ROBOT, run="r2").text(), 12.0)
    assert presence.ended() == "", "a new run of the robot's part has begun"


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"part": "robot"}', "null"])
def test_what_is_no_announcement_is_ignored(text):
    assert parse(text) is None
