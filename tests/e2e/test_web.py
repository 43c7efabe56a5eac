"""The page of a real run on the twin in a real browser: live images, an instruction, the emergency stop."""

import signal
import subprocess
import sys
import urllib.request

import pytest
from browser import PHONE, WIDE, browser, on_top
from waiting import wait_for

pytest.importorskip("nicegui", reason="bash requirements/setup.sh web")
pytest.importorskip("rclpy")

from grids_msgs.msg import PolicyStatus

from grids_common import topics
from grids_rqt.feeds.ros import RosFeed
from grids_rqt.view_model import Model

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
SENTENCE = "pick up the green cube and place it in the bowl"


@pytest.fixture
def address(deploy, monkeypatch):
    """A run on the twin and the address of its page; ROS in this test joins the run's domain."""
    run = deploy("duration:=200")
    monkeypatch.setenv("ROS_DOMAIN_ID", str(run.domain))
    words = [sys.executable, "-m", "grids_bringup.cli", "view", "--web", "--port", "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as view:
        yield view.stdout.readline().split(" at ")[1].strip()
        view.terminate()
        assert view.wait(30) == 0
    run.process.send_signal(signal.SIGINT)
    run.wait(60)


@pytest.fixture
def robot(address):
    """What the run itself reports, heard without the page: (driver's state, the policy's instruction)."""
    model, said = Model(topics.CAMERAS), []
    feed = RosFeed(model, "test_web")
    topics.subscription(feed.node, "/policy/status", PolicyStatus, lambda message: said.append(message.instruction))
    yield lambda: (model.snapshot(feed.now_ns()).driver, said[-1] if said else "")
    feed.close()


def image(address: str) -> bytes:
    with urllib.request.urlopen(f"{address}camera/front?layers=rings", timeout=60) as answer:
        return answer.read()


def test_the_page_shows_instructs_and_stops_a_run(address, robot):
    outside: list[str] = []
    with browser() as show:
        page = show(address, WIDE, outside)
        for camera in topics.CAMERAS:
            page.wait_for_selector(f"img.seen[data-camera={camera}]")
        page.get_by_text("POLICY  ·").first.wait_for()
        page.get_by_text("K = 16").first.wait_for()
        before = image(address)
        wait_for(lambda: image(address) != before, "another image")

        assert robot()[1] != SENTENCE
        page.locator(".tools input").first.fill(SENTENCE)
        page.get_by_role("button", name="Send").click()
        wait_for(lambda: robot()[1] == SENTENCE, "the policy's status with the new instruction")

        phone = show(address, PHONE, outside)
        phone.wait_for_selector("img.seen")
        phone.evaluate("scrollTo(0, 1e6)")
        for each in (page, phone):
            assert on_top(each, "#stop")
        assert robot()[0].mode == "policy"
        # The page is busy, and its own connection is gone: the stop needs neither.
        busy = "setInterval(() => { const begin = Date.now(); while (Date.now() - begin < 80); }, 100)"
        phone.evaluate(f"window.socket.disconnect(); {busy}")
        phone.locator("#stop").tap()
        wait_for(lambda: robot()[0].mode == "estop", "the driver in mode estop")
        phone.get_by_text("the driver confirms it").wait_for()
        page.get_by_text("ESTOP").first.wait_for()

        page.get_by_role("button", name="Reset stop").click()
        wait_for(lambda: robot()[0].mode == "idle", "the driver in mode idle")
        page.keyboard.press("Escape")
        wait_for(lambda: robot()[0].mode == "estop", "the driver in mode estop")
    assert outside == []
