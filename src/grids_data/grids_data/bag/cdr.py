"""Serialized messages without rclpy: types, decoding, header stamps, and images to JPEG."""

import struct
from functools import cache
from pathlib import Path

import numpy as np
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from grids_common import topics
from grids_common.images import JPEG_FORMAT, image_to_rgb, rgb_to_jpeg

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
COMPRESSED_SUFFIX = "/compressed"  # image_transport's name for the JPEG of an image topic
_STAMP = (struct.Struct(">iI"), struct.Struct("<iI"))


@cache
def typestore() -> Typestore:
    """Jazzy's types and those of grids_msgs, read from the installed package."""
    from ament_index_python.packages import get_package_share_directory

    store = get_typestore(Stores.ROS2_JAZZY)
    found = {}
    for path in sorted((Path(get_package_share_directory("grids_msgs")) / "msg").glob("*.msg")):
        found |= get_types_from_msg(path.read_text(encoding="utf-8"), f"grids_msgs/msg/{path.stem}")
    store.register(found)
    return store


def stamp_ns(raw: bytes) -> int:
    """Header stamp in ns of a serialized (CDR) message that begins with a std_msgs/Header."""
    seconds, nanoseconds = _STAMP[raw[1] & 1].unpack_from(raw, 4)
    return seconds * 10**9 + nanoseconds


def jpeg_message(raw: bytes, quality: int) -> bytes:
    """Convert a serialized Image to a serialized JPEG CompressedImage with the same header; `quality` 1..100."""
    store = typestore()
    image = store.deserialize_cdr(raw, IMAGE)
    data = rgb_to_jpeg(image_to_rgb(image), quality, subsampling="420")
    kind = store.types[COMPRESSED]
    message = kind(header=image.header, format=JPEG_FORMAT, data=np.frombuffer(data, np.uint8))
    return bytes(store.serialize_cdr(message, COMPRESSED))


def recorded_topics() -> tuple[topics.Topic, ...]:
    """The topics that the recorder stores, from the topic table."""
    return tuple(topic for topic in topics.TOPICS if topic.recorded)
