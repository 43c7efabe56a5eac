"""The page's tables and plots say what the snapshot says, and no text of a message becomes HTML."""

import base64
import re
from dataclasses import replace
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from grids_rqt.bench import example_state
from grids_rqt.view_model import ViewState
from grids_rqt.web import panels, plots


def parsed(html: str) -> ElementTree.Element:
    """The HTML as XML: it has to be well formed."""
    closed = re.sub(r"<(img[^>]*|br)>", r"<\1/>", html)
    return ElementTree.fromstring(f"<div>{closed}</div>")


@pytest.mark.parametrize("state", [ViewState(cameras=example_state().cameras), example_state()], ids=["little", "all"])
def test_every_table_is_well_formed(state):
    for html in (panels.stages(state), panels.readings(state), panels.servos(state), panels.problems(state)):
        parsed(html)
    parsed(panels.map_row(state, "front"))


def test_a_servo_with_a_problem_stands_out():
    rows = parsed(panels.servos(example_state())).findall(".//tr")[1:]
    bad = [row.find("th").text for row in rows if row.find("th").get("class") == "bad"]
    assert len(rows) == 6
    assert bad == ["✖ gripper"]


def test_latency_bars_are_relative_to_the_longest():
    row = parsed(panels.stages(example_state())).find(".//tr")
    assert row.find(".//i").get("style") == "width:33%"  # p50 0.1 of p99 0.3
    assert row.find(".//u").get("style") == "left:100%"
    assert row.findall("td")[-1].text == "100 / 200 / 300"


def test_maps_carry_a_pixel_per_token():
    images = parsed(panels.map_row(example_state(), "wrist")).findall(".//img")
    shapes = []
    for image in images:
        data = np.frombuffer(base64.b64decode(image.get("src").split(",")[1]), np.uint8)
        shapes.append(cv2.imdecode(data, cv2.IMREAD_COLOR).shape[:2])
    assert shapes == [(8, 8), (64, 64), (16, 16)]


def test_words_of_messages_stay_words():
    state = replace(example_state(), problems=("<script>alert(1)</script>",))
    servo = replace(state.servos[0], name="<b>")
    assert "<script>" not in panels.problems(state)
    assert "<b>" not in panels.servos(replace(state, servos=(servo,)))


def test_a_plot_shows_what_was_executed_and_what_is_planned():
    state = example_state()
    change = plots.update(state, 2)
    executed, planned = (np.array(series["data"]) for series in change["series"])
    assert len(executed) <= plots.MAX_POINTS
    np.testing.assert_allclose(executed[-1], [0.0, np.degrees(np.sin(state.now_ns * 1e-9))], atol=0.01)
    assert executed[0, 0] == pytest.approx(-4.0, abs=0.1)
    np.testing.assert_allclose(planned[0], [-0.3, 0.0], atol=0.01)
    assert change["yAxis"]["min"] <= executed[:, 1].min()
    assert change["yAxis"]["max"] >= executed[:, 1].max()


def test_a_plot_without_data_and_with_nan_is_empty_there():
    assert [series["data"] for series in plots.update(ViewState(), 0)["series"]] == [[], []]
    assert plots.points(np.array([0.0, 1.0]), np.array([np.nan, 2.0])) == [[1.0, 2.0]]
