"""Messages of the policy node. Needs the built messages, no running graph."""

import numpy as np
import pytest
from repository import ROOT

pytest.importorskip("grids_msgs.msg")

from grids_policy.node.messages import hold_message
from grids_policy.node.observation import Joints
from grids_policy.runtime.bundle import read_manifest


def test_a_hold_is_the_measured_pose_twice_so_that_its_last_step_is_not_yet_past():
    pose, now_ns = np.linspace(-0.5, 0.5, 6), 5_000_000_001
    msg = hold_message(Joints(1, pose), now_ns, 9, read_manifest(ROOT / "models" / "untrained"))
    assert (msg.horizon, msg.epoch) == (2, 9)
    np.testing.assert_array_equal(np.asarray(msg.positions).reshape(2, 6), [pose, pose])
    last_ns = msg.header.stamp.sec * 10**9 + msg.header.stamp.nanosec + (msg.horizon - 1) * msg.dt * 1e9
    assert last_ns > now_ns
    assert "two equal action steps" in hold_message.__doc__
