"""When episodes start and stop, with time passed in."""

import io

import pytest
from repository import ROOT

from grids_common.params import load_file
from grids_common.progress import Progress
from grids_data.bag.series import Series
from grids_data.errors import DataError
from grids_recorder.convert.align import align
from grids_recorder.node.metadata import pairs
from grids_recorder.node.params import RecorderParams
from grids_recorder.node.session import AFTER_SUCCESS_S, DISCARD, FAIL, REDO, SUCCESS, Session, SessionPlan


def tick(session, now, ready=True, success=False):
    return session.tick(now, ready=ready, success=success)


def test_without_automatic_nothing_starts_by_itself():
    session = Session(SessionPlan(total=3))
    assert tick(session, 100.0).do == ""
    session.started(100.0)
    assert tick(session, 500.0, success=True).do == ""


def test_an_automatic_session_waits_until_everything_is_received():
    session = Session(SessionPlan(total=1, automatic=True))
    assert tick(session, 0.0, ready=False).do == ""
    assert tick(session, 1.0).do == "start"


def test_success_ends_an_automatic_episode_a_little_later():
    session = Session(SessionPlan(total=1, episode_s=30.0, automatic=True))
    session.started(0.0)
    assert tick(session, 5.0, success=True).do == ""
    assert tick(session, 5.0 + AFTER_SUCCESS_S, success=True) == tick(session, 6.0, success=True)
    assert (tick(session, 6.0).do, tick(session, 6.0).outcome) == ("stop", SUCCESS)


@pytest.mark.parametrize(("automatic", "outcome"), [(True, FAIL), (False, "")])
def test_an_episode_ends_when_its_time_is_over(automatic, outcome):
    session = Session(SessionPlan(total=1, episode_s=10.0, automatic=automatic))
    session.started(0.0)
    assert tick(session, 9.9).do == ""
    assert (tick(session, 10.0).do, tick(session, 10.0).outcome) == ("stop", outcome)


def test_the_reset_time_passes_before_the_next_episode():
    session = Session(SessionPlan(total=2, reset_s=4.0, automatic=True))
    session.started(0.0)
    session.stopping()
    session.saved(10.0, SUCCESS, "OK")
    assert session.remaining_s(11.0) == pytest.approx(3.0)
    assert tick(session, 13.9).do == ""
    assert tick(session, 14.0).do == "start"


def test_rejected_discarded_and_redone_episodes_do_not_count():
    session = Session(SessionPlan(total=2))
    for outcome, verdict in ((SUCCESS, "REJECT"), (DISCARD, "REJECT"), (REDO, "REJECT"), (SUCCESS, "WARN")):
        session.started(0.0)
        session.stopping()
        session.saved(1.0, outcome, verdict)
    assert session.kept == 1
    assert session.verdicts == ["REJECT", "WARN"]
    assert session.index == 2
    session.started(2.0)
    session.stopping()
    session.saved(3.0, FAIL, "OK")
    assert session.complete
    assert [tick(session, 4.0).do, tick(session, 5.0).do] == ["done", ""]


def test_a_halted_session_saves_but_starts_nothing_until_somebody_does():
    session = Session(SessionPlan(automatic=True, reset_s=0.0))
    session.started(0.0)
    session.halt()
    session.stopping()
    session.saved(1.0, "", "WARN")
    assert session.state == "idle"
    assert tick(session, 100.0).do == ""
    session.started(101.0)
    session.stopping()
    session.saved(102.0, "", "OK")
    assert tick(session, 103.0).do == "start"


def test_a_failed_session_says_so_and_starts_nothing_until_somebody_does():
    session = Session(SessionPlan(automatic=True, reset_s=0.0))
    session.started(0.0)
    session.stopping()
    session.failed()
    assert session.state == "failed"
    assert tick(session, 100.0).do == ""
    session.started(101.0)
    assert session.state == "recording"


@pytest.mark.parametrize(
    ("automatic", "verdicts", "hopeless"),
    [
        (True, ["REJECT"] * 4, False),
        (True, ["OK", *["REJECT"] * 5], True),
        (True, ["REJECT"] * 4 + ["WARN", "REJECT"], False),
        (False, ["REJECT"] * 9, False),
    ],
    ids=["four", "five", "one good", "a person watches"],
)
def test_an_automatic_session_of_rejects_only_is_hopeless(automatic, verdicts, hopeless):
    session = Session(SessionPlan(automatic=automatic, reset_s=0.0))
    for verdict in verdicts:
        session.started(0.0)
        session.stopping()
        session.saved(1.0, FAIL, verdict)
    assert session.hopeless is hopeless


def test_a_note_without_its_value_is_refused():
    assert pairs(["lamp", "table"], ["on", "wood"]) == {"lamp": "on", "table": "wood"}
    with pytest.raises(DataError, match="as many metadata_values as metadata_keys, got 1 for lamp, table"):
        pairs(["lamp", "table"], ["on"])
    with pytest.raises(DataError, match="got 1 for no key"):
        pairs([], ["on"])


def test_the_site_file_fits_the_parameters():
    root = ROOT
    filled = load_file(root / "config" / "record.yaml", {"recorder": RecorderParams})
    assert filled["recorder"].min_free_mb >= 1


def test_progress_in_a_log_is_a_line_per_tenth():
    stream = io.StringIO()
    with Progress("working", 40, stream=stream) as progress:
        for _ in range(40):
            progress.advance()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 11
    assert lines[0] == "working: 0/40"
    assert lines[-1].startswith("working: 40/40")


def test_alignment_names_every_missing_stream():
    import numpy as np

    none = np.empty((0, 6))
    empty = Series({}, {}, none, none, none, none, np.empty(0, bool), np.empty(0, np.uint32))
    with pytest.raises(DataError, match="joint_states, /follower/command_trace, images of the front camera"):
        align(empty, 30)
