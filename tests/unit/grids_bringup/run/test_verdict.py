"""What the counters of a run say about it: one sentence for each, and what makes a run fail."""

from types import SimpleNamespace

import pytest

from grids_bringup.run.summary import RunStatistics, StreamStatistics
from grids_bringup.run.verdict import RunFacts, failure, warnings

RUN_S, FPS = 10.0, 30
DERATED = 32


def driver(**values):
    """A driver status after 10 s of a good run."""
    usual = {
        "mode": "policy", "state": "executing", "reason": "", "ticks": 1000, "late_ticks": 2, "limits_hit": 0,
        "empty_ticks": 3, "chunks_accepted": 50, "chunks_refused": 0, "last_refusal": "",
        "joint_names": ["shoulder_pan", "gripper"], "bus_errors": [0, 0], "bus_transactions": 2000,
        "LIMIT_DERATED": DERATED,
    }  # fmt: skip
    return SimpleNamespace(**usual | values)


def policy(**values):
    usual = {"state": "running", "reason": "", "inferences": 50, "dropped_observations": 2, "refused_outputs": 0}
    return SimpleNamespace(**usual | values)


def statistics(moved_rad: float = 1.0, lost: tuple[float, float] | None = None) -> RunStatistics:
    """Two cameras over 10 s; `lost`: from when to when the front one sent nothing."""
    found = RunStatistics(chunks=50, watching=True)
    found.add_joints([0.0, 0.0])
    found.add_joints([moved_rad, 0.0])
    for name in ("front", "wrist"):
        stream = found.cameras[name] = StreamStatistics()
        for index in range(int(RUN_S * FPS)):
            at_s = index / FPS
            if name == "wrist" or lost is None or not lost[0] <= at_s < lost[1]:
                stream.add(round(at_s * 1e9), round(at_s * 1e9) + 5_000_000)
    return found


def facts(**values) -> RunFacts:
    usual = {
        "statistics": statistics(), "watched_s": RUN_S, "ended_ns": round(RUN_S * 1e9), "with_policy": True,
        "succeeded": False, "driver": driver(), "policy": policy(),
    }  # fmt: skip
    return RunFacts(**usual | values)


def test_a_good_run_has_no_warning_and_does_not_fail():
    assert warnings(facts()) == []
    assert failure(facts()) == ""


def test_a_run_whose_chunks_were_mostly_refused_fails_with_the_last_reason():
    refusing = driver(chunks_accepted=1, chunks_refused=54, last_refusal="positions: expected radians, got 128.3")
    sentence = "the driver refused 54 of 55 chunks; the last because positions: expected radians, got 128.3"
    assert failure(facts(driver=refusing)) == sentence
    assert warnings(facts(driver=refusing)) == [sentence]


def test_the_chunk_that_is_older_than_the_arming_is_a_warning_only():
    run = facts(driver=driver(chunks_accepted=1, chunks_refused=2, last_refusal="too old"))
    assert failure(run) == ""
    assert len(warnings(run)) == 1


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({}, "arm executing: why"),
        ({"driver": driver(chunks_refused=2, last_refusal="too old")}, "last refusal: too old"),
        ({"policy": policy(state="waiting", reason="no image of front")}, "policy waiting: no image of front"),
    ],
    ids=["the arm", "a refusal", "the policy"],
)
def test_an_arm_that_never_moved_though_a_policy_ran_is_a_failure_with_the_likeliest_reason(values, reason):
    still = statistics(moved_rad=0.004)
    if "policy" in values:
        still.chunks = 0
    run = facts(**{"statistics": still, "driver": driver(reason="why")} | values)
    assert failure(run).startswith("the arm did not move in 10.0 s although a policy ran")
    assert failure(run).endswith(reason)


@pytest.mark.parametrize(
    "values",
    [{"with_policy": False}, {"succeeded": True}, {"watched_s": 1.0}],
    ids=["teleop", "task done", "stopped at once"],
)
def test_an_arm_that_had_no_need_to_move_is_no_failure(values):
    assert failure(facts(statistics=statistics(moved_rad=0.0), **values)) == ""


def test_an_emergency_stop_left_latched_is_a_failure_and_one_that_was_reset_a_warning():
    assert "left by a person" in failure(facts(driver=driver(mode="estop", reason="left by a person")))
    counted = statistics()
    for mode in ("policy", "estop", "estop", "idle", "policy", "estop", "policy"):
        counted.held.add(0.0, driver(mode=mode))
    run = facts(statistics=counted)
    assert failure(run) == ""
    assert warnings(run) == ["the emergency stop was latched 2 times"]


@pytest.mark.parametrize(
    ("lost", "sentence"),
    [
        ((4.0, 7.0), "the front camera sent nothing for 3.0 s, 4.0 s into the run"),
        ((0.0, 2.5), "the front camera sent nothing for 2.5 s, 0.0 s into the run"),
        ((8.0, 10.0), "the front camera sent nothing for 2.0 s, 8.0 s into the run"),
        ((0.0, 10.0), "the front camera sent nothing"),
    ],
    ids=["in between", "at the start", "at the end", "always"],
)
def test_a_camera_that_was_lost_for_a_while_is_one_warning(lost, sentence):
    assert warnings(facts(statistics=statistics(lost=lost))) == [sentence]


def test_the_time_that_discovery_takes_is_no_lost_camera():
    assert warnings(facts(statistics=statistics(lost=(0.0, 1.2)))) == []


def test_a_camera_that_was_lost_twice_is_one_sentence_too():
    stream = statistics(lost=(2.0, 3.0))
    camera = stream.cameras["front"]
    kept = [index for index, stamp in enumerate(camera.stamps_ns) if not 5e9 < stamp < 8e9]
    camera.stamps_ns, camera.ages_s = [camera.stamps_ns[i] for i in kept], [camera.ages_s[i] for i in kept]
    (text,) = warnings(facts(statistics=stream))
    assert text.startswith("the front camera sent nothing for 3.0 s, 5.0 s into the run, and once more")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"late_ticks": 100}, "the driver missed 100 of 1000 control ticks (10%): the computer is too slow"),
        ({"bus_errors": [0, 7]}, "bus errors: gripper 7 in 2000 transactions"),
        ({"empty_ticks": 200}, "the arm had no action step to execute in 200 of 1000 control ticks (20%)"),
    ],
    ids=["late ticks", "bus errors", "empty queue"],
)
def test_each_count_of_the_driver_is_one_warning(values, sentence):
    assert warnings(facts(driver=driver(**values))) == [sentence]


def test_what_the_driver_counted_before_the_run_is_not_blamed_on_it():
    before = driver(ticks=500, late_ticks=100, empty_ticks=500, bus_errors=[9, 9], chunks_refused=5, chunks_accepted=0)
    after = driver(ticks=1500, late_ticks=101, empty_ticks=501, bus_errors=[9, 9], chunks_refused=5, chunks_accepted=50)
    assert warnings(facts(before=before, driver=after)) == []


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"dropped_observations": 50}, "the policy dropped 50 of 100 observations"),
        ({"refused_outputs": 3}, "the policy withheld 3 times an output"),
        (
            {"state": "refused", "reason": "a bundle of another arm"},
            "the policy ended refused: a bundle of another arm",
        ),
    ],
    ids=["drops", "outputs", "refused"],
)
def test_each_count_of_the_policy_is_one_warning(values, sentence):
    (text,) = warnings(facts(policy=policy(**values)))
    assert text.startswith(sentence)


def test_holding_and_throttling_are_told_with_their_length_and_reason():
    counted = statistics()
    for index in range(40):
        counted.held.add(0.1 * index, driver(state="holding", reason="chunks stopped", limits_hit=DERATED))
    assert warnings(facts(statistics=counted)) == [
        "the arm held for 3.9 of 10.0 s, mostly because chunks stopped",
        "the driver reduced the arm's speed for 3.9 s: temperature or load, see logs/driver.log",
    ]


def test_a_run_without_a_driver_or_a_policy_is_judged_by_what_there_is():
    run = facts(driver=None, policy=None, statistics=RunStatistics())
    assert failure(run) == ""
    assert warnings(run) == []
