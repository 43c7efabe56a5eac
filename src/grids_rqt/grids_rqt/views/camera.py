"""The box of one camera: its image with the policy's sample locations."""

from qtpy import QtCore, QtGui

from grids_perception.overlay.draw import Style, draw
from grids_perception.overlay.samples import recent
from grids_perception.overlay.sheet import fit
from grids_rqt.view_model import CameraState, ViewState
from grids_rqt.views import theme

MAX_SAMPLE_AGE_S = 5.0


def _silence(camera: CameraState) -> str:
    return f"no image for {camera.silent_s:.0f} s" if camera.silent_s else ""


class CameraView(theme.Box):
    """One camera. `style_now`: the layers that the user has switched on."""

    def __init__(self, camera: str) -> None:
        super().__init__(camera, (240, 190))
        self.camera = camera
        self.style_now = Style(legend=False)

    def title(self) -> str:
        state: ViewState | None = self._state
        camera = state.cameras.get(self.camera) if state else None
        if camera is None or camera.image is None:
            return f"{self.camera}  ·  no image"
        parts = [self.camera, _silence(camera) or f"{camera.rate_hz:.0f} Hz"]
        if camera.samples:
            last = camera.samples[-1]
            parts.append(f"K = {len(last.coordinates)}")
            if last.mean_retention == last.mean_retention:  # not NaN
                parts.append(f"retention {last.mean_retention:.2f}")
            parts.append(f"{max(0.0, (camera.image_ns - last.stamp_ns) * 1e-9):.1f} s old")
        return "  ·  ".join(parts)

    def paint(self, painter: QtGui.QPainter, area: QtCore.QRectF) -> None:
        camera = self._state.cameras.get(self.camera)
        if camera is None or camera.image is None:
            theme.text(
                painter, area, f"waiting for /{self.camera}/color/image_raw",
                size_px=12, color=theme.MUTED, align=QtCore.Qt.AlignCenter,
            )  # fmt: skip
            return
        samples, _ = recent(camera.samples, camera.image_ns, MAX_SAMPLE_AGE_S)
        shown = fit(camera.image, (int(area.width()), int(area.height())))
        drawn = draw(shown, samples[-1] if samples else None, history=samples[:-1], style=self.style_now)
        left = area.left() + (area.width() - drawn.shape[1]) / 2
        top = area.top() + (area.height() - drawn.shape[0]) / 2
        painter.setOpacity(0.35 if camera.silent_s else 1.0)
        painter.drawImage(QtCore.QPointF(left, top), theme.to_qimage(drawn))
        painter.setOpacity(1.0)
        if camera.silent_s:
            theme.text(
                painter, area, _silence(camera), size_px=16, color=theme.AMBER, align=QtCore.Qt.AlignCenter, bold=True
            )
