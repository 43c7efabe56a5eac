"""Images are drawn once for all pages, and a stop counts only when the driver reports it."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from grids_rqt.bench import example_state
from grids_rqt.drawing import LAYERS
from grids_rqt.view_model import Model
from grids_rqt.web import source as module
from grids_rqt.web.source import WebSource

ALL = frozenset(LAYERS)


class Controls:
    """A robot that does, or does not do, what it is asked."""

    def __init__(self, obeys=True):
        self.asked, self.obeys, self.mode, self.report = [], obeys, "policy", None

    def estop(self):
        self.asked.append("estop")
        self.mode = "estop" if self.obeys else self.mode


class Robot(Model):
    """A view model that holds one state."""

    def __init__(self, state, controls=None):
        super().__init__(("front", "wrist"))
        self.state, self.controls = state, controls

    def snapshot(self, now_ns):
        if self.controls is None or self.state.driver is None:
            return self.state
        return replace(self.state, driver=replace(self.state.driver, mode=self.controls.mode))


def test_a_camera_is_drawn_once_however_many_pages_ask(monkeypatch):
    drawn, robot = [], Robot(example_state())
    original = module.camera_image
    monkeypatch.setattr(module, "camera_image", lambda *words: drawn.append(1) or original(*words))
    source = WebSource(robot, lambda: 0, None)
    first = source.jpeg("front", ALL)
    assert source.jpeg("front", ALL) is first
    assert len(drawn) == 1
    assert source.jpeg("front", frozenset()) != first  # other layers
    camera = robot.state.cameras["front"]
    robot.state.cameras["front"] = replace(camera, image_ns=camera.image_ns + 1)
    source.jpeg("front", ALL)
    assert len(drawn) == 3


def test_the_image_carries_rings_where_the_layer_is_on():
    state = example_state()
    grey = replace(state.cameras["front"], image=np.full((480, 640, 3), 90, np.uint8))
    state.cameras["front"] = grey
    source = WebSource(Robot(state), lambda: 0, None)

    def amber(layers: frozenset) -> int:
        image = cv2.imdecode(np.frombuffer(source.jpeg("front", layers), np.uint8), cv2.IMREAD_COLOR).astype(int)
        assert image.shape == (480, 640, 3)
        return int(((image[..., 2] > 200) & (image[..., 1] > 160) & (image[..., 0] < 90)).sum())

    assert amber(frozenset(("rings",))) > 300
    assert amber(frozenset()) == 0
    assert source.jpeg("nowhere", ALL) is None


def test_a_stop_is_confirmed_by_the_driver():
    controls = Controls()
    answer = WebSource(Robot(example_state(), controls), lambda: 0, controls).stop()
    assert controls.asked == ["estop"]
    assert answer.ok
    assert "confirms" in answer.sentence


@pytest.mark.parametrize(("driver", "why"), [(True, "reports mode policy"), (False, "no driver reports its state")])
def test_a_stop_without_confirmation_tells_to_cut_the_power(monkeypatch, driver, why):
    monkeypatch.setattr(module, "CONFIRM_S", 0.02)
    controls, state = Controls(obeys=False), example_state()
    robot = Robot(state if driver else replace(state, driver=None), controls)
    answer = WebSource(robot, lambda: 0, controls).stop()
    assert controls.asked == ["estop"]
    assert not answer.ok
    assert why in answer.sentence
    assert "cut the arm's power" in answer.sentence


def test_results_of_buttons_are_numbered():
    controls = Controls()
    source = WebSource(Robot(example_state(), controls), lambda: 0, controls)
    controls.report(False, "mode idle: refused")
    controls.report(True, "mode idle: done")
    assert (source.report.number, source.report.ok, source.report.sentence) == (2, True, "mode idle: done")


def test_another_time_of_a_recording_is_drawn_anew():
    early = example_state()
    dark = replace(early.cameras["front"], image=np.zeros((480, 640, 3), np.uint8), image_ns=1)
    early.cameras["front"] = dark
    source, asked = WebSource(Robot(example_state()), lambda: 5, None), []
    source.recorded(9.0, lambda at_s: asked.append(at_s) or (Robot(early), 1))
    bright = source.jpeg("front", frozenset())
    source.seek(2.5)
    assert (asked, source.length_s) == ([2.5], 9.0)
    image = cv2.imdecode(np.frombuffer(source.jpeg("front", frozenset()), np.uint8), cv2.IMREAD_COLOR)
    assert image.max() < 10
    assert source.jpeg("front", frozenset()) != bright


def test_a_recording_has_nothing_to_stop():
    answer = WebSource(Robot(example_state()), lambda: 0, None).stop()
    assert (answer.ok, answer.sentence) == (False, "this is a recording: nothing to stop")
