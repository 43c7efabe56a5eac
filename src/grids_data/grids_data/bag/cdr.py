"""Serialized messages without rclpy: types, decoding, header stamps, and pictures to JPEG and back."""

import struct
from functools import cache
from pathlib import Path

import numpy as np
import simplejpeg
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from grids_common import topics

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
COMPRESSED_SUFFIX = "/compressed"  # image_transport's name for the JPEG of an image topic
# Messages of the topic table that do not begin with a std_msgs/Header.
_WITHOUT_HEADER = ("std_msgs/msg/String", "std_msgs/msg/Bool", "visualization_msgs/msg/MarkerArray")
_STAMP = (struct.Struct(">iI"), struct.Struct("<iI"))
_JPEG = "rgb8; jpeg compressed bgr8"


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


def has_header(type_name: str) -> bool:
    return type_name not in _WITHOUT_HEADER


def stamp_ns(raw: bytes) -> int:
    """Header stamp of a serialized message that begins with a std_msgs/Header."""
    seconds, nanoseconds = _STAMP[raw[1] & 1].unpack_from(raw, 4)
    return seconds * 10**9 + nanoseconds


def image_array(message) -> np.ndarray:
    """(height, width, 3) uint8 RGB of a decoded sensor_msgs/Image in rgb8 or bgr8; a view where possible."""
    if message.encoding not in ("rgb8", "bgr8"):
        raise ValueError(f"image encoding: expected rgb8 or bgr8, got {message.encoding!r}")
    rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
    frame = rows[:, : 3 * message.width].reshape(message.height, message.width, 3)
    return frame if message.encoding == "rgb8" else frame[..., ::-1]


def jpeg_message(raw: bytes, quality: int) -> bytes:
    """A serialized Image as a serialized CompressedImage with the same header."""
    store = typestore()
    image = store.deserialize_cdr(raw, IMAGE)
    data = simplejpeg.encode_jpeg(np.ascontiguousarray(image_array(image)), quality, "RGB", "420")
    kind = store.types[COMPRESSED]
    message = kind(header=image.header, format=_JPEG, data=np.frombuffer(data, np.uint8))
    return bytes(store.serialize_cdr(message, COMPRESSED))


def picture(message, type_name: str, *, least: int = 0) -> np.ndarray:
    """RGB of an Image or CompressedImage; `least` > 0 may decode a JPEG smaller, but not below that height."""
    if type_name == IMAGE:
        return image_array(message)
    return simplejpeg.decode_jpeg(bytes(message.data), "RGB", fastdct=bool(least), min_height=least, min_width=least)


def recorded_topics() -> tuple[topics.Topic, ...]:
    """What an episode holds, from the topic table."""
    return tuple(topic for topic in topics.TOPICS if topic.recorded)
