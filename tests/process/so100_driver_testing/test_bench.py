"""`./grids bench driver` on the twin (real time, so not among the unit tests; no ROS needed)."""

import json

import pytest

from so100_driver.params import DriverParams
from so100_driver_testing import bench
from so100_driver_testing.twin_process import TwinProcess

pytestmark = pytest.mark.ros


def test_the_bench_compares_bus_layers_and_loads_and_ends_with_one_json_line(capsys):
    assert bench.main(["--seconds", "2"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(result["cycles"]) == ["ours, position", "ours, whole state", "SDK, position", "SDK, one read per servo"]
    for row in result["cycles"].values():
        assert row["hz"] > 0
        assert row["p99_ms"] >= row["p50_ms"] > 0
        assert row["cpu_percent"] > 0
    # Six questions and answers one after the other take longer than one for all.
    assert result["cycles"]["SDK, position"]["hz"] > result["cycles"]["SDK, one read per servo"]["hz"]
    assert list(result["loops"]) == ["alone", "beside a one-thread inference load"]
    for row in result["loops"].values():
        assert 0 < row["rate_hz"] < 110
        assert row["lateness_max_ms"] >= row["lateness_p99_ms"] >= row["lateness_p50_ms"] >= 0
        assert row["command_to_servo_p99_ms"] >= row["command_to_servo_p50_ms"] > 0
        assert isinstance(row["realtime"], bool)


def test_lateness_covers_the_whole_measurement(tmp_path):
    twin = TwinProcess(tmp_path)
    measured = bench.LoopBench(twin.paths["follower"], DriverParams(), 1200.0)
    try:
        assert measured.loop.lateness_room >= 1200 * 100
    finally:
        measured.close()
        twin.close()


def test_an_arm_that_takes_no_commands_is_an_error_and_not_an_age_of_zero(tmp_path):
    twin = TwinProcess(tmp_path)
    measured = bench.LoopBench(twin.paths["follower"], DriverParams(), 0.5)
    try:
        measured.arm.estop(0, "test")
        with pytest.raises(bench.DriverError, match="got none: estop: emergency stop: test"):
            measured.run()
    finally:
        measured.close()
        twin.close()
