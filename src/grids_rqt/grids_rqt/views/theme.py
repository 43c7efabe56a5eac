"""Colours, fonts and the painting functions that the viewer's boxes share.

Colours are Okabe and Ito's, which can be distinguished with colour blindness. No state is shown by colour alone.
"""

import numpy as np
from qtpy import QtCore, QtGui, QtWidgets

BACKGROUND = QtGui.QColor(18, 20, 25)
PANEL = QtGui.QColor(28, 31, 38)
LINE = QtGui.QColor(58, 63, 74)
TEXT = QtGui.QColor(232, 234, 238)
MUTED = QtGui.QColor(150, 156, 166)
BLUE = QtGui.QColor(86, 180, 233)
AMBER = QtGui.QColor(240, 190, 40)
GREEN = QtGui.QColor(0, 180, 135)
RED = QtGui.QColor(225, 85, 40)  # vermilion: also differs from green in lightness
LEVELS = {"": TEXT, "run": BLUE, "good": GREEN, "warn": AMBER, "bad": RED}  # of grids_rqt.captions

STYLE_SHEET = """
QWidget { background: rgb(18, 20, 25); color: rgb(232, 234, 238); font-size: 12px; }
QToolTip { background: rgb(45, 49, 58); color: rgb(232, 234, 238); border: 1px solid rgb(90, 96, 108); }
QLineEdit, QComboBox { background: rgb(38, 42, 51); border: 1px solid rgb(70, 76, 88); border-radius: 4px;
  padding: 4px 6px; }
QPushButton { background: rgb(48, 53, 64); border: 1px solid rgb(80, 86, 98); border-radius: 4px; padding: 5px 10px; }
QPushButton:hover { background: rgb(62, 68, 81); }
QPushButton:disabled { color: rgb(110, 114, 122); }
QPushButton:checked { background: rgb(30, 92, 130); border-color: rgb(86, 180, 233); }
QPushButton#estop { background: rgb(196, 48, 20); border: 2px solid rgb(255, 170, 140); color: white;
  font-weight: bold; font-size: 14px; padding: 7px 16px; }
QPushButton#estop:hover { background: rgb(226, 70, 34); }
QCheckBox { spacing: 6px; margin-right: 8px; }
QCheckBox::indicator { width: 11px; height: 11px; border: 1px solid rgb(150, 156, 166); border-radius: 3px; }
QCheckBox::indicator:checked { background: rgb(86, 180, 233); border-color: rgb(86, 180, 233); }
"""


def font(size_px: int, *, bold: bool = False) -> QtGui.QFont:
    """The viewer's font in a size in pixels."""
    result = QtGui.QFont("DejaVu Sans")
    result.setPixelSize(size_px)
    result.setBold(bold)
    return result


def to_qimage(rgb: np.ndarray) -> QtGui.QImage:
    """RGB uint8 (H, W, 3) → QImage that owns its pixels."""
    rgb = np.ascontiguousarray(rgb)
    height, width = rgb.shape[:2]
    return QtGui.QImage(rgb.data, width, height, 3 * width, QtGui.QImage.Format_RGB888).copy()


def text(
    painter: QtGui.QPainter,
    rect: QtCore.QRectF,
    words: str,
    *,
    size_px: int = 11,
    color: QtGui.QColor = TEXT,
    align: QtCore.Qt.AlignmentFlag = QtCore.Qt.AlignLeft,
    bold: bool = False,
) -> None:
    """Draw one line of text, vertically centred in the rectangle; cut with an ellipsis if it is too wide."""
    painter.setFont(font(size_px, bold=bold))
    painter.setPen(color)
    words = painter.fontMetrics().elidedText(words, QtCore.Qt.ElideRight, int(rect.width()))
    flags = align | QtCore.Qt.AlignVCenter
    painter.drawText(rect, int(getattr(flags, "value", flags)), words)  # Qt 6 enums keep their number in .value


class ElidedLabel(QtWidgets.QLabel):
    """A label whose text is cut with an ellipsis to the available width; the full text is its tooltip."""

    def __init__(self, words: str = "") -> None:
        super().__init__()
        self.setSizePolicy(QtWidgets.QSizePolicy.Ignored, QtWidgets.QSizePolicy.Preferred)
        self.setText(words)

    def setText(self, words: str) -> None:  # noqa: N802 - Qt's name
        super().setText(words)
        self.setToolTip(words)

    def paintEvent(self, event) -> None:  # noqa: N802 - Qt's name
        painter = QtGui.QPainter(self)
        words = self.fontMetrics().elidedText(self.text(), QtCore.Qt.ElideRight, self.width())
        flags = self.alignment() | QtCore.Qt.TextSingleLine
        painter.setPen(self.palette().color(self.foregroundRole()))
        painter.drawText(self.rect(), int(getattr(flags, "value", flags)), words)  # Qt 6 enums keep it in .value
        painter.end()


class Box(QtWidgets.QWidget):
    """A box with a title. Subclasses implement `paint`; `show_state` stores the ViewState that they paint."""

    def __init__(self, title: str, minimum: tuple[int, int]) -> None:
        super().__init__()
        self._title, self._state = title, None
        self.setMinimumSize(*minimum)
        self.setSizePolicy(QtWidgets.QSizePolicy.Expanding, QtWidgets.QSizePolicy.Expanding)

    def show_state(self, state) -> None:
        """Store a ViewState and schedule a repaint."""
        self._state = state
        self.update()

    def title(self) -> str:
        """The title line; subclasses add values to it."""
        return self._title

    def paint(self, painter: QtGui.QPainter, area: QtCore.QRectF) -> None:
        """Paint the stored state into `area`. Called if a state is stored."""
        raise AssertionError("a Box is painted by its subclass")

    def paintEvent(self, event) -> None:  # noqa: N802 - Qt's name
        painter = QtGui.QPainter(self)
        painter.setRenderHints(QtGui.QPainter.Antialiasing | QtGui.QPainter.TextAntialiasing)
        frame = QtCore.QRectF(self.rect()).adjusted(0.5, 0.5, -0.5, -0.5)
        painter.setPen(QtGui.QPen(LINE, 1))
        painter.setBrush(PANEL)
        painter.drawRoundedRect(frame, 5, 5)
        head = QtCore.QRectF(frame.left() + 9, frame.top() + 3, frame.width() - 18, 20)
        text(painter, head, self.title(), size_px=12, bold=True)
        if self._state is not None:
            self.paint(painter, frame.adjusted(9, 25, -9, -7))
        painter.end()
