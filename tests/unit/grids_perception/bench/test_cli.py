"""The bench's arithmetic and its report."""

import json
import math
from types import SimpleNamespace

import pytest

from grids_perception.bench.cameras import Receiver, camera_row, costs_ms, lost, percentiles, undelivered
from grids_perception.bench.cli import RunWatcher, report


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
        "node_cost_p95_ms_worst_10s": 1.4,
        "lost": 0,
        "realtime": "SCHED_FIFO 10",
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
    assert "0 lost before the node (limit 0: kept), 4 between node and subscriber (limit 0: NOT KEPT)" in text
    assert "node's own time p95 1.1 ms (limit 2: kept), 1.4 ms in its worst 10 s, real-time: SCHED_FIFO 10" in text
    assert "camera to policy p95 (limit 12: kept); these cameras are the twin's, which renders" in text
    assert "copies per frame, by design, not measured: 2" in text
    assert "policy 50 %" in text
    line = next(line for line in text.splitlines() if "camera to chunk" in line)
    assert "no data" in line


def test_a_limit_that_is_not_kept_is_said_and_so_is_a_number_that_is_missing():
    late = result()
    late["cameras"]["cameras"]["front"] |= {"age_ms": percentiles([13.0] * 9), "undelivered": None}
    text = report(late)
    assert "age p95 (limit 12: NOT KEPT)" in text
    assert "unknown between node and subscriber (limit 0: NOT KEPT)" in text
    late["run"]["camera_to_policy_ms"] = percentiles([13.0] * 9)
    assert "camera to policy p95 (limit 12: NOT KEPT)" in report(late)
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


def costs(*rows: tuple[int, float]) -> list[dict[str, str]]:
    return [{"received": str(received), "node_cost_p95_ms": str(cost)} for received, cost in rows]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        # A spike in the first seconds had left the last 10 s when it was looked at.
        ([(100, 9.0), (250, 8.0), (400, 3.0), (550, 3.0), (700, 1.0)], 3.0),
        ([(100, 9.0), (130, 8.0), (160, 1.5)], 1.5),  # shorter than a window: the last has least of the warming up
    ],
)
def test_the_nodes_own_time_is_the_worst_of_the_whole_measurement_and_nothing_before(rows, expected):
    assert costs_ms(costs(*rows))[1] == expected


def test_of_the_nodes_own_time_the_middle_window_is_judged():
    assert costs_ms(costs((0, 9.0), (300, 1.0), (330, 1.5), (360, 7.0))) == (1.5, 7.0)


def test_the_nodes_own_time_without_diagnostics_is_not_a_number():
    assert math.isnan(costs_ms([])[0])
    assert camera_row([], [], [])["realtime"] == "unknown"


def test_the_last_diagnostics_of_the_warming_up_are_what_losses_are_counted_from():
    receiver = Receiver.__new__(Receiver)
    receiver.ages_ms, receiver.counts = {"front": [1.0]}, {"front": 30}
    receiver.frames, receiver.health = {"front": []}, {"front": []}

    def diagnostics(received, gone):
        values = [SimpleNamespace(key="received", value=str(received)), SimpleNamespace(key="lost", value=str(gone))]
        receiver._note_health(SimpleNamespace(status=[SimpleNamespace(name="front_camera: images", values=values)]))

    diagnostics(20, 4)
    diagnostics(30, 5)
    receiver.reset()
    diagnostics(60, 7)  # two were lost in the first second
    assert receiver.ages_ms["front"] == []
    assert lost(receiver.health["front"]) == 2
    assert undelivered(receiver.frames["front"]) == 30


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
