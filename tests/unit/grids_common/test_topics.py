"""The topic table is sound."""

import pytest

from grids_common.topics import TOPICS, topic


def test_topic_names_are_unique_and_absolute():
    names = [row.name for row in TOPICS]
    assert len(set(names)) == len(names)
    assert all(name.startswith("/") for name in names)


def test_an_unknown_topic_names_the_table():
    with pytest.raises(KeyError, match=r"grids_common/topics\.py"):
        topic("/policy/akshun_chunk")
