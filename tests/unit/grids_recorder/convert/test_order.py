"""Images are taken from the bag in the order in which rows want them, whatever order they arrived in."""

from types import SimpleNamespace

import numpy as np
import pytest

from grids_recorder.convert import cli as convert


@pytest.mark.parametrize("wanted", [[0, 1, 3, 2, 2, 4], [1, 1, 0, 4, 4], [4, 3, 2, 1, 0], [0, 0, 2, 4]])
def test_an_image_that_arrived_after_a_younger_one_is_found(wanted):
    arrived = [SimpleNamespace(value=index, type="") for index in range(5)]
    bag = SimpleNamespace(messages=lambda _topics: iter(arrived), image=lambda record: record.value)
    assert list(convert._images(bag, "topic", np.array(wanted))) == wanted
