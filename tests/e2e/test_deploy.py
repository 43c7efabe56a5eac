"""`./grids deploy` on the twin, through DDS and serial packets, as a user starts it."""

import fcntl
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import av
import psutil
import pytest
from waiting import wait_for

from grids_bringup.arguments import resolve_policy
from grids_sim.servo import bus_log

pytestmark = pytest.mark.e2e


def no_process_left(run) -> bool:
    marker = f"run_dir:={json.dumps(str(run.folder))}"
    return not any(marker in " ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"]))


@pytest.mark.parametrize("task", ["pick_place", "stack_cubes", "transfer_pen"])
def test_the_expert_does_the_task_through_dds_and_serial_packets(deploy, task):
    run = deploy("policy:=expert", f"task:={task}", "seed:=1")
    assert run.wait(150) == 0, run.output[-3000:]
    summary = run.summary()
    assert summary["success"] is True
    assert summary["chunks"] > 5
    assert summary["driver"]["chunks_accepted"] > 5
    assert summary["driver"]["bus_transactions"] > 500
    assert {"summary.json", "overlay.mp4", "logs"} <= {path.name for path in run.folder.iterdir()}
    for camera in ("front", "wrist"):
        assert summary["cameras"][camera]["frames"] > 50
    with av.open(str(run.folder / "overlay.mp4")) as video:
        stream = video.streams.video[0]
        assert stream.frames > 50
        assert stream.width > stream.height
    assert no_process_left(run)


def test_a_bundle_keeps_chunks_flowing_for_ten_seconds(deploy):
    run = deploy("policy:=untrained", "duration:=10")
    assert run.wait(120) == 0, run.output[-3000:]
    summary = run.summary()
    assert summary["ended_by"] == "time limit"
    assert summary["chunks"] >= 8
    assert summary["driver"]["chunks_accepted"] >= 0.9 * summary["chunks"] - 2
    assert summary["latency_ms"]["observation_to_chunk"]["count"] == summary["chunks"]


def test_without_a_policy_named_the_learned_demo_does_the_task_in_one_of_three_scenes(deploy):
    done = []
    for seed in range(3):
        run = deploy(f"seed:={seed}")
        assert run.wait(180) in (0, 3), run.output[-3000:]
        summary = run.summary()
        assert summary["policy"] == "demo"
        assert summary["bundle_id"].startswith("demo-")
        assert summary["chunks"] > 20
        assert summary["driver"]["chunks_refused"] <= 0.1 * summary["chunks"]
        done.append(summary["success"])
        if done[-1]:
            return
    raise AssertionError(f"expected success in at least one scene, got {done}")


@pytest.mark.parametrize("policy", ["expert", "untrained"])
def test_killing_the_policy_in_motion_holds_the_arm_at_once_and_ends_in_a_clear_summary(deploy, policy):
    run = deploy(f"policy:={policy}", "seed:=2", "duration:=60")
    wait_for(lambda: "arm executing" in tail(run), "motion")
    time.sleep(1.0)  # of motion for the log and the video to show; nothing depends on its length
    victim = run.node("policy")
    killed = time.monotonic()
    victim.kill()
    assert run.wait(40) == 1
    summary = run.summary()
    assert "policy was killed by SIGKILL" in summary["failure"]
    assert summary["driver"]["state"] in ("holding", "inactive")
    assert summary["arm"] == "held"
    goals = bus_log.load(run.folder / "bus.jsonl")
    assert last_move_s(goals) - killed < 0.3 + 0.2
    assert bus_log.torque_offs(goals) == []
    assert (run.folder / "overlay.mp4").stat().st_size > 1000
    assert no_process_left(run)


@pytest.mark.parametrize("victim", ["policy", "driver"])
def test_a_node_that_hangs_ends_the_run_with_its_name_and_no_servo_goes_limp(deploy, victim):
    run = deploy("policy:=expert", "seed:=2", "duration:=60")
    wait_for(lambda: "arm executing" in tail(run), "motion")
    process = run.node(victim)
    stopped = time.monotonic()
    process.suspend()
    assert run.wait(60) == 1
    assert f"{victim} has been silent for" in run.summary()["failure"]
    assert run.summary()["arm"] == "held"
    goals = bus_log.load(run.folder / "bus.jsonl")
    assert last_move_s(goals) - stopped < 0.3 + 0.2
    assert bus_log.torque_offs(goals) == []
    assert no_process_left(run)


def last_move_s(goals) -> float:
    """When the servos got their last new goal: 0.3 s after a loss, and the stop at limited deceleration.

    Without the gripper: a jaw that is blocked by the cube is still eased to its holding force in a hold.
    """
    arm = bus_log.last_goal_change_s([record for record in goals if record.servo_id < 6])
    eased = [r.value for r in goals if (r.servo_id, r.kind) == (6, "goal") and r.t_s > arm + 0.1]
    assert not eased or max(eased) - min(eased) < 200, f"the jaw went on from {eased[0]} to {eased[-1]} of 4096"
    return arm


def tail(run) -> str:
    """What the run printed so far (the pipe is read without blocking)."""
    handle = run.process.stdout.fileno()
    flags = fcntl.fcntl(handle, fcntl.F_GETFL)
    fcntl.fcntl(handle, fcntl.F_SETFL, flags | os.O_NONBLOCK)
    try:
        run.output += os.read(handle, 1 << 16).decode()
    except BlockingIOError:
        return run.output
    finally:
        fcntl.fcntl(handle, fcntl.F_SETFL, flags)
    return run.output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_an_interrupted_run_holds_the_arm_and_writes_its_summary(deploy, number):
    run = deploy("policy:=untrained", "duration:=60")
    wait_for(lambda: "arm executing" in tail(run), "motion")
    run.process.send_signal(number)
    assert run.wait(30) == 0
    summary = run.summary()
    assert summary["ended_by"] == "stopped"
    assert summary["failure"] == ""
    assert no_process_left(run)


def test_two_stacks_in_different_domains_do_not_hear_each_other(deploy):
    first = deploy("policy:=untrained", "duration:=6", "seed:=11")
    second = deploy("policy:=expert", "duration:=6", "seed:=22")
    assert first.wait(120) == 0, first.output[-3000:]
    assert second.wait(60) == 0, second.output[-3000:]
    for run, seed in ((first, 11), (second, 22)):
        summary = run.summary()
        assert summary["seed"] == seed
        heard = summary["driver"]["chunks_accepted"] + summary["driver"]["chunks_refused"]
        # Both policies send about as often: the other stack's chunks would double the count. The listener that counts
        # keeps one chunk and may miss some on a busy machine.
        assert 0 < heard <= 1.5 * summary["chunks"] + 2, "a driver heard the other stack's policy"
    assert first.summary()["bundle_id"] != second.summary()["bundle_id"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["task:=juggle"], "task: expected one of"),
        (["policy:=/nowhere/bundle"], "expected 'expert', a folder with a policy.json"),
        (["serial_port:=/dev/nowhere", "policy:=expert"], "serial_port: expected an existing device"),
        (["output:=/proc/run"], "expected a writable folder"),
        (["speed:=3"], "unknown parameter 'speed'"),
    ],
    ids=["unknown task", "missing bundle", "wrong serial path", "unwritable output", "unknown argument"],
)
def test_bad_input_is_one_sentence_and_starts_nothing(deploy, arguments, message):
    run = deploy(*arguments)
    assert run.wait(20) == 2
    assert message in run.output
    assert len(run.output.strip().splitlines()) == 1
    assert not (run.folder / "logs").exists() or not list((run.folder / "logs").iterdir())


@pytest.mark.parametrize("held", [True, False], ids=["in use", "no arm behind it"])
def test_a_port_that_is_no_free_arm_is_one_sentence_and_nothing_moves(deploy, held):
    ours, theirs = os.openpty()
    if held:
        fcntl.flock(theirs, fcntl.LOCK_EX | fcntl.LOCK_NB)
    run = deploy("policy:=expert", f"serial_port:={os.ttyname(theirs)}")
    assert run.wait(150) == 1
    summary = run.summary()
    assert os.ttyname(theirs) in summary["failure"]
    assert ("in use by another process" in summary["failure"]) == held
    assert len(summary["failure"].splitlines()) == 1
    assert summary["arm"] == "not touched"
    assert bus_log.last_goal_change_s(bus_log.load(run.folder / "bus.jsonl")) is None
    assert no_process_left(run)
    os.close(ours)
    os.close(theirs)


def test_a_bundle_with_one_byte_changed_is_refused_before_anything_moves(deploy, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(resolve_policy("untrained"), broken)
    victim = next(broken.glob("*.onnx"))
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    run = deploy(f"policy:={broken}")
    assert run.wait(90) == 1
    assert victim.name in run.summary()["failure"]
    assert run.summary()["chunks"] == 0


def test_a_second_stack_in_the_same_domain_is_refused_and_the_first_goes_on(deploy):
    first = deploy("policy:=untrained", "duration:=15")
    wait_for(lambda: "arm executing" in tail(first), "motion")
    second = deploy("policy:=untrained", "duration:=5", environment={"ROS_DOMAIN_ID": str(first.domain)})
    assert second.wait(20) == 2
    assert "another run" in second.output
    assert not (second.folder / "logs").exists()
    assert first.wait(60) == 0
    assert first.summary()["ended_by"] == "time limit"


def cpu_s(words: list[str]) -> float:
    """Processor seconds of one command: unlike its duration, not a matter of what else runs."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(words, check=True, capture_output=True, timeout=60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_the_entry_script_adds_little_to_what_it_starts():
    script = os.path.join(os.environ["GRIDS_ROOT"], "grids")
    rounds = [(cpu_s([script, "--help"]), cpu_s([sys.executable, "-c", "import rclpy"])) for _ in range(3)]
    assert min(script_s for script_s, _ in rounds) < 2 * min(import_s for _, import_s in rounds)
