"""`./grids record` on a real terminal: one key each to start, label, discard and end."""

import os
import re
import select
import subprocess
import sys
import termios
import time

import pytest

pytestmark = [pytest.mark.ros, pytest.mark.e2e]
pytest.importorskip("rclpy")

from grids_data.bag.reader import Bag, find_bags  # noqa: E402


class Terminal:
    """A pseudo-terminal with a command in its foreground, as a shell would start it."""

    def __init__(self, words: list[str], environment: dict[str, str]) -> None:
        self._ours, theirs = os.openpty()
        self.before = termios.tcgetattr(self._ours)
        words = ["setsid", "--ctty", *words]
        self.process = subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
        os.close(theirs)
        self.output = ""
        self._from = 0

    def press(self, keys: str) -> None:
        self._from = len(self.output)
        os.write(self._ours, keys.encode())

    def _read(self, timeout_s: float) -> None:
        if select.select([self._ours], [], [], timeout_s)[0]:
            try:
                self.output += os.read(self._ours, 65536).decode(errors="replace")
            except OSError:  # the other side is closed
                time.sleep(timeout_s)

    def expect(self, pattern: str, timeout_s: float) -> None:
        """Wait until what came since the last key press matches."""
        end = time.monotonic() + timeout_s
        while not re.search(pattern, self.output[self._from :]):
            assert time.monotonic() < end, f"no {pattern!r} in {self.output[self._from :][-2000:]!r}"
            self._read(0.2)

    def wait(self, timeout_s: float) -> int:
        end = time.monotonic() + timeout_s
        while self.process.poll() is None:
            assert time.monotonic() < end, f"still running: {self.output[-1000:]!r}"
            self._read(0.2)
        return self.process.returncode

    def settings(self) -> list:
        return termios.tcgetattr(self._ours)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(30)
        os.close(self._ours)


@pytest.fixture
def terminal(tmp_path):
    environment = os.environ | {"ROS_DOMAIN_ID": str(62 + os.getpid() % 40), "XDG_RUNTIME_DIR": str(tmp_path)}
    words = [sys.executable, "-m", "grids_bringup.cli", "record", "--operator", "wave", "--person", "Ada"]
    words += ["--recordings", str(tmp_path / "recordings"), "--output", str(tmp_path / "run")]
    opened = Terminal(words, environment)
    yield opened
    opened.close()


def test_keys_start_label_discard_and_end_and_the_terminal_is_given_back(terminal, tmp_path):
    terminal.expect("enter or space start/stop", 60)
    terminal.press("\n")
    terminal.expect("recording 1 [2-9] s", 40)
    terminal.press("s")
    terminal.expect(r"(idle|resetting|reset)[^|]*\|[^|]*(OK|WARN|REJECT)", 30)
    terminal.press("x")
    terminal.expect("q quit", 10)
    terminal.press("\n")
    terminal.expect("recording [12] ", 40)  # a rejected first one does not count
    terminal.press("d")
    terminal.expect("discard", 20)
    terminal.press("q")
    assert terminal.wait(60) == 0, terminal.output[-2000:]
    assert terminal.settings() == terminal.before
    kept = find_bags([tmp_path / "recordings"])
    assert len(kept) == 1
    with Bag(kept[0]) as bag:
        assert bag.episode["outcome"] == "success"
        assert bag.episode["operator"] == "Ada"


def test_ctrl_c_ends_the_session_and_keeps_what_was_recorded(terminal, tmp_path):
    terminal.expect("enter or space start/stop", 60)
    terminal.press("\n")
    terminal.expect("recording 1 [3-9] s", 40)
    terminal.press("\x03")
    terminal.wait(60)
    assert terminal.settings() == terminal.before
    (kept,) = find_bags([tmp_path / "recordings"])
    with Bag(kept) as bag:
        assert sum(bag.counts.values()) > 100
