"""The panel: emergency stop, and below it controls, cameras, latency, joints, maps, servos. Independent of ROS.

The stop and the driver's state stay in view at every size: the rest is in a scroll area, so two panels fit together.
"""

from collections.abc import Callable
from dataclasses import fields

from qtpy import QtCore, QtGui, QtWidgets

from grids_perception.overlay.draw import Style
from grids_rqt import captions
from grids_rqt.controls import MODES, AbstractControls
from grids_rqt.drawing import LAYERS
from grids_rqt.view_model import Model, ViewState
from grids_rqt.views import theme
from grids_rqt.views.camera import CameraView
from grids_rqt.views.chunk import ChunkView
from grids_rqt.views.health import LatencyView, ServoView
from grids_rqt.views.maps import MapsView

REFRESH_MS = 45


class Header(QtWidgets.QWidget):
    """Mode, state and reason of the driver and the emergency stop. `tools`: the row of all other controls.

    The minimum width is that of the stop and a little text, so no dock or window of a usual size cuts it off.
    """

    reported = QtCore.Signal(bool, str)  # carries results from the ROS thread into the GUI thread

    def __init__(self, controls: AbstractControls | None) -> None:
        super().__init__()
        self._controls, self._shown_reason = controls, None
        self._gone = ("no more messages on /follower/status: is the driver running?", False)
        self._mode = theme.ElidedLabel("–")
        self._mode.setMinimumWidth(60)
        self._reason = theme.ElidedLabel(captions.NO_DRIVER)
        self._instruction = QtWidgets.QLineEdit()
        self._instruction.setPlaceholderText("instruction for the policy")
        self._send = QtWidgets.QPushButton("Send")
        self._modes = QtWidgets.QComboBox()
        self._modes.addItems(MODES)
        self._set_mode = QtWidgets.QPushButton("Set mode")
        self._reset = QtWidgets.QPushButton("Reset stop")
        self._estop = QtWidgets.QPushButton("■  EMERGENCY STOP")
        self._estop.setObjectName("estop")
        # Not the button's own shortcut: rqt can show several panels, and Qt activates none of several equal shortcuts.
        self._escape = QtWidgets.QShortcut(QtGui.QKeySequence(QtCore.Qt.Key_Escape), self)
        self._escape.setAutoRepeat(False)
        self._escape.activated.connect(self._estop.click)
        self._escape.activatedAmbiguously.connect(self._estop.click)
        self._estop.setToolTip("Stops the arm where it is, torque on (Esc)")
        self.tools = QtWidgets.QWidget()
        self._arrange()
        self._connect()

    def _arrange(self) -> None:
        row, words = QtWidgets.QHBoxLayout(self), QtWidgets.QVBoxLayout()
        row.setContentsMargins(8, 6, 8, 0)
        words.setSpacing(2)
        words.addWidget(self._mode)
        words.addWidget(self._reason)  # on its own line: the reason for a stop is a sentence
        row.addLayout(words, 1)
        row.addWidget(self._estop)
        fixed = QtWidgets.QSizePolicy.Fixed
        self._estop.setSizePolicy(fixed, fixed)
        self.setSizePolicy(QtWidgets.QSizePolicy.Preferred, fixed)
        tools = QtWidgets.QHBoxLayout(self.tools)
        tools.setContentsMargins(2, 0, 2, 0)
        self._instruction.setMinimumWidth(160)
        tools.addWidget(self._instruction, 1)
        for widget in (self._send, self._modes, self._set_mode, self._reset):
            tools.addWidget(widget)

    def _connect(self) -> None:
        live = (self._send, self._modes, self._set_mode, self._reset, self._estop, self._instruction)
        for widget in live:
            widget.setEnabled(self._controls is not None)
        if self._controls is None:
            return
        self._controls.report = self.reported.emit
        self.reported.connect(self._show_report)
        self._send.clicked.connect(self._instruct)
        self._instruction.returnPressed.connect(self._send.click)
        self._set_mode.clicked.connect(lambda: self._controls.set_mode(self._modes.currentText()))
        self._reset.clicked.connect(self._controls.reset_estop)
        self._estop.clicked.connect(self._controls.estop)

    def _instruct(self) -> None:
        self._instruction.setModified(False)  # sent: the field shows the policy's instruction again
        self._instruction.clearFocus()
        self._controls.instruct(self._instruction.text().strip())

    def _show_report(self, ok: bool, sentence: str) -> None:  # noqa: FBT001 - a Qt slot
        color = theme.TEXT if ok else theme.AMBER
        self._reason.setStyleSheet(f"color: {color.name()}")
        self._reason.setText(sentence)

    def show_run_end(self, sentence: str, *, ok: bool) -> None:
        """Show the sentence now, and again when the driver's status has disappeared."""
        self._gone = (sentence, ok)
        self._show_report(ok, sentence)

    def show_state(self, state: ViewState) -> None:
        """Update all texts."""
        driver, words = state.driver, captions.headline(state)
        self._mode.setText(words.name)
        self._mode.setStyleSheet(f"color: {theme.LEVELS[words.level].name()}; font-size: 14px; font-weight: bold")
        if driver is None and self._shown_reason is not None:
            self._shown_reason = None
            sentence, ok = self._gone
            self._show_report(ok, sentence)
        if driver is not None and driver.reason != self._shown_reason:
            self._shown_reason = driver.reason  # the result of a button stays until the driver's reason changes
            self._show_report(words.level != captions.BAD, driver.reason)
        if not self._instruction.hasFocus() and not self._instruction.isModified():
            self._instruction.setText(state.instruction)
            self._instruction.setToolTip(state.instruction)
            self._instruction.setCursorPosition(0)


class Panel(QtWidgets.QWidget):
    """The viewer's main widget. After `start` it shows snapshots of `model` at `now_ns()`, about 20 per second."""

    def __init__(
        self,
        model: Model,
        now_ns: Callable[[], int],
        cameras: tuple[str, ...],
        controls: AbstractControls | None = None,
    ) -> None:
        super().__init__()
        self.setObjectName("GridsPanel")
        self.setWindowTitle("GridS")
        self.setStyleSheet(theme.STYLE_SHEET)
        self.setAttribute(QtCore.Qt.WA_StyledBackground, True)  # inside rqt the parent's colour would show through
        self._model, self._now_ns = model, now_ns
        self._header = Header(controls)
        self._cameras = [CameraView(name) for name in cameras]
        self._boxes = [*self._cameras, LatencyView(), ChunkView(), MapsView(cameras), ServoView()]
        self._problems = theme.ElidedLabel()
        self._layers = {}
        self._arrange()
        self._timer = QtCore.QTimer(self)
        self._timer.timeout.connect(self.refresh)
        self.frames = 0

    def _arrange(self) -> None:
        latency, chunk, maps, servos = self._boxes[len(self._cameras) :]
        toggles = QtWidgets.QHBoxLayout()
        toggles.setContentsMargins(10, 0, 10, 0)
        toggles.addWidget(QtWidgets.QLabel("Draw:"))
        for layer in LAYERS:
            box = QtWidgets.QCheckBox(layer)
            box.setChecked(getattr(Style(), layer))
            box.toggled.connect(self._apply_layers)
            toggles.addWidget(box)
            self._layers[layer] = box
        toggles.addStretch(1)
        toggles.addWidget(self._problems, 6)
        top, bottom = QtWidgets.QHBoxLayout(), QtWidgets.QHBoxLayout()
        for view in self._cameras:
            top.addWidget(view, 10)
        top.addWidget(latency, 7)
        for box, stretch in ((chunk, 11), (maps, 9), (servos, 7)):
            bottom.addWidget(box, stretch)
        body = QtWidgets.QWidget()
        column = QtWidgets.QVBoxLayout(body)
        column.setContentsMargins(6, 0, 6, 6)
        column.setSpacing(5)
        column.addWidget(self._header.tools)
        column.addLayout(top, 13)
        column.addLayout(toggles)
        column.addLayout(bottom, 11)
        self._scroll(body)
        self._apply_layers()

    def _scroll(self, body: QtWidgets.QWidget) -> None:
        """The header above, and `body` in a scroll area that may become as small as the window asks for."""
        area = QtWidgets.QScrollArea()
        area.setWidgetResizable(True)
        area.setFrameShape(QtWidgets.QFrame.NoFrame)
        area.setMinimumSize(1, 1)
        area.setWidget(body)
        outer = QtWidgets.QVBoxLayout(self)
        outer.setContentsMargins(0, 4, 0, 0)
        outer.setSpacing(5)
        outer.addWidget(self._header)
        outer.addWidget(area, 1)

    def _apply_layers(self) -> None:
        chosen = {name: box.isChecked() for name, box in self._layers.items()}
        for view in self._cameras:
            view.style_now = Style(**chosen, legend=False)
            view.update()

    def layers(self) -> dict[str, bool]:
        """The layers and whether each is drawn, for the saved settings."""
        return {name: box.isChecked() for name, box in self._layers.items()}

    def set_layers(self, chosen: dict[str, bool]) -> None:
        """Restore saved layers; unknown names are ignored."""
        known = {f.name for f in fields(Style)} & set(self._layers)
        for name in known & set(chosen):
            self._layers[name].setChecked(bool(chosen[name]))

    def start(self) -> None:
        """Start the refresh timer."""
        self._timer.start(REFRESH_MS)

    def stop(self) -> None:
        """Stop the refresh timer."""
        self._timer.stop()

    def show_run_end(self, sentence: str, *, ok: bool) -> None:
        """Show in the header why the run has ended."""
        self._header.show_run_end(sentence, ok=ok)

    def refresh(self) -> None:
        """Show a new snapshot of the view model."""
        self.show_state(self._model.snapshot(self._now_ns()))

    def show_state(self, state: ViewState) -> None:
        """Show one snapshot in all boxes."""
        self.frames += 1
        self._header.show_state(state)
        for box in self._boxes:
            box.show_state(state)
        words = "⚠ " + "   ⚠ ".join(state.problems) if state.problems else ""
        self._problems.setText(words)
        self._problems.setToolTip("\n".join(state.problems))
        self._problems.setStyleSheet(f"color: {theme.AMBER.name()}")
        self._problems.setAlignment(QtCore.Qt.AlignRight | QtCore.Qt.AlignVCenter)
