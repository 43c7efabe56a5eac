"""Names of robots."""

import argparse

import pytest

from grids_common.host import robots
from grids_common.params import ParameterError


@pytest.mark.parametrize("name", ["", "left", "arm_2", "Robot1", "a"])
def test_a_word_is_a_name(name):
    robots.check(name)
    assert robots.option(name) == name


@pytest.mark.parametrize("name", ["/left", "left/", "1arm", "robot 1", "a__b", "~", "a/b", "_a", "a_", "links-2", "é"])
def test_what_is_no_namespace_of_one_word_is_refused_with_what_was_expected(name):
    with pytest.raises(ParameterError, match=r"robot: expected one word .* such as left or arm_2, got "):
        robots.check(name)


def test_a_tool_may_name_a_namespace_around_the_robots():
    assert robots.option("lab/left") == "lab/left"
    with pytest.raises(argparse.ArgumentTypeError, match="robot: expected one word"):
        robots.option("lab//left")
