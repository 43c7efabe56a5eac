"""`list_cameras`: all connected cameras, their values for config/perception.yaml, and problems such as USB 2 links."""

import sys
from pathlib import Path

from grids_perception.camera.realsense import device_notes, list_devices
from grids_perception.camera.source import SourceError


def v4l2_cameras(folder: Path = Path("/dev/v4l/by-id")) -> list[Path]:
    """The by-id links of V4L2 capture devices; only the first stream of each, the others are metadata."""
    return sorted(folder.glob("*-video-index0")) if folder.is_dir() else []


def lines() -> tuple[list[str], bool]:
    """The output lines, and whether any camera was found."""
    out, found = [], False
    try:
        for device in list_devices():
            found = True
            out.append(f'{device.name}: serial "{device.serial}", firmware {device.firmware}, USB {device.usb}')
            out += [f"  ! {note}" for note in device_notes(device)]
    except SourceError as error:
        out.append(f"RealSense cameras not listed: {error}")
    for path in v4l2_cameras():
        found = True
        out.append(f"V4L2: device {path}")
    if not found:
        out.append("no camera found: check cables, `lsusb`, the udev rules (docker/99-grids.rules) and your groups")
    return out, found


def main() -> None:
    """Print the list; exit code 1 if there is no camera."""
    out, found = lines()
    sys.stdout.write("\n".join(out) + "\n")
    sys.exit(0 if found else 1)


if __name__ == "__main__":
    main()
