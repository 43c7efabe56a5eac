"""The viewer's window outside rqt: shown until it is closed or a stop signal arrives; reports the end of a demo run."""

import sys
from contextlib import suppress

from qtpy import QtCore

from grids_common.signals import StopRequest
from grids_rqt.feeds.demo import DemoRun
from grids_rqt.views.panel import Panel

POLL_MS = 100


class WindowMonitor:
    """A timer that checks for a stop signal and for the end of the demo run.

    Without a Python timer in Qt's event loop, Python would not run its signal handlers.
    """

    def __init__(self, application, panel: Panel, stop: StopRequest, demo: DemoRun | None) -> None:
        self._application, self._panel, self._stop, self._demo = application, panel, stop, demo
        self.code = 0
        self._timer = QtCore.QTimer(panel)
        self._timer.timeout.connect(self.check)
        self._timer.start(POLL_MS)

    def check(self) -> None:
        """Quit after a stop signal; report the end of the demo run once, on screen and on stderr."""
        if self._stop.requested:
            self._application.quit()
        result = self._demo.result() if self._demo is not None else None
        if result is None:
            return
        self._demo = None
        self.code = 0 if result.ok else 1
        self._panel.show_run_end(result.sentence, ok=result.ok)
        with suppress(OSError):  # the terminal may be gone
            sys.stderr.write(f"grids view: {result.sentence}\n")
            sys.stderr.flush()


def show(application, panel: Panel, stop: StopRequest, demo: DemoRun | None = None) -> int:
    """Show the panel until its window is closed or a stop signal arrives. Returns 1 if the demo failed, else 0."""
    monitor = WindowMonitor(application, panel, stop, demo)
    panel.show()
    return int(application.exec()) or monitor.code
