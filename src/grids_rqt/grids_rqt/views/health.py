"""The boxes with latency per stage, queue and counters, and with the state of each servo."""

import math

from qtpy import QtCore, QtGui

from grids_rqt.view_model import Servo, ViewState
from grids_rqt.views import theme

TEMPERATURE_WARN_C, TEMPERATURE_HOT_C = 50.0, 60.0
LOAD_WARN, LOAD_HIGH = 0.6, 0.85
ERROR_NAMES = {1: "voltage", 2: "angle sensor", 4: "overheat", 8: "overcurrent", 32: "overload"}


def level_color(value: float, warn: float, high: float) -> QtGui.QColor:
    """Green below `warn`, amber below `high`, else red."""
    return theme.RED if value >= high else theme.AMBER if value >= warn else theme.GREEN


def servo_problem(servo: Servo) -> str:
    """The servo's errors as text; "" if there are none."""
    if not servo.answers:
        return "no answer"
    named = [name for bit, name in ERROR_NAMES.items() if servo.errors & bit]
    unknown = servo.errors & ~sum(ERROR_NAMES)
    return ", ".join(named + ([f"bits {unknown:#x}"] if unknown else []))


class LatencyView(theme.Box):
    """A bar per stage (p50 solid, p95 lighter, p99 a mark); below them queue, chunk age and counters."""

    def __init__(self) -> None:
        super().__init__("Latency and queue", (240, 190))

    def title(self) -> str:
        policy = self._state.policy if self._state else None
        if policy is None:
            return "Policy  ·  no status"
        engine = policy.provider.replace("ExecutionProvider", "")
        return "  ·  ".join(part for part in ("Policy", policy.state, engine) if part)

    def paint(self, painter: QtGui.QPainter, area: QtCore.QRectF) -> None:
        state: ViewState = self._state
        numbers = self._numbers(state)
        table_top = area.bottom() - 15 * math.ceil(len(numbers) / 2)
        self._bars(painter, QtCore.QRectF(area.left(), area.top(), area.width(), table_top - area.top() - 4), state)
        for i, (name, value, color) in enumerate(numbers):
            x = area.left() + (i % 2) * area.width() / 2
            rect = QtCore.QRectF(x, table_top + 15 * (i // 2), area.width() / 2 - 8, 15)
            theme.text(painter, rect, value, size_px=11, color=color, align=QtCore.Qt.AlignRight, bold=True)
            rect.setRight(rect.right() - painter.fontMetrics().horizontalAdvance(value) - 4)
            theme.text(painter, rect, name, size_px=10, color=theme.MUTED)

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
            values = " / ".join(f"{v * 1e3:.0f}" if v >= 0.01 else f"{v * 1e3:.1f}" for v in (p50, p95, p99))
            theme.text(painter, numbers, values, size_px=10, align=QtCore.Qt.AlignRight)

    @staticmethod
    def _numbers(state: ViewState) -> list[tuple[str, str, QtGui.QColor]]:
        """(name, value with unit, colour), two per line."""
        rows = []
        driver, policy = state.driver, state.policy
        if driver is not None:
            low = driver.mode == "policy" and driver.queue_s < 0.2
            late = driver.late_ticks / max(1, driver.ticks)
            rows += [
                ("queue left", f"{driver.queue_s:.2f} s", theme.AMBER if low else theme.TEXT),
                ("chunk age", f"{driver.chunk_age_s:.2f} s" if driver.chunk_age_s >= 0 else "–", theme.TEXT),
                ("late ticks", f"{100 * late:.2f} %", theme.AMBER if late > 0.005 else theme.TEXT),
                ("lateness p99", f"{driver.lateness_p99_ms:.1f} ms", theme.TEXT),
                ("bus errors", str(driver.bus_errors), theme.AMBER if driver.bus_errors else theme.TEXT),
                ("chunks refused", str(driver.refused), theme.AMBER if driver.refused else theme.TEXT),
            ]
        if policy is not None:
            rows += [
                ("observation age", f"{policy.observation_age_s * 1e3:.0f} ms", theme.TEXT),
                ("camera skew", f"{policy.skew_s * 1e3:.0f} ms", theme.TEXT),
                ("chunks sent", str(policy.chunks), theme.TEXT),
                ("observations dropped", str(policy.dropped), theme.AMBER if policy.dropped else theme.TEXT),
            ]
        return rows


class ServoView(theme.Box):
    """One line per servo: angle, load as a bar, temperature, voltage, torque, errors."""

    COLUMNS = (("joint", 0.27), ("angle", 0.15), ("load", 0.23), ("temp.", 0.14), ("volts", 0.11), ("torq.", 0.10))

    def __init__(self) -> None:
        super().__init__("Servos", (280, 170))

    def title(self) -> str:
        servos = self._state.servos if self._state else ()
        if not servos:
            return "Servos  ·  no data"
        bad = [f"{s.name}: {servo_problem(s)}" for s in servos if servo_problem(s)]
        return "Servos  ·  " + ("; ".join(bad) if bad else "all answer, no errors")

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
        problem = servo_problem(servo)
        right = QtCore.Qt.AlignRight
        color = theme.RED if problem else theme.TEXT
        theme.text(painter, cells[0], ("✖ " if problem else "") + servo.name, size_px=10, color=color)
        theme.text(painter, cells[1], f"{math.degrees(servo.position_rad):.1f}°", size_px=10, align=right)
        bar = QtCore.QRectF(cells[2].left() + 8, cells[2].center().y() - 4, cells[2].width() - 44, 8)
        painter.setPen(QtCore.Qt.NoPen)
        painter.setBrush(theme.LINE)
        painter.drawRect(bar)
        share = min(1.0, abs(servo.load))
        painter.setBrush(level_color(share, LOAD_WARN, LOAD_HIGH))
        painter.drawRect(QtCore.QRectF(bar.left(), bar.top(), bar.width() * share, bar.height()))
        number = QtCore.QRectF(bar.right(), cells[2].top(), 36, cells[2].height())
        theme.text(painter, number, f"{100 * servo.load:.0f} %", size_px=10, align=right)
        heat = level_color(servo.temperature_c, TEMPERATURE_WARN_C, TEMPERATURE_HOT_C)
        heat = theme.TEXT if heat == theme.GREEN else heat
        theme.text(painter, cells[3], f"{servo.temperature_c:.0f} °C", size_px=10, color=heat, align=right)
        theme.text(painter, cells[4], f"{servo.voltage_v:.1f}", size_px=10, align=right)
        word = "on" if servo.torque else "off"
        theme.text(painter, cells[5], word, size_px=10, color=theme.TEXT if servo.torque else theme.AMBER, align=right)
