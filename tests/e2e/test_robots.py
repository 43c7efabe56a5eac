"""Two robots in one ROS domain: two twins with two policies side by side, and neither hears the other."""

import signal
import time

import pytest

pytest.importorskip("rclpy")

from graph import endpoints, listening
from waiting import wait_for

from grids_sim.servo import bus_log

pytestmark = pytest.mark.e2e

SHARED = {"/tf", "/tf_static", "/rosout", "/parameter_events"}  # by design: frames and loggers carry the robot's name
STOPS = {"/estop"}  # every driver hears it, none of our nodes sends it


def goals_after(run, since_s: float) -> int:
    return sum(goal.kind == "goal" and goal.t_s > since_s for goal in bus_log.load(run.folder / "bus.jsonl"))


def discovered(node) -> dict[str, set[str]]:
    """The namespaces at each topic, by topic, once the listener has heard of both robots; until then nothing."""
    places = endpoints(node)
    owners = [name.split("/")[1] for name, namespaces in places.items() if namespaces]
    complete = all(owners.count(robot) > 15 for robot in ("left", "right")) and places.get("/tf") == {"/left", "/right"}
    return places if complete else {}


def test_two_robots_side_by_side_do_not_hear_each_other_and_one_outlives_the_other(launch):
    left = launch("deploy", "robot:=left", "policy:=untrained", "duration:=20", "seed:=11")
    domain = {"ROS_DOMAIN_ID": str(left.domain)}
    right = launch("deploy", "robot:=right", "policy:=expert", "duration:=90", "seed:=22", environment=domain)
    deadline = time.monotonic() + 60
    while not all((run.folder / "bus.jsonl").exists() and goals_after(run, 0) > 200 for run in (left, right)):
        assert time.monotonic() < deadline, "no motion"
        time.sleep(0.2)
    with listening(left.domain) as node:
        places = wait_for(lambda: discovered(node), "the topics of both robots", timeout_s=20)
    third = launch("deploy", "robot:=right", "policy:=expert", environment=domain)
    assert third.wait(60) == 2
    assert "of robot 'right' is active in ROS domain" in third.output
    assert left.wait(60) == 0, left.output[-3000:]
    ended = time.monotonic()
    while goals_after(right, ended + 0.5) < 100:
        assert right.process.poll() is None, right.process.communicate()[0][-3000:]
        assert time.monotonic() < ended + 30, "the other robot's end stopped this one"
        time.sleep(0.2)
    right.process.send_signal(signal.SIGINT)
    assert right.wait(40) == 0, right.output[-3000:]
    for run, seed, task in ((left, 11, "untrained"), (right, 22, "expert")):
        summary = run.summary()
        assert (summary["seed"], summary["policy"], summary["failure"]) == (seed, task, "")
        heard = summary["driver"]["chunks_accepted"] + summary["driver"]["chunks_refused"]
        assert 0 < heard <= 1.5 * summary["chunks"] + 2, "a driver heard the other robot's policy"
    assert left.summary()["bundle_id"] != right.summary()["bundle_id"]
    for name, namespaces in places.items():
        robot = f"/{name.split('/')[1]}"
        expected = {"/left", "/right"} if name in SHARED | STOPS else {robot}
        assert namespaces <= expected, f"{name}: {namespaces}"
