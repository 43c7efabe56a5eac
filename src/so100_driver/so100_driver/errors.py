"""The error tree of the package. Messages say what was expected, what came and what to do."""

from grids_common.errors import GridsError


class DriverError(GridsError):
    """Root of every error this package raises on purpose."""


class PortError(DriverError):
    """The serial device itself is gone, busy or refused; replies cannot be expected any more."""


class OtherArmError(DriverError):
    """The servos at the path are not those it was configured with."""


class NoReplyError(DriverError):
    """A servo did not answer within its bounded retries."""

    def __init__(self, servo_id: int, what: str, tries: int) -> None:
        super().__init__(
            f"servo {servo_id}: expected a reply to {what}, got none in {tries} tries: check its cable and power"
        )
        self.servo_id = servo_id
