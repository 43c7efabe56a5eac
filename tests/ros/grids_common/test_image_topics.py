"""Which topic of a camera is subscribed to, by transport and by what is published."""

import time

import numpy as np
import pytest

pytestmark = pytest.mark.ros
rclpy = pytest.importorskip("rclpy")

from sensor_msgs.msg import CompressedImage, Image  # noqa: E402

from grids_common import qos, topics  # noqa: E402
from grids_common.image_topics import ImageSubscription  # noqa: E402
from grids_common.images import JPEG_FORMAT, fill_image, rgb_to_jpeg, to_rgb  # noqa: E402

RAW, PACKED = "/front/color/image_raw", "/front/color/image_raw/compressed"
GREY = np.full((48, 64, 3), 120, np.uint8)


@pytest.fixture(params=["", "/robot1"], ids=["plain", "namespace"])
def nodes(request):
    rclpy.init()
    both = [rclpy.create_node(name, namespace=request.param) for name in ("camera", "viewer")]
    yield both
    for node in both:
        node.destroy_node()
    rclpy.try_shutdown()


def spin(nodes, condition, step=lambda: None, timeout_s=20.0):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"nothing within {timeout_s} s"
        step()
        for node in nodes:
            rclpy.spin_once(node, timeout_sec=0.02)


def raw():
    message = Image()
    fill_image(message, GREY, message.header)
    return message


def packed():
    return CompressedImage(format=JPEG_FORMAT, data=rgb_to_jpeg(GREY, 90))


@pytest.mark.parametrize("profile", ["IMAGE_OFFERED", "IMAGE"], ids=["reliable", "best effort"])
def test_auto_follows_what_is_published(nodes, profile):
    camera, viewer = nodes
    got = []
    images = ImageSubscription(viewer, "front", "auto", got.append)
    assert images.topic == RAW
    jpeg = camera.create_publisher(CompressedImage, topics.relative(PACKED), qos.PROFILES[profile])
    spin(nodes, lambda: got, lambda: jpeg.publish(packed()))
    assert images.topic == PACKED
    assert np.abs(to_rgb(got[-1]).astype(int) - GREY).max() <= 3
    plain = topics.publisher(camera, RAW, Image)
    spin(nodes, lambda: isinstance(got[-1], Image), lambda: (plain.publish(raw()), jpeg.publish(packed())))
    assert images.topic == RAW
    np.testing.assert_array_equal(to_rgb(got[-1]), GREY)
    assert jpeg.get_subscription_count() <= 1
    spin(nodes, lambda: jpeg.get_subscription_count() == 0)  # nothing is sent twice
    camera.destroy_publisher(plain)
    spin(nodes, lambda: images.topic == PACKED)
    images.close()
    images.close()
    spin(nodes, lambda: jpeg.get_subscription_count() == 0)


def test_a_compressed_image_is_requested_reliably_where_it_is_offered(nodes):
    camera, viewer = nodes
    images = ImageSubscription(viewer, "front", "compressed", lambda message: None)
    topics.publisher(camera, PACKED, CompressedImage)

    def reliability():
        found = viewer.get_subscriptions_info_by_topic(viewer.resolve_topic_name(topics.relative(PACKED)))
        return [info.qos_profile.reliability for info in found]

    spin(nodes, lambda: reliability() == [qos.IMAGE_RELIABLE.reliability])
    best_effort = camera.create_publisher(CompressedImage, topics.relative(PACKED), qos.IMAGE)
    spin(nodes, lambda: reliability() == [qos.IMAGE.reliability])
    camera.destroy_publisher(best_effort)
    images.close()


@pytest.mark.parametrize(("transport", "kind"), [("raw", Image), ("compressed", CompressedImage)])
def test_a_named_transport_takes_that_topic_alone(nodes, transport, kind):
    camera, viewer = nodes
    got = []
    images = ImageSubscription(viewer, "front", transport, got.append)
    senders = (topics.publisher(camera, RAW, Image), raw), (topics.publisher(camera, PACKED, CompressedImage), packed)
    spin(nodes, lambda: len(got) > 5, lambda: [sender.publish(make()) for sender, make in senders])
    assert {type(message) for message in got} == {kind}
    images.close()


def test_another_word_is_refused(nodes):
    with pytest.raises(ValueError, match="image_transport: expected one of raw, compressed, auto, got 'theora'"):
        ImageSubscription(nodes[1], "front", "theora", lambda message: None)
