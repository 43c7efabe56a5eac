"""`list_cameras`: every camera plugged in, what to write into config/perception.yaml, and what is wrong with it."""

import sys
from pathlib import Path

from grids_perception.camera.realsense import device_notes, list_devices
from grids_perception.camera.source import SourceError


def v4l2_cameras(folder: Path = Path("/dev/v4l/by-id")) -> list[Path]:
    """Stable links of V4L2 capture devices; only the first stream of each, the others are metadata."""
    return sorted(folder.glob("*-video-index0")) if folder.is_dir() else []


def lines() -> tuple[list[str], bool]:
    """What to print, and whether any camera was found."""
    out, found = [], False
    try:
        for device in list_devices():
            found = True
            out.append(f'{device.name}: serial "{device.serial}", firmware {device.firmware}, USB {device.usb}')
            out += [f"  ! {note}" for note in device_notes(device)]
    except SourceError as error:
        out.append(f"RealSense not looked for: {error}")
    for path in v4l2_cameras():
        found = True
        out.append(f"V4L2: device {path}")
    if not found:
        out.append("no camera found: check cables, `lsusb`, the udev rules (docker/99-grids.rules) and your groups")
    return out, found


def main() -> None:
    """Exit code 1 when there is no camera."""
    out, found = lines()
    sys.stdout.write("\n".join(out) + "\n")
    sys.exit(0 if found else 1)


if __name__ == "__main__":
    main()
