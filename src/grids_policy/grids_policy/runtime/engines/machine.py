"""What engines find on this computer: GPU, driver, libraries. Read once per start, passed to every engine."""

import ctypes
import ctypes.util
import platform
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

# Python packages that an engine may need, by their names on PyPI.
PACKAGES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-ep-nv-tensorrt-rtx-cu12", "openvino")


@dataclass(frozen=True, slots=True)
class Gpu:
    """The first GPU as nvidia-smi reports it."""

    name: str
    driver: str
    compute_capability: str


@dataclass(frozen=True, slots=True)
class Machine:
    """gpu: the first one, or one sentence on why there is none. providers: those built into onnxruntime."""

    gpu: Gpu | str
    providers: tuple[str, ...]
    tensorrt: str | None  # version of libnvinfer.so.10
    packages: dict[str, str]  # installed versions of those of PACKAGES that are there
    processor: str = ""  # model and instruction sets


def find_gpu() -> Gpu | str:
    """The first NVIDIA GPU, or the reason there is none."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,compute_cap", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
        name, driver, capability = (part.strip() for part in done.stdout.splitlines()[0].split(","))
    except FileNotFoundError:
        return "no NVIDIA driver (nvidia-smi not found; with a card: sudo ubuntu-drivers install, then restart)"
    except (subprocess.SubprocessError, OSError, IndexError, ValueError) as error:
        return f"nvidia-smi failed: {error}"
    return Gpu(name, driver, capability)


def tensorrt_version() -> str | None:
    """Version of the installed libnvinfer, or None."""
    for name in ("libnvinfer.so.10", ctypes.util.find_library("nvinfer")):
        if not name:
            continue
        try:
            return str(ctypes.CDLL(name).getInferLibVersion())
        except OSError:
            continue
    return None


def processor() -> str:
    """Model and instruction sets of the first processor, as Linux names them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    except OSError:
        return platform.machine()
    wanted = ("model name", "flags", "CPU part", "Features")  # the last two on ARM
    return " ".join(line.split(":", 1)[1].strip() for line in lines if line.split("\t")[0].strip() in wanted)


def installed(names: tuple[str, ...]) -> dict[str, str]:
    """The versions of those Python packages that are installed."""
    found: dict[str, str] = {}
    for name in names:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def this_machine() -> Machine:
    """Look at this computer."""
    import onnxruntime

    providers = tuple(onnxruntime.get_available_providers())
    return Machine(find_gpu(), providers, tensorrt_version(), installed(PACKAGES), processor())
