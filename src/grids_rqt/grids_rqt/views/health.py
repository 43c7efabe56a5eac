"""The boxes with latency per stage, queue and counters, and with the state of each servo."""

import math

from qtpy import QtCore, QtGui

from grids_rqt import captions
from grids_rqt.view_model import Servo, ViewState
from grids_rqt.views import theme


class LatencyView(theme.Box):
    """A bar per stage (p50 solid, p95 lighter, p99 a mark); below them queue, chunk age and counters."""

    def __init__(self) -> None:
        super().__init__("Latency and queue", (240, 190))

    def title(self) -> str:
        return captions.policy_title(self._state) if self._state else "Policy"

    def paint(self, painter: QtGui.QPainter, area: QtCore.QRectF) -> None:
        state: ViewState = self._state
        numbers = captions.readings(state)
        table_top = area.bottom() - 15 * math.ceil(len(numbers) / 2)
        self._bars(painter, QtCore.QRectF(area.left(), area.top(), area.width(), table_top - area.top() - 4), state)
        for i, number in enumerate(numbers):
            x = area.left() + (i % 2) * area.width() / 2
            rect = QtCore.QRectF(x, table_top + 15 * (i // 2), area.width() / 2 - 8, 15)
            theme.text(
                painter, rect, number.value, size_px=11, color=theme.LEVELS[number.level], align=QtCore.Qt.AlignRight,
                bold=True,
            )  # fmt: skip
            rect.setRight(rect.right() - painter.fontMetrics().horizontalAdvance(number.value) - 4)
            theme.text(painter, rect, number.name, size_px=10, color=theme.MUTED)

    def _bars(self, painter: QtGui.QPainter, area: QtCore.QRectF, state: ViewState) -> None:
        stages = state.policy.stages if state.policy else ()
        if not stages:
            words = "no latency reported yet"
            theme.text(painter, area, words, color=theme.MUTED, align=QtCore.Qt.AlignCenter)
            return
        head = QtCore.QRectF(area.left(), area.top(), area.width(), 13)
        words = "ms over the last minute: ▬ p50  ▭ p95  | p99"
        theme.text(painter, head, words, size_px=10, color=theme.MUTED)
        row = min(24.0, (area.height() - 14) / len(stages))
        longest = max(max(row[1:]) for row in stages) or 1.0
        name_w, number_w = 76.0, 92.0
        room = area.width() - name_w - number_w - 8
        for i, (name, p50, p95, p99) in enumerate(stages):
            y = area.top() + 14 + i * row
            line = QtCore.QRectF(area.left(), y, name_w, row)
            theme.text(painter, line, name.replace("_", " "), size_px=10, bold=name == "total")
            x = area.left() + name_w + 4
            top, height = y + row * 0.2, row * 0.6
            painter.setPen(QtCore.Qt.NoPen)
            painter.setBrush(QtGui.QColor(86, 180, 233, 90))
            painter.drawRect(QtCore.QRectF(x, top, room * p95 / longest, height))
            painter.setBrush(theme.BLUE)
            painter.drawRect(QtCore.QRectF(x, top, room * p50 / longest, height))
            painter.setPen(QtGui.QPen(theme.AMBER, 2))
            mark = x + room * p99 / longest
            painter.drawLine(QtCore.QPointF(mark, top - 1), QtCore.QPointF(mark, top + height + 1))
            numbers = QtCore.QRectF(area.right() - number_w, y, number_w, row)
            values = captions.stage_ms((p50, p95, p99))
            theme.text(painter, numbers, values, size_px=10, align=QtCore.Qt.AlignRight)


class ServoView(theme.Box):
    """One line per servo: angle, load as a bar, temperature, voltage, torque, errors."""

    COLUMNS = (("joint", 0.27), ("angle", 0.15), ("load", 0.23), ("temp.", 0.14), ("volts", 0.11), ("torq.", 0.10))

    def __init__(self) -> None:
        super().__init__("Servos", (280, 170))

    def title(self) -> str:
        return captions.servos_title(self._state) if self._state else "Servos"

    def _cells(self, area: QtCore.QRectF, y: float, height: float) -> list[QtCore.QRectF]:
        x, cells = area.left(), []
        for _, share in self.COLUMNS:
            cells.append(QtCore.QRectF(x, y, share * area.width() - 4, height))
            x += share * area.width()
        return cells

    def paint(self, painter: QtGui.QPainter, area: QtCore.QRectF) -> None:
        for (name, _), cell in zip(self.COLUMNS, self._cells(area, area.top(), 14), strict=True):
            align = QtCore.Qt.AlignLeft if name == "joint" else QtCore.Qt.AlignRight
            theme.text(painter, cell, name, size_px=10, color=theme.MUTED, align=align)
        servos = self._state.servos
        if not servos:
            return
        height = min(30.0, (area.height() - 15) / len(servos))
        for i, servo in enumerate(servos):
            self._servo(painter, self._cells(area, area.top() + 15 + i * height, height), servo)

    @staticmethod
    def _servo(painter: QtGui.QPainter, cells: list[QtCore.QRectF], servo: Servo) -> None:
        problem = captions.servo_problem(servo)
        right = QtCore.Qt.AlignRight
        color = theme.RED if problem else theme.TEXT
        theme.text(painter, cells[0], ("✖ " if problem else "") + servo.name, size_px=10, color=color)
        theme.text(painter, cells[1], f"{math.degrees(servo.position_rad):.1f}°", size_px=10, align=right)
        bar = QtCore.QRectF(cells[2].left() + 8, cells[2].center().y() - 4, cells[2].width() - 44, 8)
        painter.setPen(QtCore.Qt.NoPen)
        painter.setBrush(theme.LINE)
        painter.drawRect(bar)
        share = min(1.0, abs(servo.load))
        painter.setBrush(theme.LEVELS[captions.level(share, captions.LOAD_WARN, captions.LOAD_HIGH)])
        painter.drawRect(QtCore.QRectF(bar.left(), bar.top(), bar.width() * share, bar.height()))
        number = QtCore.QRectF(bar.right(), cells[2].top(), 36, cells[2].height())
        theme.text(painter, number, f"{100 * servo.load:.0f} %", size_px=10, align=right)
        heat = captions.level(servo.temperature_c, captions.TEMPERATURE_WARN_C, captions.TEMPERATURE_HOT_C)
        heat = theme.TEXT if heat == captions.GOOD else theme.LEVELS[heat]
        theme.text(painter, cells[3], f"{servo.temperature_c:.0f} °C", size_px=10, color=heat, align=right)
        theme.text(painter, cells[4], f"{servo.voltage_v:.1f}", size_px=10, align=right)
        word = "on" if servo.torque else "off"
        theme.text(painter, cells[5], word, size_px=10, color=theme.TEXT if servo.torque else theme.AMBER, align=right)
