"""The predicted tables in the docs are what the code predicts, to 5 %. GRIDS_WRITE=1 rewrites them."""

import re

import pytest
from pages import ROOT, block

pytest.importorskip("torch")

from grids_policy.bench.predictions import DOCUMENTED, markdown
from grids_policy.bench.random_policy import full_config

NUMBER = r"\d+\.?\d*"


def test_the_predictions_in_the_docs_are_those_of_the_code():
    found, wanted = block(ROOT / "docs" / "measurements.md", "predicted", markdown(list(DOCUMENTED), full_config()))
    stale = "stale: GRIDS_WRITE=1 ./grids test tests/process/grids_policy/bench/test_predictions.py"
    limits = r", (launches|products|memory) "  # of two nearly equal ones either may be named
    words = [re.sub(limits, "", re.sub(NUMBER, "#", text)) for text in (found, wanted)]
    assert words[0] == words[1], stale
    numbers = [[float(word) for word in re.findall(NUMBER, text)] for text in (found, wanted)]
    # An operator more or less in a graph is no reason to publish another prediction.
    assert numbers[0] == pytest.approx(numbers[1], rel=0.05, abs=0.15), stale
