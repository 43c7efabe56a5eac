"""Lifecycle base that never swallows an exception, and the `main` every node uses.

rclpy turns an exception in a transition callback into a silent ERROR state. Here each transition is wrapped: the
cause is logged as one sentence (and so reaches /rosout, where the run manager shows it), the node is made safe, which
frees everything, and so it is unconfigured again, whichever transition failed.
"""

import ctypes
import signal
import traceback
from abc import abstractmethod
from contextlib import suppress

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.signals import SignalHandlerOptions

SIGNAL_POLL_S = 0.1


class SetupError(RuntimeError):
    """Something outside the program is wrong; the message says what was expected, what came and what to do."""


class ManagedNode(LifecycleNode):
    """Implement the five hooks; raise to refuse. All hooks and callbacks run in the executor's thread.

    configure: open, allocate, load, warm up.  activate: clear command buffers, start threads and timers.
    deactivate / cleanup: the reverse.  make_safe: called after any failure and before the process ends; must not raise.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._autostart = self.declare_parameter("autostart", False).value
        self.failed = False

    @abstractmethod
    def configure(self) -> None: ...
    @abstractmethod
    def activate(self) -> None: ...
    @abstractmethod
    def deactivate(self) -> None: ...
    @abstractmethod
    def cleanup(self) -> None: ...
    @abstractmethod
    def make_safe(self) -> None: ...

    def autostart(self) -> None:
        """Configure and activate without a manager when the parameter `autostart` is true."""
        if not self._autostart:
            return
        ok = self.trigger_configure() == TransitionCallbackReturn.SUCCESS
        if not ok or self.trigger_activate() != TransitionCallbackReturn.SUCCESS:
            self.failed = True
            raise SystemExit(1)

    def _run(
        self, hook, what: str, failed: TransitionCallbackReturn = TransitionCallbackReturn.ERROR
    ) -> TransitionCallbackReturn:
        """`failed`: what an exception ends in; after ERROR rclpy calls `on_error`, after FAILURE it does not."""
        try:
            hook()
        except Exception as error:
            expected = isinstance(error, (SetupError, ValueError, OSError))
            text = str(error) if expected else "".join(traceback.format_exception(error)).strip()
            self.get_logger().fatal(f"cannot {what}: {text}")
            if failed == TransitionCallbackReturn.FAILURE:
                self.make_safe()
            return failed
        return TransitionCallbackReturn.SUCCESS

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._run(self.configure, "configure", TransitionCallbackReturn.FAILURE)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._run(self.activate, "activate")

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._run(self.deactivate, "deactivate")

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._run(self.cleanup, "clean up")

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._run(self.make_safe, "shut down", TransitionCallbackReturn.FAILURE)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._run(self.make_safe, "recover", TransitionCallbackReturn.FAILURE)


class EndRequest:
    """SIGINT and SIGTERM as a wish, so that the context lives until the node is safe.

    A SIGINT before `spinning`, or after any other signal, raises KeyboardInterrupt at once: so the second one ends a
    `make_safe` that hangs. Once `ending`, when only what cannot hang is left, signals are ignored.
    """

    def __init__(self) -> None:
        self.asked = self.spinning = self.ending = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _frame) -> None:
        at_once = (self.asked or not self.spinning) and not self.ending
        self.asked = True
        if number == signal.SIGINT and at_once:
            raise KeyboardInterrupt


def _spin(executor: SingleThreadedExecutor, end: EndRequest | None) -> None:
    if end is None:
        executor.spin()
        return
    end.spinning = True
    while not end.asked and rclpy.ok():
        executor.spin_once(timeout_sec=SIGNAL_POLL_S)


def _end(node, end: EndRequest | None) -> None:
    """Make the node safe and destroy it. A SIGINT meanwhile ends `make_safe` only; a node may take it for a hint."""
    try:
        if isinstance(node, ManagedNode):
            node.make_safe()
    except KeyboardInterrupt:
        node.get_logger().warning("interrupted again: ending without what was left to make safe")
    finally:
        if end is not None:
            end.ending = True
        node.destroy_node()


def keep_buffers() -> None:
    """Let glibc keep freed picture buffers, which it else gives back now and then and maps anew, page by page.

    mallopt(3). Either setting alone ends glibc's own adaptation and would make things worse, so the second follows only
    where the first was taken; without glibc nothing happens.
    """
    trim_threshold, mmap_threshold = -1, -3
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        if mallopt(mmap_threshold, 32 << 20):
            mallopt(trim_threshold, 256 << 20)


def run_node(make_node, args=None, *, outlive_signals: bool = False) -> int:
    """`main` of every node: init, spin one node in this thread, make it safe, shut down. Returns the exit code.

    SIGINT and SIGTERM end the spin cleanly with code 0; SetupError and ParameterError in the constructor print one
    sentence and give code 2; a failed autostart gives 1. `outlive_signals`: topics and services still work while
    `make_safe` runs, which may spin `self.executor`; otherwise a signal ends them first. A second SIGINT raises
    KeyboardInterrupt in `make_safe`; the node is destroyed and the context shut down all the same.
    """
    keep_buffers()
    handlers = SignalHandlerOptions.NO if outlive_signals else SignalHandlerOptions.ALL
    end = EndRequest() if outlive_signals else None
    rclpy.init(args=args, signal_handler_options=handlers)
    node = None
    try:
        node = make_node()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        if isinstance(node, ManagedNode):
            node.autostart()
        _spin(executor, end)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except (SetupError, ValueError) as error:
        rclpy.logging.get_logger("main").fatal(str(error))
        return 2
    except RuntimeError:
        # A signal may invalidate the context while a message is being taken; anything else is a real fault.
        if rclpy.ok():
            raise
    except SystemExit as error:
        return int(error.code or 0)
    finally:
        try:
            if node is not None:
                _end(node, end)
        finally:
            rclpy.try_shutdown()
    return 0
