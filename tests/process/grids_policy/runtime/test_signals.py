"""Engines leave the process able to take signals: a policy node that dies of Ctrl-C cannot stop in order."""

import subprocess
import sys

import pytest
from repository import ROOT

from grids_policy.runtime.engines.table import NAMES, engine_named

# Makes two runtimes, frees them in the order of their making, sends itself what Ctrl-C sends, and starts a thread, as
# the policy node does for its inferences.
PROGRAM = """
import gc, os, signal, sys, threading
import numpy as np
from pathlib import Path
from grids_policy.runtime.base import PolicyOutputs, blank_inputs
from grids_policy.runtime.engines.base import EngineOptions
from grids_policy.runtime.onnx import OnnxRuntime

signal.signal(signal.SIGINT, lambda *_: print("taken", flush=True))
options = EngineOptions(sys.argv[2], threads=1, cache=Path(sys.argv[3]))
runtimes = [OnnxRuntime(Path(sys.argv[1]), options) for _ in range(2)]
while runtimes:
    runtime = runtimes.pop(0)
    runtime.infer(blank_inputs(runtime.spec), PolicyOutputs.empty(runtime.spec))
    runtime.close()
    del runtime
    gc.collect()
os.kill(os.getpid(), signal.SIGINT)
thread = threading.Thread(target=lambda: print(np.float32(1e-30) * np.float32(1e-10), flush=True))
thread.start()
thread.join()
print("going on", flush=True)
"""


@pytest.mark.parametrize("engine", [name for name in NAMES if engine_named(name).memory == "host"])
def test_a_signal_after_two_runtimes_is_handled_and_threads_take_denormals_as_zero(engine, tmp_path):
    if engine == "openvino":
        pytest.importorskip("openvino")
    words = [sys.executable, "-c", PROGRAM, str(ROOT / "models" / "demo"), engine, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout.split("\n")) == (0, ["taken", "0.0", "going on", ""]), done.stderr[-2000:]
