"""A recorded run into the model: no ROS graph needed."""

from collections import deque
from pathlib import Path

from grids_data.bag.reader import Bag, find_bag
from grids_rqt.view_model import Model

IMAGES = 40  # of each camera that are decoded: the last one is shown, the others give the rate


def load(path: Path, model: Model, *, until_s: float | None = None) -> int:
    """Feed the bag's messages up to `until_s` after its start into the model; returns the last log time, ns.

    DataError where there is no bag, several, or none of the model's topics.
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
