"""Loads a bundle on an engine in a child process, so that a library that crashes does not end the policy node.

OpenVINO 2026.4 crashes with a segmentation fault while it compiles one graph of a pi0.5 with very small layers. Which
graphs do that cannot be told from the outside, so an engine that may is tried where a crash costs nothing.
"""

import signal
import subprocess
import sys
from pathlib import Path

from grids_policy.runtime.base import PolicyOutputs, blank_inputs
from grids_policy.runtime.bundle import BundleError, read_manifest
from grids_policy.runtime.chain import Chain
from grids_policy.runtime.engines.base import EngineOptions
from grids_policy.runtime.engines.table import engine_named

_LIMIT_S = 600.0  # a full-size bundle compiles in a few seconds; it may wait for a busy machine


class CrashError(BundleError):
    """An engine ended the process, or hung, while it loaded or ran the bundle."""


def rehearse(engine: str, folder: Path, options: EngineOptions) -> None:
    """Load the bundle and infer once in a child. Raises CrashError; a refusal in words is left to the real start."""
    words = [sys.executable, "-m", __name__, engine, str(folder), str(options.threads), options.device]
    try:
        code = subprocess.run(words, capture_output=True, timeout=_LIMIT_S, check=False).returncode
    except subprocess.TimeoutExpired:
        raise CrashError(f"{engine}: did not load this bundle within {_LIMIT_S:.0f} s in a trial; not used") from None
    if code < 0:
        name = signal.Signals(-code).name
        raise CrashError(f"{engine}: its library crashed ({name}) with this bundle in a trial; not used")


def main(engine: str, folder: str, threads: str, device: str) -> None:
    """The child."""
    options = EngineOptions(engine, int(threads), device=device)
    bundle = read_manifest(Path(folder), gated=False)
    chain = Chain(Path(folder), bundle, engine_named(engine), options)
    chain.infer(blank_inputs(bundle), PolicyOutputs.empty(bundle))


if __name__ == "__main__":
    main(*sys.argv[1:])
