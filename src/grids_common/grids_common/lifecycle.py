"""Base class of the lifecycle nodes, with logged exceptions, and the `main` function of every node.

rclpy turns an exception in a transition callback into the ERROR state without logging it. Here every transition is
wrapped: the cause is logged (the run manager reads it from /rosout), and `make_safe` releases all resources. The node
is then unconfigured again, whichever transition failed. A request for a transition that the state does not allow raises
in rclpy and would end the process; here it is answered with success=false, whoever asks.
"""

import ctypes
import signal
import time
import traceback
from abc import abstractmethod
from collections.abc import Callable
from contextlib import suppress
from typing import Literal

import rclpy
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import SetParametersResult
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions

from grids_common.signals import StopRequest, ignore_from_now_on, limit_exit

SIGNAL_POLL_S = 0.1
CLOCK_WAIT_S = 5.0
SAME_SIGNAL_S = 0.3  # a second SIGINT within this time is the same request


class SetupError(RuntimeError):
    """A problem outside the program. The message states what was expected, what was found and what to do."""


class ManagedNode(LifecycleNode):
    """A lifecycle node with five hooks. A hook raises to make its transition fail. All run in the executor's thread."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._autostart = self.declare_parameter("autostart", False).value
        self.failed = False
        for service in self.services:
            if service.srv_type is ChangeState:
                service.callback = self._refusing(service.callback)

    def _refusing(self, change_state: Callable) -> Callable:
        """`change_state` of rclpy, which refuses what the present state does not allow instead of raising."""

        def answer(request: ChangeState.Request, response: ChangeState.Response) -> ChangeState.Response:
            _, state = self._state_machine.current_state
            try:
                return change_state(request, response)
            except Exception as error:  # rclpy raises its own RCLError, which is in no public module
                wanted = request.transition.label or request.transition.id
                possible = sorted({label for _, label, *_ in self._state_machine.available_transitions})
                self.get_logger().warning(
                    f"lifecycle transition {wanted!r} refused in state {state!r}, nothing was changed; "
                    f"possible now: {', '.join(possible) or 'none'} ({str(error).splitlines()[0]})"
                )
                response.success = False
                return response

        return answer

    @abstractmethod
    def configure(self) -> None:
        """Unconfigured → inactive: open devices, allocate memory, load files, warm up."""

    @abstractmethod
    def activate(self) -> None:
        """Inactive → active: clear command buffers, start threads and timers."""

    @abstractmethod
    def deactivate(self) -> None:
        """Active → inactive: the reverse of `activate`."""

    @abstractmethod
    def cleanup(self) -> None:
        """Inactive → unconfigured: the reverse of `configure`."""

    @abstractmethod
    def make_safe(self) -> None:
        """Stop threads and release all resources, in any state: after a failure and before the process ends.

        Must not raise.
        """

    def autostart(self) -> None:
        """Configure and activate the node itself if its parameter `autostart` is true. SystemExit(1) on failure."""
        if not self._autostart:
            return
        ok = self.trigger_configure() == TransitionCallbackReturn.SUCCESS
        if not ok or self.trigger_activate() != TransitionCallbackReturn.SUCCESS:
            self.failed = True
            raise SystemExit(1)

    def _run(
        self, hook, what: str, failed: TransitionCallbackReturn = TransitionCallbackReturn.ERROR
    ) -> TransitionCallbackReturn:
        """Run a hook. An exception returns `failed`: after ERROR rclpy calls `on_error`, after FAILURE it does not."""
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


class _SpinSignals:
    """SIGINT and SIGTERM of a node, whose ROS context stays valid until `make_safe` has returned.

    "starting": SIGINT raises KeyboardInterrupt. "spinning": in a lifecycle node SIGINT does so too, since a transition
    may take minutes; with `outlive_signals` the first signal only ends the spin, and a later SIGINT raises, which ends
    a `make_safe` that hangs. A plain node finishes the callback it is in: an interrupted one could leave a bag or a
    video that nobody closes. "ending": signals are ignored, so that whoever presses Ctrl-C twice still gets a whole
    video. Under ros2 launch one Ctrl-C may arrive twice: from the terminal and from launch.
    """

    def __init__(self, *, outlive_signals: bool) -> None:
        self.phase: Literal["starting", "spinning", "ending"] = "starting"
        self.finish_callbacks = False
        self._outlive = outlive_signals
        self._first_s: float | None = None
        self._request = StopRequest((signal.SIGINT, signal.SIGTERM), interrupt=self._interrupts)
        self._request.install()
        signal.signal(signal.SIGTERM, self._on_terminate)

    def _on_terminate(self, number: int, frame: object) -> None:
        # A constructor may wait a minute for another process, and looks at no request meanwhile.
        number = signal.SIGINT if self.phase == "starting" else number
        self._request._on_signal(number, frame)  # noqa: SLF001

    @property
    def requested(self) -> str:
        """The name of the last signal, or an empty string."""
        return self._request.requested

    def _interrupts(self) -> bool:
        now = time.monotonic()
        first_s = self._first_s = self._first_s or now
        if self.phase == "ending" or (self.phase == "spinning" and self.finish_callbacks):
            return False
        if self.phase == "spinning" and self._outlive:
            return now - first_s > SAME_SIGNAL_S
        self.phase = "ending"
        return True


def _spin(executor: SingleThreadedExecutor, signals: _SpinSignals) -> None:
    signals.phase = "spinning"
    while not signals.requested and rclpy.ok():
        executor.spin_once(timeout_sec=SIGNAL_POLL_S)


def _end(node, signals: _SpinSignals) -> None:
    """Make the node safe and destroy it. A SIGINT meanwhile ends `make_safe` only."""
    try:
        if isinstance(node, ManagedNode):
            node.make_safe()
    except KeyboardInterrupt:
        node.get_logger().warning("interrupted again: ending before the node was made safe completely")
    finally:
        signals.phase = "ending"
        node.destroy_node()


def keep_freed_memory() -> None:
    """Make glibc keep freed image buffers. By default it returns them to the system and maps new pages for each image.

    See mallopt(3). One of the two settings alone would disable glibc's own adaptation and be slower, so the second is
    made only after the first succeeded. Without glibc nothing happens.
    """
    trim_threshold, mmap_threshold = -1, -3
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        if mallopt(mmap_threshold, 32 << 20):
            mallopt(trim_threshold, 256 << 20)


def wait_for_clock(node: Node, spin: Callable[[], object]) -> None:
    """With use_sim_time, wait for the first message on /clock; SetupError after CLOCK_WAIT_S without one.

    Until then the ROS clock stands at 0, and every image and joint state would be stamped 0. From then on the
    parameter cannot be changed. spin: handles one message of the node.
    """
    if node.get_parameter("use_sim_time").value:
        deadline = time.monotonic() + CLOCK_WAIT_S
        while node.get_clock().now().nanoseconds == 0 and rclpy.ok():
            if time.monotonic() > deadline:
                raise SetupError(
                    f"use_sim_time is true: expected a time on /clock within {CLOCK_WAIT_S:.0f} s, got none; "
                    "start what publishes /clock (ros2 bag play --clock, a simulator), or set use_sim_time to false"
                )
            spin()
    node.add_on_set_parameters_callback(_refuse_another_clock)


def _refuse_another_clock(changes: list[Parameter]) -> SetParametersResult:
    if any(change.name == "use_sim_time" for change in changes):
        reason = "use_sim_time: expected at the start of the node only, since stamps of two clocks cannot be compared"
        return SetParametersResult(successful=False, reason=reason)
    return SetParametersResult(successful=True)


def run_node(make_node, args=None, *, outlive_signals: bool = False) -> int:
    """The `main` of every node: init rclpy, spin a node in this thread, make it safe, shut down. Returns the exit code.

    SIGINT and SIGTERM end the spin with exit code 0. SetupError and ParameterError in the constructor log one sentence
    and give exit code 2; a failed autostart gives 1. With `outlive_signals` the ROS context stays valid after a signal,
    so that topics and services work while `make_safe` runs, which may spin `self.executor`. A second SIGINT raises
    KeyboardInterrupt in `make_safe`; the node is still destroyed and the context shut down.
    """
    keep_freed_memory()
    signals = _SpinSignals(outlive_signals=outlive_signals)
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    node = None
    try:
        node = make_node()
        signals.finish_callbacks = not isinstance(node, ManagedNode)
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        wait_for_clock(node, lambda: executor.spin_once(timeout_sec=SIGNAL_POLL_S))
        if isinstance(node, ManagedNode):
            node.autostart()
        _spin(executor, signals)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except (SetupError, ValueError) as error:
        rclpy.logging.get_logger("main").fatal(str(error))
        return 2
    except RuntimeError:
        # A KeyboardInterrupt while rclpy converts a message arrives as a RuntimeError; any other one is a bug.
        if rclpy.ok() and not signals.requested:
            raise
    except SystemExit as error:
        return int(error.code or 0)
    finally:
        try:
            if node is not None:
                _end(node, signals)
        finally:
            limit_exit()
            rclpy.try_shutdown()
            ignore_from_now_on()
    return 0
