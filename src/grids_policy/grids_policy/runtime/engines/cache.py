"""Keeps what an engine built, and uses it again only where everything it was built for is the same."""

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from grids_policy.runtime.bundle import Bundle, BundleError, file_sha256
from grids_policy.runtime.engines.machine import Gpu

_RECORD = "fingerprint.json"


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a built engine is valid for: exactly this combination."""

    engine: str
    device: str  # GPU or processor
    driver: str
    compute_capability: str
    library: str  # name and version of what built it
    onnxruntime: str
    weights: str  # the bundle's digest, which covers the sha256 of every file

    @property
    def key(self) -> str:
        """16 hexadecimal digits: the name of the cache folder."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:16]


def gpu_fingerprint(engine: str, gpu: Gpu | str, library: str, bundle: Bundle) -> Fingerprint | None:
    """What `engine` builds for `gpu` with `library` is valid for; None where there is no GPU."""
    import onnxruntime as ort

    if isinstance(gpu, str):
        return None
    return Fingerprint(engine, gpu.name, gpu.driver, gpu.compute_capability, library, ort.__version__, bundle.digest)


def open_cache(root: Path, fingerprint: Fingerprint, needed_bytes: int = 0) -> tuple[Path, str]:
    """The folder of this fingerprint, emptied when anything in it does not match, and one sentence on what was found.

    A cache is used only if its recorded fingerprint is equal, every file still has the sha256 recorded after it was
    built, and there are no other files: TensorRT selects engines by file name. needed_bytes: free space that a new one
    needs. Raises BundleError, and leaves nothing, where the folder cannot be written or has not that space.
    """
    folder = Path(root).expanduser() / fingerprint.key
    record = folder / _RECORD
    name = fingerprint.engine
    note = f"no {name} engine for this device and bundle yet, building one in {folder}"
    try:
        if record.is_file():
            problem = _problem(folder, record, fingerprint)
            if problem is None:
                return folder, f"{name} engines from {folder}"
            note = f"{name} engines in {folder} are refused ({problem}), building new ones"
        _empty(folder)
        if (free := shutil.disk_usage(folder).free) < needed_bytes:
            folder.rmdir()
            raise BundleError(
                f"{root}: expected {needed_bytes / 1e6:.0f} MB of free space for built engines, got "
                f"{free / 1e6:.0f} MB: make room or set engine_cache to another folder"
            )
    except OSError as error:
        raise BundleError(
            f"{folder}: built engines cannot be kept there ({error.strerror}): make room or set engine_cache to "
            "another folder"
        ) from error
    return folder, note


def _empty(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.iterdir():
        if stale.is_dir() and not stale.is_symlink():
            shutil.rmtree(stale)
        else:
            stale.unlink()


def _problem(folder: Path, record: Path, fingerprint: Fingerprint) -> str | None:
    try:
        saved = json.loads(record.read_text(encoding="utf-8"))
        if saved["fingerprint"] != asdict(fingerprint):
            return f"built for {saved['fingerprint']}, this is {asdict(fingerprint)}"
        present = set(_contents(folder))
        if differing := sorted(present ^ set(saved["files"])):
            missing = differing[0] in saved["files"]
            return f"{differing[0]} {'is missing' if missing else 'was not there when it was built'}"
        if not present:
            return "it holds no engine"
        for name, digest in saved["files"].items():
            if _digest(folder / name) != digest:
                return f"{name} changed since it was built"
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        return f"{_RECORD} cannot be read: {error!r}"
    return None


def _contents(folder: Path) -> list[str]:
    """Paths below `folder` of all files and empty folders but the record."""
    found = (p for p in folder.rglob("*") if p.is_symlink() or not p.is_dir() or not any(p.iterdir()))
    return sorted(path.relative_to(folder).as_posix() for path in found if path.name != _RECORD)


def _digest(path: Path) -> str:
    """The sha256 of a file; nothing for an empty folder, which an engine makes for what it writes when it is freed."""
    return "" if path.is_dir() and not path.is_symlink() else file_sha256(path)


def seal_cache(folder: Path, fingerprint: Fingerprint) -> None:
    """Record fingerprint and hashes of the files there; without this record they are never used again.

    Raises BundleError, and removes the folder, when it cannot be written.
    """
    try:
        (folder / _RECORD).unlink(missing_ok=True)
        files = {name: _digest(folder / name) for name in _contents(folder)}
        if not files:
            return
        text = json.dumps({"fingerprint": asdict(fingerprint), "files": files}, indent=1)
        partial = folder / f"{_RECORD}.partial"
        partial.write_text(text, encoding="utf-8")
        partial.replace(folder / _RECORD)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise BundleError(f"{folder}: built engines cannot be kept there ({error.strerror})") from error
