"""What a deployed policy node imports."""

import subprocess
import sys

import pytest


def test_nothing_of_the_deployed_node_imports_torch():
    pytest.importorskip("rclpy")
    code = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('torch', 'transformers', 'lerobot', 'onnx')))\n"
        "import grids_policy.node.policy, grids_policy.runtime.onnx, grids_policy.runtime.inputs\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
