"""The predicted tables in the docs are what the code predicts. GRIDS_WRITE=1 rewrites them."""

import pytest
from pages import ROOT, block

pytest.importorskip("torch")

from grids_policy.bench.predictions import DOCUMENTED, markdown
from grids_policy.bench.variants import full_config


def test_the_predictions_in_the_docs_are_those_of_the_code():
    found, wanted = block(ROOT / "docs" / "measurements.md", "predicted", markdown(list(DOCUMENTED), full_config()))
    assert found == wanted, "stale: GRIDS_WRITE=1 ./grids test tests/process/grids_policy/bench/test_predictions.py"
