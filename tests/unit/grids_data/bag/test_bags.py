"""Other readers read the bags, and every fault is found by the verdict."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from rosbags.rosbag2 import Reader

from grids_data.bag import cdr
from grids_data.bag.reader import Bag, find_bag, find_bags
from grids_data.bag.series import JOINTS, LEADER, TRACE
from grids_data.bag.writer import BagWriter
from grids_data.errors import DataError
from grids_recorder.bench import synthetic
from grids_recorder.bench.synthetic import Sample, samples
from grids_recorder.convert import cli as convert
from grids_recorder.judge.cli import check_bag, main, stored_level
from grids_recorder.judge.contact_sheet import WIDTH_PX
from grids_recorder.node.recording import Recording

FRONT = "/front/color/image_raw"
CONNECTIONS = [
    *((f"/{c}/color/image_raw{cdr.COMPRESSED_SUFFIX}", cdr.COMPRESSED, False) for c in ("front", "wrist")),
    (JOINTS, synthetic.JOINT_STATE, False),
    (TRACE, synthetic.COMMAND_TRACE, False),
    (LEADER, synthetic.JOINT_STATE, False),
]


def record(folder: Path, messages, *, receive=lambda s: s.stamp_ns + 5_000_000, **episode) -> Path:
    """A bag of the given samples, through the recorder's own writer thread."""
    bag = BagWriter(folder, CONNECTIONS, {"task": "test"})
    recording = Recording(bag, jpeg_quality=90, queue_bytes=1 << 30, min_free_bytes=0)
    for sample in messages:
        recording.put(sample.topic, sample.type, receive(sample), sample.raw)
    final = recording.finish(**episode)
    assert recording.failure == ""
    assert final is not None
    return final


def verdict_of(tmp_path: Path, messages, **options):
    return check_bag(record(tmp_path / "episode", messages, **options))


def test_three_independent_readers_read_every_message(tmp_path):
    sent = list(samples(2.0))
    folder = record(tmp_path / "episode", sent)
    with Reader(folder) as reader:
        assert reader.message_count == len(sent)
    with next(folder.glob("*.mcap")).open("rb") as file:
        summary = make_reader(file).get_summary()
        assert summary.statistics.message_count == len(sent)
        assert sum(1 for _ in make_reader(file).iter_messages()) == len(sent)
        file.seek(0)
        decoded = make_reader(file, decoder_factories=[DecoderFactory()]).iter_decoded_messages()
        positions = [m.position for _, channel, _, m in decoded if channel.topic == JOINTS]
        assert len(positions) == sum(s.topic == JOINTS for s in sent)
        assert all(len(p) == 6 for p in positions)
    with Bag(folder) as bag:
        assert sum(1 for _ in bag.messages()) == len(sent)
        assert bag.episode["sources"] == ["policy"]


def test_pictures_keep_their_capture_stamp_and_content(tmp_path):
    folder = record(tmp_path / "episode", samples(1.0))
    with Bag(folder) as bag:
        records = list(bag.messages([FRONT + cdr.COMPRESSED_SUFFIX]))
        for index, one in enumerate(records):
            assert abs(cdr.stamp_ns(one.raw) - one.time_ns) == 5_000_000
            wanted = synthetic.frame(index / 30, (48, 64))
            got = bag.image(one)
            assert np.abs(got.astype(int) - wanted).mean() < 4.0


def test_spans_of_human_takeover_are_noted(tmp_path):
    def taken_over(sample: Sample) -> Sample:
        at = (sample.stamp_ns - 1_700_000_000_000_000_000) * 1e-9
        if sample.topic != TRACE or not 1.0 <= at <= 1.5:
            return sample
        raw = synthetic.command_trace(sample.stamp_ns, synthetic.positions(at), human=True)
        return Sample(sample.topic, sample.type, sample.stamp_ns, raw)

    folder = record(tmp_path / "episode", map(taken_over, samples(3.0)))
    (span,) = json.loads((folder / "episode.json").read_text())["human_spans_s"]
    assert span == pytest.approx([1.0, 1.5], abs=0.02)


def test_an_existing_episode_is_never_overwritten(tmp_path):
    folder = record(tmp_path / "episode", samples(0.3))
    before = [(p, p.stat().st_mtime_ns) for p in sorted(folder.iterdir())]
    with pytest.raises(DataError, match="already exists and is left as it is: choose another episode name"):
        BagWriter(tmp_path / "episode", CONNECTIONS, {})
    assert [(p, p.stat().st_mtime_ns) for p in sorted(folder.iterdir())] == before


# --- verdicts --------------------------------------------------------------------------------------------------------
def seconds(sample: Sample) -> float:
    return (sample.stamp_ns - 1_700_000_000_000_000_000) * 1e-9


def test_a_clean_episode_is_ok_and_has_a_contact_sheet(tmp_path):
    import cv2

    folder = record(tmp_path / "episode", samples(4.0))
    verdict = check_bag(folder)
    assert (verdict.level, verdict.reasons) == ("OK", "")
    assert stored_level(folder) == "OK"
    sheet = cv2.imread(str(folder / "contact_sheet.png"))
    assert sheet.shape[1] == WIDTH_PX
    assert sheet.std() > 10


def dropped(topic, begin, end):
    return lambda s: not (s.topic == topic and begin <= seconds(s) < end)


def thinned(sample: Sample) -> bool:
    return sample.topic != TRACE or round(seconds(sample) * 100) % 5 < 2


def blackened(sample: Sample) -> Sample:
    if sample.topic != FRONT or not 1.0 <= seconds(sample) < 1.6:
        return sample
    return Sample(
        FRONT, sample.type, sample.stamp_ns, synthetic.image(sample.stamp_ns, np.zeros((48, 64, 3), np.uint8))
    )


def frozen(sample: Sample) -> Sample:
    if sample.topic != FRONT or not 1.0 <= seconds(sample) < 2.8:
        return sample
    picture = synthetic.frame(1.0, (48, 64))
    return Sample(FRONT, sample.type, sample.stamp_ns, synthetic.image(sample.stamp_ns, picture))


def repeated(sample: Sample) -> Sample:
    if sample.topic != FRONT or round(seconds(sample) * 30) % 2:
        return sample
    stamp = sample.stamp_ns + 33_333_333
    return Sample(FRONT, sample.type, stamp, synthetic.image(stamp, synthetic.frame(seconds(sample), (48, 64))))


def clipped(sample: Sample) -> Sample:
    if sample.topic != TRACE:
        return sample
    rad = synthetic.positions(seconds(sample))
    raw = rad + np.array([0, 0.2, 0, 0, 0, 0])
    return Sample(TRACE, sample.type, sample.stamp_ns, synthetic.command_trace(sample.stamp_ns, rad, raw=raw))


def still(sample: Sample) -> Sample:
    if sample.topic != JOINTS or seconds(sample) > 3.5:
        return sample
    return Sample(JOINTS, sample.type, sample.stamp_ns, synthetic.joint_state(sample.stamp_ns, np.zeros(6)))


def paused(sample: Sample) -> Sample:
    if sample.topic != JOINTS or not 0.5 <= seconds(sample) < 4.5:
        return sample
    return Sample(JOINTS, sample.type, sample.stamp_ns, synthetic.joint_state(sample.stamp_ns, np.zeros(6)))


def teleoperated(sample: Sample) -> Sample:
    if sample.topic != TRACE:
        return sample
    raw = synthetic.command_trace(sample.stamp_ns, synthetic.positions(seconds(sample)), source="teleop")
    return Sample(TRACE, sample.type, sample.stamp_ns, raw)


def rare_wrist(sample: Sample) -> bool:
    return not sample.topic.startswith("/wrist") or round(seconds(sample) * 30) % 12 == 0


FAULTS = {
    "never arrived": (dropped(JOINTS, 0, 99), None, "REJECT", "joint_states: nothing was received; is its node"),
    "no wrist": (dropped("/wrist/color/image_raw", 0, 99), None, "REJECT", "compressed: nothing was received"),
    "no front": (dropped(FRONT, 0, 99), None, "REJECT", "compressed: nothing was received"),
    "gap": (dropped(FRONT, 1, 1.3), None, "WARN", "front/color/image_raw/compressed: silent for 0.3"),
    "long gap": (dropped(FRONT, 1, 2), None, "REJECT", "silent for 1.0"),
    "half rate": (thinned, None, "REJECT", "messages expected at 100 Hz"),
    "black": (None, blackened, "REJECT", "front camera: black for 0.6 s at 1.0 s"),
    "frozen": (None, frozen, "REJECT", "front camera: frozen for 1.8 s at 1.0 s"),
    "repeated": (None, repeated, "REJECT", "repeated stamps"),
    "clipped": (None, clipped, "REJECT", "shoulder_lift: the command was clipped 100 % of the time"),
    "still": (None, still, "WARN", "nothing moves in the first 3.5 s"),
    "pause": (None, paused, "WARN", "nothing moves for 3.9 s at 0.5 s"),
    "no leader": (None, teleoperated, "WARN", "/leader/joint_states: nothing was received"),
    "skew": (rare_wrist, None, "REJECT", "wrist: 200 ms away from the front image (p95)"),
}  # fmt: skip


@pytest.mark.parametrize(("keep", "change", "level", "text"), FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_is_found_and_named(tmp_path, keep, change, level, text):
    messages = filter(keep, samples(5.0)) if keep else map(change, samples(5.0))
    verdict = verdict_of(tmp_path, messages)
    assert text in verdict.reasons
    assert verdict.level == level


def test_a_leader_that_falls_silent_in_teleoperation_is_found(tmp_path):
    def with_leader():
        for sample in map(teleoperated, samples(5.0)):
            yield sample
            if sample.topic == JOINTS and not 2.0 <= seconds(sample) < 3.0:
                yield Sample(LEADER, sample.type, sample.stamp_ns, sample.raw)

    verdict = verdict_of(tmp_path, with_leader())
    assert verdict.level == "REJECT"
    assert verdict.reasons == "/leader/joint_states: 400 of 499 messages expected at 100 Hz; " + (
        "/leader/joint_states: silent for 1.01 s at 2.0 s"
    )


def test_a_still_scene_is_not_a_frozen_camera(tmp_path):
    def nothing_moves(sample: Sample) -> Sample:
        if sample.topic == JOINTS:
            return Sample(JOINTS, sample.type, sample.stamp_ns, synthetic.joint_state(sample.stamp_ns, np.zeros(6)))
        if sample.type == cdr.IMAGE:
            raw = synthetic.image(sample.stamp_ns, synthetic.frame(0.0, (48, 64)))
            return Sample(sample.topic, sample.type, sample.stamp_ns, raw)
        return sample

    assert "frozen" not in verdict_of(tmp_path, map(nothing_moves, samples(3.0))).reasons


@pytest.mark.parametrize("jump_s", [-3.0, 1.0])
def test_a_clock_set_while_recording_is_found_and_the_bag_stays_in_order(tmp_path, jump_s):
    """Stamps follow the wall clock, the recorder's times the monotonic one."""

    def stamped(sample: Sample) -> Sample:
        if seconds(sample) < 2.0:
            return sample
        stamp = sample.stamp_ns + round(jump_s * 1e9)
        raw = bytearray(sample.raw)
        raw[4:12] = (stamp // 10**9).to_bytes(4, "little") + (stamp % 10**9).to_bytes(4, "little")
        return Sample(sample.topic, sample.type, stamp, bytes(raw))

    times = iter([sample.stamp_ns + 4_000_000 for sample in samples(4.0)])
    folder = record(tmp_path / "episode", map(stamped, samples(4.0)), receive=lambda _: next(times))
    verdict = check_bag(folder)
    assert verdict.level == "REJECT"
    assert f"the clock jumped by {jump_s:+.2f} s at 2.0 s" in verdict.reasons
    with Bag(folder) as bag:
        order = [one.time_ns for one in bag.messages()]
    assert order == sorted(order)


def test_a_stalled_machine_is_not_a_clock_that_was_set(tmp_path):
    """All messages of 0.4 s arrive together, late."""

    def receive(sample: Sample) -> int:
        at = seconds(sample)
        late = round((2.4 - at) * 1e9) if 2.0 <= at < 2.4 else 4_000_000
        return sample.stamp_ns + late

    folder = record(tmp_path / "episode", samples(4.0), receive=receive)
    verdict = check_bag(folder)
    assert "clock" not in verdict.reasons
    assert "silent for 0.4" in verdict.reasons


def test_lost_messages_and_short_episodes_are_named(tmp_path):
    folder = record(tmp_path / "episode", samples(1.0))
    episode = json.loads((folder / "episode.json").read_text())
    (folder / "episode.json").write_text(json.dumps(episode | {"lost": {FRONT: 3}}))
    verdict = check_bag(folder)
    assert "too short: 1.0 s, expected at least 2 s" in verdict.reasons
    assert "3 messages lost while recording" in verdict.reasons


def test_check_prints_a_table_and_its_exit_code_tells_of_rejects(tmp_path, capsys):
    record(tmp_path / "good", samples(2.5))
    assert main([str(tmp_path)]) == 0
    record(tmp_path / "short", samples(0.5))
    (tmp_path / "discarded").mkdir()
    shutil.copytree(tmp_path / "short", tmp_path / "discarded" / "short")
    assert main([str(tmp_path), "--no-sheet"]) == 1
    assert capsys.readouterr().out.count("REJECT") == 1
    assert [folder.name for folder in find_bags([tmp_path])] == ["good", "short"]
    assert main([str(tmp_path / "nothing")]) == 2


def test_every_given_path_without_an_episode_is_named(tmp_path):
    good = record(tmp_path / "episodes" / "good", samples(0.5))
    assert find_bags([good, tmp_path / "episodes"]) == [good]
    with pytest.raises(DataError, match=r"at least one recorded episode in .*/episodes/god, .*/bda, found none"):
        find_bags([tmp_path / "episodes" / "god", good, tmp_path / "bda"])
    (tmp_path / "live.partial").mkdir()
    with pytest.raises(DataError, match=r"live.partial was not finished: run ./grids recover"):
        find_bags([good, tmp_path / "live.partial"])
    (tmp_path / "discarded").mkdir()
    with pytest.raises(DataError, match="in the given paths besides discarded/, found none"):
        find_bags([tmp_path / "discarded"])


def test_one_bag_is_found_at_any_depth_or_its_absence_explained(tmp_path):
    with pytest.raises(DataError, match=r"expected a run folder or a bag, found nothing at .*/none"):
        find_bag(tmp_path / "none")
    one = record(tmp_path / "runs" / "monday" / "recordings" / "a", samples(0.5))
    assert find_bag(tmp_path) == one
    file = next(one.glob("*.mcap"))
    assert find_bag(file) == file
    with Bag(file) as alone, Bag(one) as folder:
        assert [r.raw for r in alone.messages()] == [r.raw for r in folder.messages()]
        assert alone.episode == {}
        with pytest.raises(DataError, match=r"expected one of /odd; it holds /follower/command_trace, "):
            alone.require(["/odd"])
        first = next(folder.messages()).time_ns
        early = [r.time_ns - first for r in folder.messages(until_s=0.2)]
        assert 0 < len(early) < sum(1 for _ in folder.messages())
        assert max(early) <= 200_000_000
    (one / "metadata.yaml").unlink()
    assert find_bag(tmp_path) == file  # for viewing, the file alone is enough
    record(tmp_path / "b", samples(0.5))
    with pytest.raises(DataError, match=r"expected one bag under .*, found 2: b, runs/monday/recordings/a"):
        find_bag(tmp_path)


def test_an_episode_file_that_is_no_json_is_named(tmp_path, capsys):
    folder = record(tmp_path / "episode", samples(2.5))
    (folder / "episode.json").write_text("{")
    assert main([str(folder)]) == 1
    assert "episode.json: expected JSON with the episode's data" in capsys.readouterr().err


def test_a_bag_that_lost_its_metadata_is_named_and_the_others_are_judged(tmp_path, capsys):
    record(tmp_path / "good", samples(2.5))
    (record(tmp_path / "headless", samples(2.5)) / "metadata.yaml").unlink()
    assert main([str(tmp_path), "--no-sheet"]) == 1
    said = capsys.readouterr()
    assert "headless: metadata.yaml is missing, the recording was not ended: ./grids recover " in said.err
    assert "OK     good" in said.out


def torn_jpeg(folder: Path) -> Path:
    """An episode in which the data of one picture is not a picture."""
    bag = BagWriter(folder, CONNECTIONS, {"task": "test"})
    for sample in samples(2.5):
        if sample.type == cdr.IMAGE:
            raw = cdr.jpeg_message(sample.raw, 90)
            torn = seconds(sample) == 1.0 and sample.topic == FRONT
            raw = raw[:-400] + b"\0" * 400 if torn else raw
            raw = raw.replace(b"\xff\xd8", b"\0\0", 1) if torn else raw
            bag.write(sample.topic + cdr.COMPRESSED_SUFFIX, sample.stamp_ns, raw)
        else:
            bag.write(sample.topic, sample.stamp_ns, sample.raw)
    return bag.close()


def test_one_broken_picture_rejects_its_episode_and_no_other(tmp_path, capsys):
    torn = torn_jpeg(tmp_path / "a_torn")
    record(tmp_path / "good", samples(2.5))
    assert main([str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "REJECT a_torn" in said
    assert "reject: cannot be read: " in said
    assert "OK     good" in said
    assert stored_level(torn) == "REJECT"
    assert convert.main([str(tmp_path), str(tmp_path / "set"), "--workers", "1", "--include-rejected"]) == 2
    assert "grids convert: a_torn: " in capsys.readouterr().err


def test_a_bag_on_a_read_only_folder_is_judged_all_the_same(tmp_path, monkeypatch, capsys):
    folder = record(tmp_path / "episode", samples(2.5))

    def refuse(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("grids_recorder.judge.cli.write_json", refuse)
    assert check_bag(folder).level == "OK"
    assert "the verdict cannot be stored there (Permission denied)" in capsys.readouterr().err
    assert os.access(folder, os.R_OK)


def test_an_episode_is_judged_at_the_rates_it_was_recorded_for(tmp_path):
    slow = list(samples(4.0, image_hz=10))
    rates = {"images": 10.0, "joints": 100.0}
    folder = record(tmp_path / "slow", slow, expected_hz=rates)
    assert check_bag(folder).level == "OK"
    assert check_bag(folder, image_hz=30).level == "REJECT"
    assert check_bag(record(tmp_path / "unknown", slow)).level == "REJECT"
