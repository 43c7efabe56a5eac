"""The serial port under the Feetech SDK. The only module that imports pyserial.

What differs from the SDK's own PortHandler, and why:
- reads wait in select() instead of spinning (a full core otherwise) and are buffered;
- `clearPort`, which the SDK calls before every request, discards unread input. The SDK's own only waits for output,
  so after one late reply every later request would get the previous reply;
- deadlines are monotonic and a few milliseconds, not wall-clock and 34 ms;
- the device is locked, so that a second driver is refused instead of taking half of the replies;
- a program that has the device open without a lock is named, at the start and when the device fails;
- a device that went away raises `PortError` instead of the various errors of pyserial and termios.
"""

import errno
import fcntl
import os
import select
import stat
import termios
import time
from pathlib import Path

import serial
from scservo_sdk import PortHandler

from so100_driver.bus.users import users_of
from so100_driver.errors import PortError

_GLOBS = ("/dev/grids-*", "/dev/serial/by-id/*", "/dev/ttyACM*", "/dev/ttyUSB*", "/tmp/grids*/*serial*")


def candidates() -> list[str]:
    """Serial devices that could be an arm, one path for each: its stable name where it has one."""
    found: dict[str, str] = {}
    for pattern in _GLOBS:
        for path in sorted(str(p) for p in Path("/").glob(pattern.removeprefix("/"))):
            found.setdefault(os.path.realpath(path), path)
    return list(found.values())


def _explain(path: str, error: OSError) -> str:
    """One sentence for a failed open: cause and fix."""
    text = str(error)
    number = error.errno or getattr(error.__cause__ or error.__context__, "errno", None)
    if number == errno.ENOENT or not os.path.exists(path):
        there = ", ".join(candidates()) or "none"
        return f"{path}: expected a serial device, got no such file; devices that exist: {there}: set serial_port"
    if number in (errno.EACCES, errno.EPERM):
        return (
            f"{path}: not permitted for this user: add it to group dialout (sudo usermod -aG dialout $USER, "
            "then log in again) or install the udev rule shown by ./grids doctor"
        )
    if number in (errno.EBUSY, errno.EWOULDBLOCK, errno.EAGAIN):
        users = users_of(path)
        whose = users.foreign(path) or "a second driver on the same port?"
        return users.sentence(path) or f"{path}: in use by another process ({whose}): stop it first"
    return f"{path}: cannot be opened: {text}"


class BusPort(PortHandler):
    """The SDK's PortHandler on pyserial, for one thread. `reply_timeout_s`: silence after which a reply is lost."""

    def __init__(self, path: str, *, reply_timeout_s: float = 0.006) -> None:
        super().__init__(path)
        self.reply_timeout_s = reply_timeout_s
        self._fd = -1
        self._buffer = bytearray()
        self._deadline = 0.0

    def setupPort(self, cflag_baud: int) -> bool:  # noqa: N802 - the SDK's name
        """Open and lock the device. PortError with the cause and the fix."""
        if self.is_open:
            self.closePort()
        path = self.port_name
        try:
            if os.path.exists(path) and not stat.S_ISCHR(os.stat(path).st_mode):
                raise PortError(f"{path}: expected a serial device, got another kind of file")
            self.ser = serial.Serial(path, self.baudrate, timeout=0, exclusive=True)
            self._fd = self.ser.fileno()
            if taken := users_of(path).sentence(path):
                self.ser.close()
                raise PortError(taken)
            if not os.path.realpath(path).startswith("/dev/pts/"):
                # On a pseudo-terminal the flag would outlive a killed process; flock covers it there.
                fcntl.ioctl(self._fd, termios.TIOCEXCL)
        except (OSError, termios.error) as error:
            failure = error if isinstance(error, OSError) else OSError(error.args[0], str(error))
            raise PortError(_explain(path, failure)) from error
        self.is_open = True
        self.is_using = False
        self.tx_time_per_byte = 1e4 / cflag_baud
        self._buffer.clear()
        return True

    def closePort(self) -> None:  # noqa: N802
        """Close; a device that is already gone is not an error."""
        self.is_open = False
        self.is_using = False
        self._fd = -1
        if self.ser is not None:
            try:
                self.ser.close()
            except (OSError, termios.error):
                self.ser.fd = None

    def clearPort(self) -> None:  # noqa: N802
        """Discard every byte received so far, so that old replies are not taken for the next one."""
        self._buffer.clear()
        try:
            termios.tcflush(self._fd, termios.TCIFLUSH)
        except (OSError, termios.error) as error:
            raise self._gone(str(error)) from error

    def writePort(self, packet) -> int:  # noqa: N802
        """Write a packet. Returns the bytes written; 0 when the device accepts none (the other end is stopped)."""
        try:
            return os.write(self._fd, bytes(packet))
        except BlockingIOError:
            self.drop_output()
            return 0
        except OSError as error:
            raise self._gone(str(error)) from error

    def drop_output(self) -> None:
        """Discard bytes not yet sent, so that old goals are not delivered in a burst later."""
        try:
            termios.tcflush(self._fd, termios.TCOFLUSH)
        except (OSError, termios.error) as error:
            raise self._gone(str(error)) from error

    def readPort(self, length: int) -> bytes:  # noqa: N802
        """Return up to `length` bytes; waits for the first one until the reply deadline, then b""."""
        if not self._buffer:
            self._fill()
        chunk = bytes(self._buffer[:length])
        del self._buffer[:length]
        return chunk

    def _fill(self) -> None:
        remaining = self._deadline - time.monotonic()
        try:
            ready, _, _ = select.select([self._fd], [], [], max(0.0, remaining))
            data = os.read(self._fd, 4096) if ready else None
        except (OSError, ValueError) as error:
            raise self._gone(str(error)) from error
        if data == b"":
            raise self._gone("end of file")
        self._buffer += data or b""

    def _gone(self, why: str) -> PortError:
        """The error for a device that fails: it was unplugged, or another program reads it too."""
        taken = users_of(self.port_name).sentence(self.port_name)
        return PortError(taken or f"{self.port_name}: the serial device went away ({why})")

    def expect(self, size: int) -> None:
        """Start the reply deadline: transmission time of `size` bytes plus the reply timeout."""
        self._deadline = time.monotonic() + size * self.tx_time_per_byte * 1e-3 + self.reply_timeout_s

    def setPacketTimeout(self, packet_length: int) -> None:  # noqa: N802
        """Start the reply deadline for `packet_length` bytes. Called by the SDK."""
        self.expect(packet_length)

    def setPacketTimeoutMillis(self, msec: float) -> None:  # noqa: N802
        """Start a reply deadline of `msec` ms. Called by the SDK."""
        self._deadline = time.monotonic() + msec * 1e-3

    def isPacketTimeout(self) -> bool:  # noqa: N802
        """Whether the reply deadline has passed. Called by the SDK."""
        return time.monotonic() >= self._deadline
