"""Replay: when the arm is at the start of an episode, and when a driver that does not take the chunks ends it."""

import numpy as np
import pytest
from repository import ROOT

from grids_data.bag.series import JOINTS
from grids_data.bag.writer import BagWriter
from grids_data.errors import DataError
from grids_eval.replay.cli import main
from grids_eval.replay.policy import find_bundle
from grids_policy.runtime.bundle import read_manifest
from grids_recorder.bench import synthetic
from grids_recorder.replay.guard import ARRIVED_RAD, PATIENCE_S, ChunkAcceptance, break_in, distance


def test_the_joint_that_is_furthest_from_the_start_is_named():
    goal = np.zeros(6)
    away, joint = distance(np.array([0.05, -0.4, 0.3, 0, 0, 0]), goal, goal)
    assert (away, joint) == (pytest.approx(0.4), "shoulder_lift")


def test_a_gripper_that_never_got_to_its_goal_need_not_get_there_again():
    goal, reached = np.zeros(6), np.array([0, 0, 0, 0, 0, 0.5])
    assert distance(np.array([0, 0, 0, 0, 0, 0.45]), goal, reached)[0] == 0.0
    away, joint = distance(np.array([0, 0, 0, 0, 0, 0.75]), goal, reached)
    assert (away, joint) == (pytest.approx(0.25), "gripper")
    assert away > ARRIVED_RAD


def test_commands_that_do_not_follow_each_other_are_not_played():
    times = np.arange(300) / 100
    assert break_in(times) == ""
    assert break_in(np.delete(times, slice(100, 180))) == "no command is recorded for 0.81 s at 1.0 s"
    assert break_in(times + np.where(times > 1.0, 3600.0, 0)) == "no command is recorded for 3600.01 s at 1.0 s"
    assert break_in(times - np.where(times > 1.0, 2.0, 0)) == "the clock of its commands went back by 1.99 s at 1.0 s"


def test_one_refused_chunk_is_a_reason():
    acceptance = ChunkAcceptance(10.0, accepted=5, refused=3)
    assert acceptance.problem(10.1, 6, 3, "old news") == ""
    assert acceptance.problem(10.2, 7, 4, "stale by 0.6 s") == "the driver refused a chunk: stale by 0.6 s"


def test_a_driver_that_takes_nothing_is_noticed_after_a_while():
    acceptance = ChunkAcceptance(10.0, accepted=5, refused=0)
    assert acceptance.problem(10.0 + PATIENCE_S, 5, 0, "") == ""
    assert acceptance.problem(11.0 + PATIENCE_S, 5, 0, "") == "the driver has taken no chunk for 3.0 s"
    assert acceptance.problem(12.0 + PATIENCE_S, 6, 0, "") == ""
    assert acceptance.problem(12.5 + PATIENCE_S, 6, 0, "") == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--to", "policy", "--speed", "0.5"], "--speed: has no meaning with --to policy"),
        (["--to", "arm", "--bundle", "x"], "--bundle: has no meaning with --to arm"),
        (["--to", "arm", "--engine", "cpu"], "--engine: has no meaning with --to arm"),
        (["--to", "arm", "--speed", "3"], "--speed: expected 0.1 to 1.0, got 3.0"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(capsys, words, message):
    with pytest.raises(SystemExit) as refusal:
        main(["episode", *words])
    assert refusal.value.code == 2
    assert message in capsys.readouterr().err


def test_a_broken_bundle_is_refused_in_one_sentence(tmp_path, capsys):
    bag = BagWriter(tmp_path / "episode", [(JOINTS, synthetic.JOINT_STATE, False)], {})
    bag.write(JOINTS, 1, synthetic.joint_state(1, np.zeros(6)))
    bag.close()
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "policy.json").write_text("{}")
    assert main([str(tmp_path / "episode"), "--to", "policy", "--bundle", str(tmp_path / "bundle")]) == 2
    assert "grids replay: " in (said := capsys.readouterr().err)
    assert "policy.json" in said


def test_a_bundle_is_found_by_its_whole_id():
    models = ROOT / "models"
    name = read_manifest(models / "demo").bundle_id
    assert find_bundle([name], models) == models / "demo"
    with pytest.raises(
        DataError, match=r"expected the bundle demo2-0123456789ab under .* found demo-.*--bundle FOLDER"
    ):
        find_bundle(["demo2-0123456789ab"], models)
