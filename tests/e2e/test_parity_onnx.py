"""The whole parity command: torch and the exported graphs against LeRobot's numbers. Half a minute."""

import pytest
from repository import ROOT

from grids_policy.parity.cli import main

DATA = ROOT / "tests" / "data" / "oracle"


@pytest.mark.e2e
@pytest.mark.parametrize("name", ["tiny", "tiny_emptycam"])
def test_torch_and_onnx_agree_with_the_reference(name, capsys):
    assert main([str(DATA / "tiny"), str(DATA / name / "oracle.npz")]) == 0
    text = capsys.readouterr().out
    for line in ("stage (torch)", "stage (onnx)", "within the tolerance 1e-04", "within the tolerance 1e-03"):
        assert line in text
    onnx = text[text.index("stage (onnx)") :]
    for stage in ("pre/image1", "cache/2/k", "denoise/x_traj", "out/actions_padded"):
        assert stage in onnx
