"""The exceptions of the package. Messages contain what was expected, what was found and what to do."""

from grids_common.errors import GridsError


class DriverError(GridsError):
    """Base class of every error this package raises."""


class PortError(DriverError):
    """The serial device itself is missing, busy or not permitted."""


class OtherArmError(DriverError):
    """The servos on this device belong to another arm than the one read at configuration."""


class NoReplyError(DriverError):
    """A servo did not answer a request, retries included."""

    def __init__(self, servo_id: int, what: str, tries: int) -> None:
        super().__init__(
            f"servo {servo_id}: expected a reply to {what}, got none in {tries} tries: check its cable and power"
        )
        self.servo_id = servo_id
