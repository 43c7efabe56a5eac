"""What the page shows and does: view model, clock, buttons, and images ready to be sent. No web parts."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from grids_common.images import rgb_to_jpeg
from grids_perception.overlay.draw import Style
from grids_rqt.controls import AbstractControls
from grids_rqt.drawing import LAYERS, camera_image
from grids_rqt.view_model import Model, ViewState

IMAGE_SIZE = (640, 480)  # largest, px
JPEG_QUALITY = 80
CONFIRM_S = 1.0  # a driver that runs reports its mode 10 times a second


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a button. number counts from 1."""

    number: int
    ok: bool
    sentence: str


class WebSource:
    """A live graph, or with controls None a recording. Several pages use it at once, from several threads.

    title: the recording's or the robot's name. length_s: of a recording that `read` can read up to any time in it.
    """

    def __init__(
        self, model: Model, now_ns: Callable[[], int], controls: AbstractControls | None, title: str = ""
    ) -> None:
        self.controls, self.title = controls, title
        self.cameras, self._shown = model.cameras, (model, now_ns)
        self.style = Style()  # the layers that a new page draws
        self.length_s, self._read = 0.0, None
        self.report = Report(0, True, "")
        self._images: dict[tuple[str, frozenset[str]], tuple[tuple, bytes]] = {}
        self._drawing = threading.Lock()  # one image at a time: all pages together take one core at most
        if controls is not None:
            controls.report = self._report

    def _report(self, ok: bool, sentence: str) -> None:  # noqa: FBT001 - AbstractControls.report
        self.report = Report(self.report.number + 1, ok, sentence)

    def state(self) -> ViewState:
        """The snapshot of now."""
        model, now_ns = self._shown
        return model.snapshot(now_ns())

    def recorded(self, length_s: float, read: Callable[[float], tuple[Model, int]]) -> None:
        """`read(s)` returns what there was s after the recording's start, and the time then, ns."""
        self.length_s, self._read = length_s, read

    def seek(self, at_s: float) -> None:
        """Show a recording as it was `at_s` after its start, on all pages. Blocks while it is read."""
        model, then_ns = self._read(at_s)
        self._shown = model, lambda: then_ns

    def jpeg(self, name: str, layers: frozenset[str]) -> bytes | None:
        """The camera's image with its samples; None before its first image. Pages that show the same share it."""
        with self._drawing:
            camera = self.state().cameras.get(name)
            if camera is None or camera.image is None:
                return None
            drawn_from = (camera.image_ns, camera.samples[-1].stamp_ns if camera.samples else 0)
            found = self._images.get((name, layers))
            if found is None or found[0] != drawn_from:
                style = Style(**{layer: layer in layers for layer in LAYERS}, legend=False)
                found = drawn_from, rgb_to_jpeg(camera_image(camera, IMAGE_SIZE, style), JPEG_QUALITY)
                self._images[name, layers] = found
            return found[1]

    def stop(self) -> Report:
        """Latch the emergency stop and wait until the driver reports it, CONFIRM_S at most. Blocks."""
        if self.controls is None:
            return Report(0, False, "this is a recording: nothing to stop")
        self.controls.estop()
        end = time.monotonic() + CONFIRM_S
        while time.monotonic() < end:
            driver = self.state().driver
            if driver is not None and driver.mode == "estop":
                return Report(0, True, "stopped: the driver confirms it")
            time.sleep(0.01)
        why = "no driver reports its state" if driver is None else f"the driver reports mode {driver.mode}"
        return Report(0, False, f"the stop was sent, but {why}: cut the arm's power")
