"""The box of one camera: its image with the policy's sample locations."""

from qtpy import QtCore, QtGui

from grids_perception.overlay.draw import Style
from grids_rqt import captions
from grids_rqt.drawing import camera_image
from grids_rqt.view_model import ViewState
from grids_rqt.views import theme


class CameraView(theme.Box):
    """One camera. `style_now`: the layers that the user has switched on."""

    def __init__(self, camera: str) -> None:
        super().__init__(camera, (240, 190))
        self.camera = camera
        self.style_now = Style(legend=False)

    def title(self) -> str:
        state: ViewState | None = self._state
        return captions.camera_title(self.camera, state.cameras.get(self.camera) if state else None)

    def paint(self, painter: QtGui.QPainter, area: QtCore.QRectF) -> None:
        camera = self._state.cameras.get(self.camera)
        if camera is None or camera.image is None:
            theme.text(
                painter, area, f"waiting for /{self.camera}/color/image_raw",
                size_px=12, color=theme.MUTED, align=QtCore.Qt.AlignCenter,
            )  # fmt: skip
            return
        drawn = camera_image(camera, (int(area.width()), int(area.height())), self.style_now)
        left = area.left() + (area.width() - drawn.shape[1]) / 2
        top = area.top() + (area.height() - drawn.shape[0]) / 2
        painter.setOpacity(0.35 if camera.silent_s else 1.0)
        painter.drawImage(QtCore.QPointF(left, top), theme.to_qimage(drawn))
        painter.setOpacity(1.0)
        if camera.silent_s:
            theme.text(
                painter,
                area,
                captions.silence(camera),
                size_px=16,
                color=theme.AMBER,
                align=QtCore.Qt.AlignCenter,
                bold=True,
            )
