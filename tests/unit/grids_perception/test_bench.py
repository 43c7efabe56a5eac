"""The bench's arithmetic and its report."""

import json

import pytest

from grids_perception.bench import report
from grids_perception.bench_cameras import percentiles


def test_percentiles_of_nothing_say_so():
    assert percentiles([]) == {"count": 0}


def test_percentiles_are_those_of_the_values():
    row = percentiles([float(i) for i in range(101)])
    assert (row["p50"], row["p95"], row["p99"], row["count"]) == (50.0, 95.0, 99.0, 101)


def result() -> dict:
    ages = percentiles([1.0, 2.0, 3.0])
    camera = {"rate_hz": 29.9, "age_ms": ages, "cpu_percent": 8.0, "node_cost_p95_ms": 1.1, "lost": 0}
    run = {
        "policy": "untrained",
        "camera_to_subscriber_ms": {"front": ages},
        "camera_to_policy_ms": ages,
        "camera_to_chunk_ms": percentiles([]),
        "camera_to_servo_ms": ages,
        "cpu_percent": {"policy": 50.0},
    }
    cameras = {"source": ".db3", "seconds": 5.0, "cameras": {"front": camera}, "copies": ["a", "b"]}
    return {"bench": "graph", "cameras": cameras, "run": run}


def test_the_report_names_every_number_with_its_limit_and_what_is_missing():
    text = report(result())
    assert "CPU 8.0 % of a core (limit 10)" in text
    assert "copies per frame: 2" in text
    assert "policy 50 %" in text
    line = next(line for line in text.splitlines() if "camera to chunk" in line)
    assert "no data" in line


@pytest.mark.parametrize("part", ["cameras", "run"])
def test_each_part_can_be_reported_alone(part):
    assert report({part: result()[part]})


def test_the_result_is_plain_json():
    assert json.loads(json.dumps(result())) == result()
