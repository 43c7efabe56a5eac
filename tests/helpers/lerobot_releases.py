"""LeRobot releases in environments of their own, .grids/interop/<release>: made on first use, kept afterwards."""

import fcntl
import itertools
import json
import os
import subprocess
from pathlib import Path

from repository import ROOT

RELEASES = ("newest", "0.4.4")  # the newest that PyPI serves, and the oldest whose files are written here
PYTHON = "3.12"  # the newest LeRobot needs it
_PEER = ROOT / "tests" / "interop" / "peer.py"
_HOME = ROOT / ".grids" / "interop"
_UV = ROOT / ".venv" / "bin" / "uv"
_MINUTES = 30  # the first installation downloads torch


def _python() -> str:
    """The interpreter for uv: pyenv's, which uv does not find unless it is the active one, else by version."""
    home = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found = sorted(home.glob(f"versions/{PYTHON}.*/bin/python{PYTHON}"))
    return str(found[-1]) if found else PYTHON


def _packages(release: str) -> list[str]:
    if release == "newest":
        return ["lerobot[dataset,smolvla,pi,feetech,peft,core_scripts,pyzmq-dep]"]
    return [f"lerobot[smolvla,feetech]=={release}"]


def _uv(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "VIRTUAL_ENV": str(folder)}
    environment.pop("PYTHONPATH", None)
    return subprocess.run(
        [_UV, *words], env=environment, capture_output=True, text=True, timeout=60 * _MINUTES, check=False
    )


class Peer:
    """One LeRobot release, run as a program of its own until `close`."""

    def __init__(self, folder: Path, version: str) -> None:
        self.version, self._folder, self._log = version, folder, folder.parent / f"{folder.name}.log"
        self._numbers = itertools.count()
        hidden = ("PYTHONPATH", "LD_LIBRARY_PATH", "AMENT_PREFIX_PATH")
        self._environment = {name: value for name, value in os.environ.items() if name not in hidden}
        self._environment |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [folder / "bin" / "python", _PEER],
                env=self._environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip

    @property
    def old(self) -> bool:
        """Whether it is 0.4 or 0.5, which know no relative actions."""
        return tuple(int(part) for part in self.version.split(".")[:2]) < (0, 6)

    def run(self, *words: object) -> dict:
        """The answer of peer.py to one command. Raises AssertionError with its traceback where it fails."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        number = next(self._numbers)
        stdin.write(json.dumps([number, *map(str, words)]) + "\n")
        stdin.flush()
        found = {}
        while found.get("number") != number:  # a test that was given up leaves its answer
            line = stdout.readline()
            assert line, f"LeRobot {self.version} ended: {self._log.read_text()[-3000:]}"
            found = json.loads(line)
        assert "traceback" not in found, found["traceback"]
        return found

    def install(self, package: Path) -> None:
        """Install a package of this repository, built anew. Raises RuntimeError."""
        fresh = ("--no-deps", "--reinstall-package", package.name, "--refresh-package", package.name)
        _must(_uv("pip", "install", "-q", *fresh, str(package), folder=self._folder), package.name)

    def command(self, name: str, *words: object, patient: bool = False) -> None:
        """Run one of LeRobot's commands to its end. Raises AssertionError with what it printed where it fails.

        patient: it waits longer for a servo's reply, as it has to with the twin on a busy computer.
        """
        program = [self._folder / "bin" / name]
        if patient:
            program = [self._folder / "bin" / "python", _PEER.with_name("patient.py"), name]
        done = subprocess.run(
            [*program, *map(str, words)], env=self._environment, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=60 * _MINUTES, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{name}: {(done.stdout + done.stderr)[-4000:]}"

    def start(self, script: str, *words: object) -> subprocess.Popen[bytes]:
        """Start a program of tests/interop in LeRobot's environment; the caller ends it."""
        program = [self._folder / "bin" / "python", _PEER.with_name(script), *map(str, words)]
        return subprocess.Popen(program, env=self._environment, stdin=subprocess.DEVNULL)

    def close(self) -> None:
        """End the program."""
        self._process.kill()
        self._process.communicate()


def environment_of(release: str) -> Peer:
    """The environment of a release, installed or brought to the newest release first. Raises RuntimeError."""
    folder = _HOME / release
    _HOME.mkdir(parents=True, exist_ok=True)
    with (_HOME / f"{release}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "bin" / "python").exists():
            made = _uv("venv", "--python", _python(), str(folder), folder=folder)
            _must(made, f"Python {PYTHON} for LeRobot {release}")
        installed = _version(folder)
        if installed is None or release == "newest":
            _install(release, folder, first=installed is None)
        version = _version(folder)
    if version is None:
        raise RuntimeError(
            f"{folder}: expected lerobot installed, found none: delete the folder and run the test again"
        )
    return Peer(folder, version)


def _install(release: str, folder: Path, *, first: bool) -> None:
    words = ("pip", "install", "-q", "--upgrade-package", "lerobot", *_packages(release))
    # torch for the CPU is a tenth of the download; where its index cannot be reached, PyPI's build serves as well.
    if not first or _uv(*words, "--torch-backend", "cpu", folder=folder).returncode != 0:
        _must(_uv(*words, folder=folder), f"LeRobot {release}")


def _version(folder: Path) -> str | None:
    listed = json.loads(_uv("pip", "list", "--format", "json", folder=folder).stdout or "[]")
    return next((entry["version"] for entry in listed if entry["name"] == "lerobot"), None)


def _must(done: subprocess.CompletedProcess[str], what: str) -> None:
    if done.returncode != 0:
        raise RuntimeError(f"{what} could not be installed: {done.stderr.strip()[-2000:]}")
