"""What the tests of the camera and overlay nodes share."""

import pytest

rclpy = pytest.importorskip("rclpy")


@pytest.fixture
def node():
    rclpy.init()
    node = rclpy.create_node("perception_test")
    yield node
    node.destroy_node()
    rclpy.try_shutdown()


@pytest.fixture
def log(tmp_path):
    with (tmp_path / "log.txt").open("w+") as file:
        yield file
