"""A recorded run into the model: no ROS graph needed."""

from collections import deque
from pathlib import Path

from grids_data.bag.runs import find_bag, read
from grids_rqt.view_model import Model

PICTURES = 40  # of each camera that are decoded: the last one is shown, the others give the rate


def load(path: Path, model: Model, *, until_s: float | None = None) -> int:
    """Feed the bag's messages up to `until_s` after its start into the model; returns the last log time, ns.

    BagError (grids_data.bag.runs) where there is no bag, several, or none of the model's topics.
    """
    last_ns, pictures = 0, {}
    for topic, message, t_ns in read(find_bag(path), model.bag_topics, until_s=until_s):
        last_ns = t_ns
        if "/color/image_raw" in topic:
            pictures.setdefault(topic, deque(maxlen=PICTURES)).append((message, t_ns))
        else:
            model.take(topic, message, t_ns)
    for topic, kept in pictures.items():
        for message, t_ns in kept:
            model.take(topic, message, t_ns)
    return last_ns
