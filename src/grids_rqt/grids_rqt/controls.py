"""What the viewers' buttons do: emergency stop, its reset, mode and instruction. No ROS, no window."""

from abc import ABC, abstractmethod
from collections.abc import Callable

MODES = ("idle", "policy", "teleop", "freedrive")


class AbstractControls(ABC):
    """The actions of the buttons. No method blocks; results go to `report(ok, sentence)`, from any thread."""

    report: Callable[[bool, str], None]

    @abstractmethod
    def estop(self) -> None:
        """Latch the emergency stop."""

    @abstractmethod
    def reset_estop(self) -> None:
        """Leave the emergency stop or a fault; the driver's mode becomes idle."""

    @abstractmethod
    def set_mode(self, mode: str) -> None:
        """Set the driver's mode, one of MODES."""

    @abstractmethod
    def instruct(self, instruction: str) -> None:
        """Send an instruction to the policy."""
