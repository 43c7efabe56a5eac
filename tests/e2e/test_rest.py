"""`./grids rest`: an arm that was left in the air comes down slowly and is released; nothing else moves it."""

import json
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest

from grids_common.so100 import HOME_POSE_RAD, REST_POSE_RAD
from grids_sim.servo import bus_log

pytestmark = pytest.mark.e2e


@contextmanager
def twin(*arguments: str):
    """`./grids twin`: (its serial paths, a function that asks for the truth)."""
    words = [sys.executable, "-m", "grids_bringup.cli", "twin", "--configured", "--no-leader", *arguments]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask() -> dict:
        process.stdin.write('{"state": true}\n')
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    try:
        yield json.loads(process.stdout.readline()), ask
    finally:
        process.terminate()
        process.communicate(timeout=15)


def test_rest_lowers_a_raised_arm_slowly_then_releases_it(launch, tmp_path):
    log = tmp_path / "bus.jsonl"
    with twin("--start-pose", "home", "--link-dir", str(tmp_path / "links"), "--bus-log", str(log)) as (paths, ask):
        before = ask()["arms"]["follower"]
        np.testing.assert_allclose(before["position_rad"][:5], HOME_POSE_RAD[:5], atol=0.15)
        run = launch("rest", "hardware:=twin", f"serial_port:={paths['follower']}")
        assert run.wait(90) == 0, run.output[-3000:]
        after = ask()["arms"]["follower"]
    np.testing.assert_allclose(after["position_rad"][:5], REST_POSE_RAD[:5], atol=0.15)
    assert not any(after["torque_on"])
    writes = bus_log.load(log)
    assert 0.1 < bus_log.fastest_goal_rad_s(writes) < 1.15  # rest_velocity is 1 rad/s, in whole ticks of 1.5 mrad
    assert bus_log.torque_offs(writes)[0].t_s > bus_log.last_goal_change_s(writes) - 0.05


def test_rest_without_an_arm_says_so_and_moves_nothing(launch, tmp_path):
    run = launch("rest", "hardware:=twin", f"serial_port:={tmp_path / 'nothing'}")
    assert run.wait(60) != 0
    assert str(tmp_path / "nothing") in run.output
