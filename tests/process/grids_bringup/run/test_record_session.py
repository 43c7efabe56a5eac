"""The keys of a recording session as a terminal delivers them."""

import os
import sys
import termios
import time

import pytest

pytest.importorskip("rclpy")

from session_node import opened


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
