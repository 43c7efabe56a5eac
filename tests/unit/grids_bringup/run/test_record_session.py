"""The keys of a recording session, with a node that only notes what is published."""

import os
import sys
import termios
import time

import pytest

pytest.importorskip("rclpy")

from grids_msgs.msg import DriverStatus, EpisodeStatus
from grids_msgs.srv import StartEpisode

from grids_bringup.run.record_session import ASKED, HELP, STOPPED, RecordSession


class Client:
    """A service client or a publisher."""

    def __init__(self, name: str, sent: list) -> None:
        self._name, self._sent = name, sent

    def publish(self, message) -> None:
        self._sent.append((self._name, message.data))

    def call_async(self, request):
        self._sent.append((self._name, request))
        return self

    def add_done_callback(self, _callback) -> None:
        return


class Node:
    """What RecordSession needs of a node."""

    def __init__(self) -> None:
        self.sent: list = []

    def create_subscription(self, *_args, **_options) -> None:
        return

    def create_publisher(self, _kind, name, _qos) -> Client:
        return Client(name, self.sent)

    def create_client(self, _kind, name) -> Client:
        return Client(name, self.sent)


def opened() -> tuple[RecordSession, list]:
    node = Node()
    session = RecordSession(node)
    session._on_status(EpisodeStatus(state="idle", index=1, remaining=-1.0))
    return session, node.sent


@pytest.mark.parametrize("state", ["idle", "recording", "saving"])
@pytest.mark.parametrize("key", ["e", "E"])
def test_e_is_the_emergency_stop_whatever_goes_on(state, key):
    session, sent = opened()
    session._on_status(EpisodeStatus(state=state))
    session.press(key)
    assert sent == [("estop", True)]
    assert ASKED in session.line()


def test_the_line_says_when_the_arm_has_stopped_and_how_to_go_on():
    session, _ = opened()
    session._on_driver(DriverStatus(mode="estop"))
    assert session.line().startswith(STOPPED)
    session._on_driver(DriverStatus(mode="teleop"))
    assert STOPPED not in session.line()


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


def test_a_second_key_of_the_same_instant_is_not_kept_waiting_and_the_terminal_is_given_back(monkeypatch):
    ours, theirs = os.openpty()
    with os.fdopen(theirs) as terminal:
        before = termios.tcgetattr(terminal)
        monkeypatch.setattr(sys, "stdin", terminal)
        session, sent = opened()
        os.write(ours, b"\ne")
        end = time.monotonic() + 30
        while len(sent) < 2 and time.monotonic() < end:
            time.sleep(0.01)
        session.close()
        assert not session._keys.is_alive()
        assert [name for name, _ in sent] == ["recorder/start", "estop"]
        assert termios.tcgetattr(terminal) == before
    os.close(ours)
