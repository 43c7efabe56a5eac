"""A recorded run into the model: no ROS graph needed."""

from pathlib import Path

from grids_perception.bags import find_bag, read
from grids_rqt.model import Model


def load(path: Path, model: Model, *, until_s: float | None = None) -> int:
    """Feed the bag's messages up to `until_s` after its start into the model; returns the last log time, ns.

    BagError (grids_perception.bags) where there is no bag, several, or none of the model's topics.
    """
    last_ns = 0
    for topic, message, t_ns in read(find_bag(path), model.topics, until_s=until_s):
        model.take(topic, message, t_ns)
        last_ns = t_ns
    return last_ns
