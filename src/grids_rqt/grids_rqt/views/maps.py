"""The maps of the paper's Fig. 7, live: retention over the token grid, self-similarity before and after sampling."""

import numpy as np
from qtpy import QtCore, QtGui

from grids_perception.overlay.draw import retention_colors
from grids_rqt.drawing import MAP_NAMES, RETENTION_RANGE, SIMILARITY_RANGE, maps
from grids_rqt.views import theme

SPANS = (RETENTION_RANGE, SIMILARITY_RANGE)


def _color_bar(painter: QtGui.QPainter, area: QtCore.QRectF, bar: QtGui.QImage, span, name: str) -> None:
    """Draw a colour bar with its lowest and highest value and the name of its quantity."""
    room = QtCore.QRectF(area.left() + 26, area.top() + 3, 60, area.height() - 6)
    painter.drawImage(room, bar)
    ends = [(area.left(), 24.0, QtCore.Qt.AlignRight), (room.right() + 3, 24.0, QtCore.Qt.AlignLeft)]
    for (x, width, align), value in zip(ends, span, strict=True):
        rect = QtCore.QRectF(x, area.top(), width, area.height())
        theme.text(painter, rect, f"{value:.1f}", size_px=10, color=theme.MUTED, align=align)
    rest = QtCore.QRectF(room.right() + 30, area.top(), area.right() - room.right() - 30, area.height())
    theme.text(painter, rest, name, size_px=10, color=theme.MUTED)


class MapsView(theme.Box):
    """Per camera one row: retention (eq. 5), self-similarity of the dense tokens, and of the sampled tokens."""

    def __init__(self, cameras: tuple[str, ...]) -> None:
        super().__init__("Retention and token self-similarity", (330, 210))
        self._cameras = cameras
        self._bars = [theme.to_qimage(retention_colors(np.linspace(*s, 64)[None], *s)) for s in SPANS]
        self._columns: dict[str, tuple] = {}  # camera → samples and their maps, cached until new samples arrive
        self.setToolTip(
            "Retention: how similar each dense token is to its nearest sampled one (paper, eq. 5).\n"
            "Self-similarity: cosine between every two tokens. The sampled one is computed from the dense one,\n"
            "taking all dense tokens as equally long."
        )

    def paint(self, painter: QtGui.QPainter, area: QtCore.QRectF) -> None:
        legend = QtCore.QRectF(area.left(), area.bottom() - 15, area.width(), 15)
        half = area.width() / 2
        for i, (bar, span, name) in enumerate(zip(self._bars, SPANS, ("retention", "cosine"), strict=True)):
            _color_bar(painter, QtCore.QRectF(legend.left() + i * half, legend.top(), half, 15), bar, span, name)
        names = 18.0
        column = (area.width() - names) / 3
        row = (area.height() - 16 - 15) / len(self._cameras)
        for i, head in enumerate(MAP_NAMES):
            rect = QtCore.QRectF(area.left() + names + i * column, area.top(), column, 14)
            theme.text(painter, rect, head, size_px=10, color=theme.MUTED, align=QtCore.Qt.AlignCenter)
        for i, name in enumerate(self._cameras):
            strip = QtCore.QRectF(area.left(), area.top() + 15 + i * row, area.width(), row)
            self._paint_camera(painter, strip, name, names, column)

    def _paint_camera(self, painter, strip: QtCore.QRectF, name: str, names: float, column: float) -> None:
        painter.save()
        painter.translate(strip.left() + names / 2, strip.center().y())
        painter.rotate(-90)
        sideways = QtCore.QRectF(-strip.height() / 2, -names / 2, strip.height(), names)
        theme.text(painter, sideways, name, size_px=10, color=theme.MUTED, align=QtCore.Qt.AlignCenter)
        painter.restore()
        camera = self._state.cameras.get(name)
        last = camera.samples[-1] if camera and camera.samples else None
        side = min(column - 6, strip.height() - 16)
        if name not in self._columns or self._columns[name][0] is not last:
            images = [(None if rgb is None else theme.to_qimage(rgb), words) for rgb, words in maps(last)]
            self._columns[name] = (last, images)
        painter.setRenderHint(QtGui.QPainter.SmoothPixmapTransform, False)  # one cell per value
        for i, (image, number) in enumerate(self._columns[name][1]):
            cell = QtCore.QRectF(strip.left() + names + i * column, strip.top(), column, strip.height())
            square = QtCore.QRectF(cell.center().x() - side / 2, cell.top(), side, side)
            if image is None:
                painter.setPen(QtGui.QPen(theme.LINE, 1))
                painter.setBrush(QtCore.Qt.NoBrush)
                painter.drawRect(square)
                words = "no data" if last is None else "not sent"
                theme.text(painter, square, words, size_px=10, color=theme.MUTED, align=QtCore.Qt.AlignCenter)
                continue
            painter.drawImage(square, image)
            below = QtCore.QRectF(cell.left(), square.bottom(), column, 14)
            theme.text(painter, below, number, size_px=10, align=QtCore.Qt.AlignCenter)
