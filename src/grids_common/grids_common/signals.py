"""SIGINT, SIGTERM and SIGHUP as a request that the program reads, instead of an exception at any line."""

import atexit
import signal
from collections.abc import Callable, Sequence
from typing import Self

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
EXIT_LIMIT_S = 3  # from the end of the program to the end of the process


def _never() -> bool:
    return False


def ignore_from_now_on() -> None:
    """For a process that is about to end: one more Ctrl-C, while the interpreter ends, must not change the exit code.

    Handlers written in Python are gone by then. A blocked signal would still reach another thread.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _limit_exit() -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(EXIT_LIMIT_S)


def limit_exit() -> None:
    """The kernel ends the process with SIGALRM if the interpreter's end takes more than EXIT_LIMIT_S.

    By then everything is saved, and signals are ignored. A graphics or middleware library may wait there for ever for
    a thread that is still inside it.
    """
    atexit.unregister(_limit_exit)
    atexit.register(_limit_exit)


class StopRequest:
    """Stores the name of the last signal in `requested`. A context manager that restores the former handlers.

    A SIGHUP that is already ignored, as under nohup, stays ignored. To be used in the main thread only.
    """

    def __init__(self, signals: Sequence[int] = STOP_SIGNALS, interrupt: Callable[[], bool] = _never) -> None:
        """`interrupt()` is called on each SIGINT, before `requested` changes; if true, KeyboardInterrupt is raised."""
        self.requested = ""
        self._signals, self._interrupt = signals, interrupt
        self._former = {}

    def install(self) -> None:
        """Replace the signal handlers."""
        for number in self._signals:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                self._former[number] = signal.signal(number, self._on_signal)

    def restore(self) -> None:
        """Restore the former signal handlers."""
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former.clear()

    def __enter__(self) -> Self:
        self.install()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.restore()

    def _on_signal(self, number: int, _frame: object) -> None:
        interrupt = number == signal.SIGINT and self._interrupt()
        self.requested = signal.Signals(number).name
        if interrupt:
            raise KeyboardInterrupt
