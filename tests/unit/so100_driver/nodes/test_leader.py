"""What the leader node publishes for one reading of its servos."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
from builtin_interfaces.msg import Time

from so100_driver.guard.state import ArmState
from so100_driver.nodes.leader import LeaderNode


def test_a_reading_is_published_as_joint_states_and_as_servo_state_without_torque():
    joints, servos = [], []
    node = SimpleNamespace(
        _active=True,
        _clocks=SimpleNamespace(stamp=lambda _ns: Time(sec=1)),
        _every=SimpleNamespace(due=lambda _ns: True),
        _joints=SimpleNamespace(publish=joints.append),
        _servos=SimpleNamespace(publish=servos.append),
    )
    seen = replace(ArmState.unknown(6), position=np.linspace(-1, 1, 6), valid=np.ones(6, bool))
    LeaderNode._publish(node, seen)
    assert [list(message.position) for message in joints] == [seen.position.tolist()]
    assert [list(message.torque_enabled) for message in servos] == [[False] * 6]
