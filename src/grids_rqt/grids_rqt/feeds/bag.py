"""Loads a recorded run into the view model, without a ROS graph."""

from collections import deque
from pathlib import Path

from grids_data.bag.reader import Bag, find_bag
from grids_rqt.view_model import Model

IMAGES = 40  # decoded per camera: the last one is shown, the others determine the rate


def length_s(path: Path) -> float:
    """Duration of the bag. Raises DataError if there is none, or more than one."""
    with Bag(find_bag(path)) as bag:
        return bag.duration_s


def load(path: Path, model: Model, *, until_s: float | None = None) -> int:
    """Load the bag's messages up to `until_s` after its start into the view model; returns the last log time, ns.

    Raises DataError if there is no bag, more than one, or none of the model's topics in it.
    """
    last_ns, images = 0, {}
    with Bag(find_bag(path)) as bag:
        bag.require(model.bag_topics)
        for record in bag.messages(model.bag_topics, until_s=until_s):
            last_ns = record.time_ns
            if "/color/image_raw" in record.topic:
                images.setdefault(record.topic, deque(maxlen=IMAGES)).append(record)
            else:
                model.take(record.topic, bag.decode(record), record.time_ns)
        for record in (record for kept in images.values() for record in kept):
            model.take(record.topic, bag.decode(record), record.time_ns)
    return last_ns
