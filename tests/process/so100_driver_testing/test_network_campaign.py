"""What the network campaign counts as a broken promise, on logs of goals without a run."""

import json
from types import SimpleNamespace

import pytest

from so100_driver_testing.network_campaign import FAULTS, NetworkEpisode, NetworkFault, NetworkRow, judge

PERIOD_S = 0.01


def ended(folder, goals, held=(), kind="goal", **summary) -> NetworkRow:
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
    judge(NetworkEpisode(nothing, nothing, folder, held=list(held)), NetworkFault("fault"), row, "")
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


def test_a_failed_run_is_named_unless_the_fault_ends_every_run(tmp_path):
    assert ended(tmp_path, MOVING, success=False, failure="it broke").failures == ["it broke"]


def test_the_faults_have_names_of_their_own():
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 13
