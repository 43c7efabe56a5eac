"""What the ONNX runtime does to the process it runs in."""

import subprocess
import sys

from repository import ROOT


def test_the_runtime_needs_neither_torch_nor_ros():
    code = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('torch', 'transformers', 'lerobot', 'rclpy', 'onnx')))\n"
        "import grids_policy.runtime.onnx, grids_policy.node.worker, grids_policy.runtime.language\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_denormals_are_zero_in_the_thread_that_infers():
    """In a process of its own: the first session of a process sets it, for the thread that makes it."""
    program = """
import sys
import numpy as np
from pathlib import Path
from grids_policy.runtime.onnx import EngineOptions, OnnxRuntime
tiny = np.full(8, 1e-39, np.float32)
before = (tiny * 0.5).any()
runtime = OnnxRuntime(Path(sys.argv[1]), EngineOptions(engine="cpu"))
print(before, (tiny * 0.5).any())
"""
    demo = ROOT / "models" / "demo"
    done = subprocess.run([sys.executable, "-c", program, str(demo)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]
