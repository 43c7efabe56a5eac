"""A short fault campaign: the driver node on the twin's serial line, judged by the twin's own log."""

import os

import pytest

rclpy = pytest.importorskip("rclpy")

from so100_driver_testing import campaign, promises  # noqa: E402
from so100_driver_testing import scenarios as faults  # noqa: E402

pytestmark = pytest.mark.ros
os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")

QUICK = (
    "reply lost 10 %",
    "wrong id answers 10 %",
    "one servo dies in mid-motion",
    "adapter unplugged and replugged",
    "gripper stalled on an object",
    "malformed chunks (12 kinds)",
    "emergency stop in mid-motion",
    "voltage sag to 4.5 V",
    "leader process killed",
    "leader process stopped for 2 s",
    "second driver on the port",
    "servo dead at start",
    "100 random lifecycle requests",
    "100 lifecycle requests, two at a time",
    "driver SIGTERM",
    "driver SIGKILL and restart",
)


@pytest.fixture(scope="module")
def shared():
    campaign_ = campaign.Campaign(seed=1)
    yield campaign_
    campaign_.close()


@pytest.mark.parametrize("name", QUICK)
def test_the_promises_hold_on_the_servos_under(name, shared):
    scenario = next(s for s in faults.SCENARIOS if s.name == name)
    assert shared.run(scenario, 0) == []


def test_the_campaign_finds_a_driver_that_breaks_its_limits(monkeypatch):
    """The judge itself: a motion legal at 3 rad/s must be reported when the promise is 0.2 rad/s."""
    monkeypatch.setattr(promises, "VELOCITY_LIMIT", 0.2)
    monkeypatch.setattr(promises, "STEP_LIMIT", 0.002)
    strict = campaign.Campaign(seed=2)
    try:
        found = strict.run(next(s for s in faults.SCENARIOS if s.name == "reply lost 1 %"), 0)
    finally:
        strict.close()
    assert any("jumped" in text for text in found)
    assert any("moved at" in text for text in found)
