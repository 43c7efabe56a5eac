"""The viewer's own window: shown until it is closed or a signal asks for its end; says when a demo run is over."""

import signal
import sys
from contextlib import suppress

from qtpy import QtCore

from grids_rqt.feeds.demo import DemoRun
from grids_rqt.views.panel import Panel

LOOK_MS = 100
END_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class EndRequest:
    """SIGINT, SIGTERM and SIGHUP as a wish in `asked`, so that everything that was started is also ended.

    A context manager; the former handlers are back after it. A SIGHUP that is ignored, as under nohup, stays so.
    """

    def __init__(self) -> None:
        self.asked = ""
        self._former = {}

    def __enter__(self) -> "EndRequest":
        for number in END_SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                self._former[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_exception) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, _frame) -> None:
        self.asked = signal.Signals(number).name


class Watch:
    """Looks from within the event loop, where Python's signal handlers would not run without a timer of Python's."""

    def __init__(self, application, panel: Panel, end: EndRequest, demo: DemoRun | None) -> None:
        self._application, self._panel, self._end, self._demo = application, panel, end, demo
        self.code = 0
        self._timer = QtCore.QTimer(panel)
        self._timer.timeout.connect(self.look)
        self._timer.start(LOOK_MS)

    def look(self) -> None:
        """Quit where that was asked for; tell once, on screen and on stderr, that the demo is over."""
        if self._end.asked:
            self._application.quit()
        over = self._demo.over() if self._demo is not None else None
        if over is None:
            return
        self._demo = None
        self.code = 0 if over.ok else 1
        self._panel.run_over(over.sentence, ok=over.ok)
        with suppress(OSError):  # the terminal may be gone
            sys.stderr.write(f"grids view: {over.sentence}\n")
            sys.stderr.flush()


def show(application, panel: Panel, end: EndRequest, demo: DemoRun | None = None) -> int:
    """Until the window is closed or a signal came; 1 where the demo failed."""
    watch = Watch(application, panel, end, demo)
    panel.show()
    return int(application.exec()) or watch.code
