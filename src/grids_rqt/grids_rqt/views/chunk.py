"""Planned and executed joint positions: one plot per joint, in degrees, from the past to the end of the chunk."""

import numpy as np
from qtpy import QtCore, QtGui

from grids_common.so100 import JOINT_NAMES
from grids_rqt.captions import FUTURE_S, PAST_S, chunk_title, curves, value_range
from grids_rqt.views import theme


class ChunkView(theme.Box):
    """Blue: the newest chunk. White: the follower's measured positions. The vertical line is now."""

    def __init__(self) -> None:
        super().__init__("Joints: planned and executed", (380, 210))

    def title(self) -> str:
        return chunk_title(self._state) if self._state else "Joints"

    def paint(self, painter: QtGui.QPainter, area: QtCore.QRectF) -> None:
        state = self._state
        self._legend(painter, QtCore.QRectF(area.left(), area.bottom() - 13, area.width(), 13))
        width, height = area.width() / 3, (area.height() - 14) / 2
        for i, name in enumerate(JOINT_NAMES):
            rect = QtCore.QRectF(area.left() + (i % 3) * width, area.top() + (i // 3) * height, width, height)
            self._joint(painter, rect.adjusted(0, 0, -6, -3), name, *curves(state, i))

    def _legend(self, painter: QtGui.QPainter, area: QtCore.QRectF) -> None:
        x = area.left() + 30
        for color, words, style in (
            (theme.TEXT, "executed", QtCore.Qt.SolidLine),
            (theme.BLUE, "planned", QtCore.Qt.DashLine),
            (theme.AMBER, "now", QtCore.Qt.SolidLine),
        ):
            painter.setPen(QtGui.QPen(color, 2, style))
            painter.drawLine(QtCore.QPointF(x, area.center().y()), QtCore.QPointF(x + 22, area.center().y()))
            rect = QtCore.QRectF(x + 27, area.top(), 70, area.height())
            theme.text(painter, rect, words, size_px=10, color=theme.MUTED)
            x += 95
        rect = QtCore.QRectF(x, area.top(), area.right() - x, area.height())
        span = f"−{PAST_S:g} … +{FUTURE_S:g} s around now, degrees"
        theme.text(painter, rect, span, size_px=10, color=theme.MUTED, align=QtCore.Qt.AlignRight)

    def _joint(self, painter: QtGui.QPainter, rect: QtCore.QRectF, name: str, executed, planned) -> None:
        plot = rect.adjusted(30, 14, 0, 0)
        theme.text(painter, QtCore.QRectF(plot.left(), rect.top(), plot.width(), 13), name, size_px=10)
        low, high = value_range([executed[1], planned[1]])
        painter.setPen(QtGui.QPen(theme.LINE, 1))
        painter.setBrush(theme.BACKGROUND)
        painter.drawRect(plot)
        for value, y in ((high, plot.top() + 6), (low, plot.bottom() - 6)):
            label = QtCore.QRectF(rect.left(), y - 6, 27, 12)
            theme.text(painter, label, f"{value:.0f}°", size_px=9, color=theme.MUTED, align=QtCore.Qt.AlignRight)

        def place(times: np.ndarray, values: np.ndarray) -> QtGui.QPolygonF:
            x = plot.left() + (times + PAST_S) / (PAST_S + FUTURE_S) * plot.width()
            y = plot.bottom() - (values - low) / (high - low) * plot.height()
            good = np.isfinite(y)
            return QtGui.QPolygonF([QtCore.QPointF(*p) for p in np.column_stack([x, y])[good]])

        painter.save()
        painter.setClipRect(plot)
        now_x = plot.left() + PAST_S / (PAST_S + FUTURE_S) * plot.width()
        painter.setPen(QtGui.QPen(theme.AMBER, 1))
        painter.drawLine(QtCore.QPointF(now_x, plot.top()), QtCore.QPointF(now_x, plot.bottom()))
        painter.setPen(QtGui.QPen(theme.TEXT, 1.4))
        painter.drawPolyline(place(*executed))
        painter.setPen(QtGui.QPen(theme.BLUE, 1.8, QtCore.Qt.DashLine))
        painter.drawPolyline(place(*planned))
        painter.restore()
