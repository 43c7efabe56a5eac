"""Choice of the OpenGL backend for MuJoCo. Must run before `mujoco` is imported: it reads MUJOCO_GL once."""

import ctypes.util
import os
from collections.abc import MutableMapping
from pathlib import Path

VARIABLE = "MUJOCO_GL"
_DEVICE_NODES = ("/dev/nvidiactl", "/dev/dri/renderD128")


def choose_backend(environment: MutableMapping[str, str] | None = None) -> str:
    """Set MUJOCO_GL when it is unset and return its value. `environment`: os.environ when None.

    With a GPU: EGL. Without one, OSMesa and EGL use the same software renderer at the same speed, and OSMesa needs no
    display system; EGL is used when OSMesa is not installed.
    """
    environment = os.environ if environment is None else environment
    chosen = environment.get(VARIABLE)
    if chosen:
        return chosen
    has_device = any(Path(node).exists() for node in _DEVICE_NODES)
    if has_device and ctypes.util.find_library("EGL"):
        chosen = "egl"
    elif ctypes.util.find_library("OSMesa"):
        chosen = "osmesa"
    else:
        chosen = "egl"
    environment[VARIABLE] = chosen
    return chosen
