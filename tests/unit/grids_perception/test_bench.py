"""The bench's arithmetic and its report."""

import json
from types import SimpleNamespace

import pytest

from grids_perception.bench import RunWatcher, report
from grids_perception.bench_cameras import lost, percentiles, undelivered


def test_percentiles_of_nothing_say_so():
    assert percentiles([]) == {"count": 0}


def test_percentiles_are_those_of_the_values():
    row = percentiles([float(i) for i in range(101)])
    assert (row["p50"], row["p95"], row["p99"], row["count"]) == (50.0, 95.0, 99.0, 101)


def result() -> dict:
    ages = percentiles([1.0, 2.0, 3.0])
    camera = {
        "rate_hz": 29.9,
        "age_ms": ages,
        "cpu_percent": 18.0,
        "cpu_added_percent": 8.0,
        "node_cost_p95_ms": 1.1,
        "lost": 0,
    }
    camera["undelivered"] = 4
    run = {
        "policy": "untrained",
        "camera_to_subscriber_ms": {"front": ages},
        "camera_to_policy_ms": ages,
        "camera_to_chunk_ms": percentiles([]),
        "camera_to_servo_ms": ages,
        "cpu_percent": {"policy": 50.0},
    }
    cameras = {"source": ".db3", "seconds": 5.0, "cameras": {"front": camera}, "copies_by_design": ["a", "b"]}
    return {"bench": "graph", "cameras": cameras, "run": run}


def test_the_report_names_every_number_with_its_limit_and_what_is_missing():
    text = report(result())
    assert "CPU 18.0 % of a core, 8.0 beyond playing the file (limit 10: kept)" in text
    assert "age p95 (limit 12: kept)" in text
    assert "0 lost before the node, 4 between node and subscriber" in text
    assert "copies per frame, by design, not measured: 2" in text
    assert "policy 50 %" in text
    line = next(line for line in text.splitlines() if "camera to chunk" in line)
    assert "no data" in line


def test_a_limit_that_is_not_kept_is_said_and_so_is_a_number_that_is_missing():
    late = result()
    late["cameras"]["cameras"]["front"] |= {"age_ms": percentiles([13.0] * 9), "undelivered": None}
    text = report(late)
    assert "age p95 (limit 12: NOT KEPT)" in text
    assert "unknown between node and subscriber" in text
    late["cameras"]["cameras"]["front"]["age_ms"] = percentiles([])
    assert "age p95 (limit 12: NOT KEPT)" in report(late)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], None),
        ([(30, 30)], None),
        ([(30, 29), (60, 60), (90, 88), (120, 117), (150, 148), (180, 179)], 1),  # up to three under way
        ([(40, 31), (70, 61)], 0),  # nine were lost before the measurement began
        ([(40, 31), (55, 40), (70, 56)], 5),
        ([(40, 30), (70, 61)], 0),  # one was under way at the first row
    ],
)
def test_frames_between_node_and_subscriber_are_counted_over_the_measurement_only(rows, expected):
    assert undelivered(rows) == expected


def test_a_loss_while_the_nodes_start_is_none_of_the_measurement():
    assert lost([]) is None
    assert lost([{"lost": "1"}]) is None
    assert lost([{"lost": "1"}, {"lost": "1"}, {"lost": "3"}]) == 2


def test_a_status_that_is_sent_again_is_one_age():
    watcher = RunWatcher.__new__(RunWatcher)
    watcher.to_policy_ms, watcher._inferences = [], 0
    for inferences, age in ((0, 0.0), (1, 0.010), (1, 0.010), (1, 0.010), (2, 0.020), (2, 0.020), (4, 0.010)):
        watcher._status(SimpleNamespace(inferences=inferences, observation_age=age))
    assert watcher.to_policy_ms == pytest.approx([10.0, 20.0, 10.0])


@pytest.mark.parametrize("part", ["cameras", "run"])
def test_each_part_can_be_reported_alone(part):
    assert report({part: result()[part]})


def test_the_result_is_plain_json():
    assert json.loads(json.dumps(result())) == result()
