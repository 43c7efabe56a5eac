"""Selects the ONNX Runtime engine of a bundle (TensorRT, else CUDA, else CPU) and caches TensorRT engines."""

import ctypes
import ctypes.util
import hashlib
import json
import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

import onnxruntime as ort

from grids_policy.runtime.bundle import Bundle, BundleError, file_sha256

NAMES = {
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
PREFERENCE = ("tensorrt", "cuda", "cpu")
_FINGERPRINT = "fingerprint.json"


@dataclass(frozen=True, slots=True)
class Gpu:
    """The first GPU as nvidia-smi reports it."""

    name: str
    driver: str
    compute_capability: str


@dataclass(frozen=True, slots=True)
class Choice:
    """The engine to use, and for each faster engine one sentence on why it is not used."""

    engine: str
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a TensorRT engine was built for; it is valid for exactly this combination."""

    gpu: str
    driver: str
    compute_capability: str
    tensorrt: str
    onnxruntime: str
    weights: str  # the bundle's digest, which covers the sha256 of every file

    @property
    def key(self) -> str:
        """16 hexadecimal digits: the name of the cache folder."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:16]


def find_gpu() -> Gpu | str:
    """The first NVIDIA GPU, or the reason there is none."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,compute_cap", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
        name, driver, capability = (part.strip() for part in done.stdout.splitlines()[0].split(","))
    except FileNotFoundError:
        return "no NVIDIA driver (nvidia-smi not found)"
    except (subprocess.SubprocessError, IndexError, ValueError) as error:
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


def choose(requested: str, available: list[str], gpu: Gpu | str, tensorrt: str | None, precision: str) -> Choice:
    """The fastest usable engine. requested: "auto" or one of PREFERENCE. available: onnxruntime's provider names.

    tensorrt: version of libnvinfer or None. Raises BundleError when the requested engine cannot run here.
    """
    missing = {}
    for engine in ("tensorrt", "cuda"):
        if precision == "int8":
            missing[engine] = f"{engine}: int8 bundles use operators that only the CPU engine has; export fp16"
        elif NAMES[engine] not in available:
            missing[engine] = f"{engine}: this onnxruntime has no {NAMES[engine]}"
            missing[engine] += (
                " (bash requirements/setup.sh runtime installs the GPU build where it finds an NVIDIA driver)"
            )
        elif isinstance(gpu, str):
            missing[engine] = f"{engine}: {gpu}"
        elif engine == "tensorrt" and tensorrt is None:
            missing[engine] = "tensorrt: libnvinfer.so.10 not found (.venv/bin/pip install 'tensorrt-cu13-libs==10.*')"
    if requested != "auto":
        if requested in missing:
            raise BundleError(f"expected engine {requested!r}, but it cannot run here: {missing[requested]}")
        return Choice(requested, ())
    engine = next(e for e in PREFERENCE if e not in missing)
    better = PREFERENCE[: PREFERENCE.index(engine)]
    return Choice(engine, tuple(missing[e] for e in better if e in missing))


def engine_cache(root: Path, fingerprint: Fingerprint) -> tuple[Path, str]:
    """The folder for engines of this fingerprint, emptied when anything in it does not match.

    Returns (folder, one sentence on what was found). A cache is used only if its recorded fingerprint is equal, every
    engine file still has the sha256 recorded after it was built, and there are no other files: TensorRT selects
    engines by file name.
    """
    folder = Path(root) / fingerprint.key
    record = folder / _FINGERPRINT
    note = f"no TensorRT engine for this GPU and bundle yet, building one in {folder}"
    if record.is_file():
        problem = _cache_problem(folder, record, fingerprint)
        if problem is None:
            return folder, f"TensorRT engines from {folder}"
        note = f"TensorRT engines in {folder} are refused ({problem}), building new ones"
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.iterdir():
        if stale.is_dir() and not stale.is_symlink():
            shutil.rmtree(stale)
        else:
            stale.unlink()
    return folder, note


def _cache_problem(folder: Path, record: Path, fingerprint: Fingerprint) -> str | None:
    try:
        saved = json.loads(record.read_text(encoding="utf-8"))
        if saved["fingerprint"] != asdict(fingerprint):
            return f"built for {saved['fingerprint']}, this is {asdict(fingerprint)}"
        present = {path.name for path in folder.iterdir()} - {_FINGERPRINT}
        if differing := sorted(present ^ set(saved["files"])):
            missing = differing[0] in saved["files"]
            return f"{differing[0]} {'is missing' if missing else 'was not there when it was built'}"
        if not present:
            return "it holds no engine"
        for name, digest in saved["files"].items():
            if file_sha256(folder / name) != digest:
                return f"{name} changed since it was built"
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        return f"{_FINGERPRINT} cannot be read: {error!r}"
    return None


def seal_cache(folder: Path, fingerprint: Fingerprint) -> None:
    """Record fingerprint and hashes of the engines just built; without this record they are never reused."""
    files = {p.name: file_sha256(p) for p in folder.iterdir() if p.name != _FINGERPRINT}
    text = json.dumps({"fingerprint": asdict(fingerprint), "files": files}, indent=1)
    (folder / _FINGERPRINT).write_text(text, encoding="utf-8")


def fingerprint_of(bundle: Bundle, gpu: Gpu, tensorrt: str) -> Fingerprint:
    """The fingerprint of `bundle` on this machine. tensorrt: version of libnvinfer."""
    return Fingerprint(gpu.name, gpu.driver, gpu.compute_capability, tensorrt, ort.__version__, bundle.digest)
