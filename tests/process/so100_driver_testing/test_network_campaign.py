"""What the network campaign counts as a broken promise, on logs of goals without a run."""

import json
from types import SimpleNamespace

import pytest

from so100_driver_testing.network_campaign import FAULTS, HEAD, NetworkEpisode, NetworkFault, NetworkRow, judge

PERIOD_S = 0.01


def ended(folder, goals, held=(), kind="goal", fault=NetworkFault("fault"), **summary) -> NetworkRow:  # noqa: B008
    """The row of one run in which servo 1 got `goals` in ticks, one each PERIOD_S."""
    (folder / "robot").mkdir()
    entry = {"arm": "follower", "id": 1, "present": 2000, "torque": 1}
    rows = [entry | {"t": n * PERIOD_S, "kind": "goal", "value": value} for n, value in enumerate(goals)]
    if kind == "torque":
        rows.append(entry | {"t": len(goals) * PERIOD_S, "kind": "torque", "value": 0, "present": 1200, "torque": 0})
    (folder / "robot" / "bus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "robot" / "summary.json").write_text(json.dumps({"success": True, "failure": ""} | summary))
    row = NetworkRow("fault")
    nothing = SimpleNamespace()
    judge(NetworkEpisode(nothing, nothing, folder, held=list(held)), fault, row, "")
    return row


MOVING = [2000 + 10 * n for n in range(200)]  # 1.5 rad/s for two seconds


def test_a_run_that_keeps_every_promise_counts_as_what_its_summary_says(tmp_path):
    lag = {"observation_to_chunk": {"count": 3, "p50": 50.0, "p95": 90.0}}
    states = {"holding": 1.0, "waiting": 0.5, "executing": 9.0}
    row = ended(tmp_path, MOVING, chunks=3, latency_ms=lag, arm_states_s=states)
    assert (row.runs, row.successes, row.chunks, row.violations, row.failures) == (1, 1, 3, [], [])
    assert (row.lag_p50_ms, row.lag_p95_ms, row.waited_s) == ([50.0], [90.0], 1.5)


@pytest.mark.parametrize(
    ("goals", "held", "kind", "broken"),
    [
        (MOVING, [(0.5, 1.9)], "goal", "goals still changed"),
        ([*MOVING[:50], 2900, 2910], [], "goal", "jumped by"),
        ([2000 + 30 * n for n in range(100)], [], "goal", "moved at"),
        (MOVING, [], "torque", "was released"),
    ],
    ids=["moves while it must hold", "jumps", "too fast", "torque off in mid-air"],
)
def test_a_broken_promise_is_found(tmp_path, goals, held, kind, broken):
    row = ended(tmp_path, goals, held, kind)
    assert any(broken in text for text in row.violations), row.violations


@pytest.mark.parametrize(("ends", "failures"), [(False, ["it broke"]), (True, [])])
def test_a_failed_run_is_named_unless_the_fault_ends_every_run(tmp_path, ends, failures):
    fault = NetworkFault("fault", ends=ends)
    row = ended(tmp_path, MOVING, fault=fault, success=False, failure="it broke")
    assert row.failures == failures
    assert row.cells(ends=ends)[1] == ("0/1 (it cannot)" if ends else "0/1 (failed)")


@pytest.mark.parametrize(("until", "cell"), [(1.0005, "0 (hold not checked)"), (1.9, "0")])
def test_a_hold_that_ends_before_anything_is_due_is_marked_in_the_table(tmp_path, until, cell):
    """An outage of 0.5 s ends when the promise begins: 0.3 s, and 0.2 s of braking."""
    stands = [*MOVING[:60], *[MOVING[60]] * 140]
    row = ended(tmp_path, stands, held=[(0.5, until)])
    assert dict(zip(HEAD, row.cells(ends=False), strict=True))["broken promises"] == cell


def test_a_row_without_a_chunk_has_no_lag_and_several_runs_name_the_largest():
    lag = next(name for name in HEAD if "lag" in name)
    assert "largest" in lag
    none, three = NetworkRow("none", runs=1), NetworkRow("three", 3, 3, 40, [50.0, 90.0, 60.0], [95.0, 91.0, 99.0])
    assert [dict(zip(HEAD, row.cells(ends=False), strict=True))[lag] for row in (none, three)] == ["none", "90, 99 ms"]


def test_the_faults_have_names_of_their_own():
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 13
