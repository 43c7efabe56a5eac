"""The keys of a recording session, with a node that only notes what is published."""

import pytest

pytest.importorskip("rclpy")

from grids_msgs.msg import DriverStatus, EpisodeStatus
from grids_msgs.srv import StartEpisode
from session_node import opened

from grids_bringup.run.record_session import ESTOP_SENT, HELP


@pytest.mark.parametrize("state", ["idle", "recording", "saving"])
@pytest.mark.parametrize("key", ["e", "E"])
def test_e_is_the_emergency_stop_whatever_goes_on(state, key):
    session, sent = opened()
    session._on_status(EpisodeStatus(state=state))
    session.press(key)
    assert sent == [("estop", True)]
    assert ESTOP_SENT in session.line()


def test_the_line_says_when_the_arm_has_stopped_and_how_to_go_on():
    session, _ = opened()
    session._on_driver(DriverStatus(mode="estop"))
    stopped = "ARM STOPPED; to continue: ros2 service call /left/driver/estop_reset std_srvs/srv/Trigger"
    assert session.line().startswith(stopped)
    session._on_driver(DriverStatus(mode="teleop"))
    assert stopped not in session.line()


def test_space_means_enter_and_the_help_says_so():
    session, sent = opened()
    session.press(" ")
    assert [(name, type(request)) for name, request in sent] == [("recorder/start", StartEpisode.Request)]
    session.press("?")
    assert HELP in session.line()
    assert "e EMERGENCY STOP" in HELP
    assert "enter or space start/stop an episode" in HELP


@pytest.mark.parametrize("state", ["full", "failed"])
def test_a_recorder_that_cannot_go_on_ends_the_session_with_its_reason(state):
    session, _ = opened()
    assert session.failure == ""
    session._on_status(EpisodeStatus(state=state, reason="the disk refused"))
    assert session.failure == "the disk refused"
