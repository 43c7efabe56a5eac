"""What a crash or a full disk leaves of an episode, and what is made of it."""

import json
import re
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from grids_data.bag import cdr
from grids_data.bag.reader import Bag
from grids_data.bag.series import CHUNKS, JOINTS, TRACE
from grids_data.bag.writer import BagWriter, partial_folder
from grids_data.errors import DataError
from grids_recorder.bench import cli as bench
from grids_recorder.bench import synthetic
from grids_recorder.bench.cli import missing_stamps
from grids_recorder.bench.synthetic import Sample, samples
from grids_recorder.node.recording import Recording, require_space
from grids_recorder.node.saving import save
from grids_recorder.recover import Recovered, leftovers, main, recover, recover_all
from grids_recorder.reindex import readable_messages

CONNECTIONS = [
    *((f"/{c}/color/image_raw{cdr.COMPRESSED_SUFFIX}", cdr.COMPRESSED, False) for c in ("front", "wrist")),
    (JOINTS, synthetic.JOINT_STATE, False),
    (TRACE, synthetic.COMMAND_TRACE, False),
]


def seconds(sample: Sample) -> float:
    return (sample.stamp_ns - 1_700_000_000_000_000_000) * 1e-9


WRITER = """
import sys, time
from pathlib import Path
from grids_data.bag.writer import BagWriter
from grids_data.bag import cdr
from grids_recorder.bench import synthetic
bag = BagWriter(Path(sys.argv[1]), [("/follower/joint_states", synthetic.JOINT_STATE, False)], {"task": "crash"})
rad, raw = synthetic.positions(0.0), None
while True:
    now = time.time_ns()
    bag.write("/follower/joint_states", now, synthetic.joint_state(now, rad))
    sys.stdout.write(f"{now}\\n"); sys.stdout.flush()
    time.sleep(0.002)
"""


def test_a_killed_recorder_loses_less_than_the_last_second(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path / "crash")], stdout=subprocess.PIPE, text=True
    )
    written = []
    while not written or written[-1] - written[0] < 1_700_000_000:
        written.append(int(process.stdout.readline()))
    process.send_signal(signal.SIGKILL)
    rest, _ = process.communicate()
    written += [int(line) for line in rest.split()]
    with pytest.raises(DataError, match="grids recover"):
        Bag(partial_folder(tmp_path / "crash"))
    (result,) = recover_all(tmp_path)
    assert result.folder == tmp_path / "crash"
    with Bag(result.folder) as bag:
        kept = [one.time_ns for one in bag.messages()]
        assert bag.episode["recovered"] is True
        assert bag.episode["task"] == "crash"
    assert set(written[: len(kept)]) == set(kept)
    lost = [stamp for stamp in written if stamp not in set(kept)]
    assert all(written[-1] - stamp < 1_000_000_000 for stamp in lost)
    assert not leftovers(tmp_path)


def test_recovery_keeps_a_bag_that_took_the_name_meanwhile(tmp_path):
    abandoned(tmp_path / "episode")
    (tmp_path / "episode").mkdir()
    (tmp_path / "episode" / "mine").write_text("keep")
    result = recover(tmp_path / "episode.partial")
    assert result.folder == tmp_path / "episode_2"
    assert (tmp_path / "episode" / "mine").read_text() == "keep"
    with Bag(result.folder) as bag:
        assert sum(1 for _ in bag.messages()) > 100


TORN = b"\x06\xff\xff\x00\x00\x00\x00\x00\x00torn"


def abandoned(final: Path) -> None:
    """What a crash leaves: a partial folder with a torn file."""
    bag = BagWriter(final, CONNECTIONS, {"task": "torn"})
    for sample in samples(1.5):
        if sample.type != cdr.IMAGE:
            bag.write(sample.topic, sample.stamp_ns, sample.raw)
    bag.flush()
    bag.abandon()
    file = next(partial_folder(final).rglob("*.mcap"))
    with file.open("ab") as stream:
        stream.write(TORN)


def action_chunk(stamp_ns: int, bundle_id: str) -> bytes:
    store, kind = cdr.typestore(), "grids_msgs/msg/ActionChunk"
    stamp = store.types["builtin_interfaces/msg/Time"](stamp_ns // 10**9, stamp_ns % 10**9)
    chunk = store.types[kind](
        header=store.types["std_msgs/msg/Header"](stamp, ""), joint_names=["a"], dt=0.1, horizon=1,
        positions=np.zeros(1), sequence=1, epoch=0, committed_rows=0, bundle_id=bundle_id, noise_seed=0,
        stage_names=[], stage_s=np.zeros(0, np.float32),
    )  # fmt: skip
    return bytes(store.serialize_cdr(chunk, kind))


def test_a_recovered_bag_knows_who_commanded_but_not_what_was_lost(tmp_path):
    bag = BagWriter(tmp_path / "crash", [*CONNECTIONS, (CHUNKS, "grids_msgs/msg/ActionChunk", False)], {"task": "t"})
    for sample in filter(lambda s: s.topic == TRACE, samples(3.0)):
        at = seconds(sample)
        raw = synthetic.command_trace(sample.stamp_ns, synthetic.positions(at), human=1.0 <= at <= 1.5)
        bag.write(TRACE, sample.stamp_ns, raw)
        if round(at * 100) % 100 == 50:
            bag.write(CHUNKS, sample.stamp_ns, action_chunk(sample.stamp_ns, "demo-1" if at < 2 else "demo-2"))
    bag.write(TRACE, sample.stamp_ns + 1, b"\0\1\0\0 no trace")
    bag.flush()
    bag.abandon()
    episode = json.loads((recover(tmp_path / "crash.partial").folder / "episode.json").read_text())
    assert episode["human_spans_s"] == [pytest.approx([1.0, 1.5], abs=0.02)]
    assert episode["sources"] == ["policy"]
    assert episode["bundle_ids"] == ["demo-1", "demo-2"]
    assert episode["lost"] is None


def test_a_message_of_an_unknown_channel_ends_what_can_be_read(tmp_path):
    abandoned(tmp_path / "torn")
    file = next((tmp_path / "torn.partial").rglob("*.mcap"))
    whole = file.read_bytes().removesuffix(TORN)
    file.write_bytes(whole)
    kept = len(list(readable_messages(file)))
    assert kept > 100
    body = struct.pack("<HIQQ", 999, 0, 1, 1) + b"data"
    file.write_bytes(whole + b"\x05" + struct.pack("<Q", len(body)) + body + TORN)
    assert len(list(readable_messages(file))) == kept
    assert recover(tmp_path / "torn.partial").messages == kept


def test_a_leftover_that_cannot_be_read_is_named_and_kept(tmp_path):
    abandoned(tmp_path / "bad")
    (tmp_path / "bad.partial" / "episode.json").write_text("{")
    (result,) = recover_all(tmp_path)
    assert result.folder is None
    assert "bad.partial: what is left cannot be read" in result.note
    assert (tmp_path / "bad.partial").exists()


def test_a_complete_bag_whose_name_is_taken_gets_another(tmp_path):
    bag = BagWriter(tmp_path / "episode", CONNECTIONS, {"task": "t"})
    recording = Recording(bag, jpeg_quality=90, queue_bytes=1 << 30, min_free_bytes=0)
    for sample in samples(0.5):
        recording.put(sample.topic, sample.type, sample.stamp_ns, sample.raw)
    (tmp_path / "episode").mkdir()
    (tmp_path / "episode" / "mine").write_text("keep")
    saved = save(recording, "success", {}, threading.Event(), threading.Event())
    assert saved.failed
    assert re.search("episode appeared meanwhile .*; fix that, then run ./grids recover", saved.note)
    # In the same process, as an operator does it while the recorder waits.
    result = recover(tmp_path / "episode.partial")
    assert result.folder == tmp_path / "episode_2"
    with Bag(result.folder) as found:
        assert sum(found.counts.values()) == len(list(samples(0.5)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["episode", "episode_2"]
    assert (tmp_path / "episode" / "mine").read_text() == "keep"


def test_an_episode_is_whole_before_it_is_judged_and_whoever_waits_knows(tmp_path, monkeypatch):
    bag = BagWriter(tmp_path / "episode", CONNECTIONS, {"task": "t"})
    recording = Recording(bag, jpeg_quality=90, queue_bytes=1 << 30, min_free_bytes=0)
    for sample in samples(0.5):
        recording.put(sample.topic, sample.type, sample.stamp_ns, sample.raw)
    closed, found = threading.Event(), []

    def judge(folder):
        with Bag(folder) as whole:
            found.append((closed.is_set(), sum(whole.counts.values())))
        raise DataError("judged for ever")

    monkeypatch.setattr("grids_recorder.node.saving.check_bag", judge)
    assert save(recording, "success", {}, closed, threading.Event()).note == "could not be judged: judged for ever"
    assert found == [(True, len(list(samples(0.5))))]


def test_an_episode_that_ends_with_the_node_is_whole_and_not_judged(tmp_path, monkeypatch):
    bag = BagWriter(tmp_path / "episode", CONNECTIONS, {"task": "t"})
    recording = Recording(bag, jpeg_quality=90, queue_bytes=1 << 30, min_free_bytes=0)
    for sample in samples(0.5):
        recording.put(sample.topic, sample.type, sample.stamp_ns, sample.raw)
    monkeypatch.setattr("grids_recorder.node.saving.check_bag", lambda _folder: pytest.fail("judged"))
    ending = threading.Event()
    ending.set()
    saved = save(recording, "", {}, threading.Event(), ending)
    assert "is complete and not judged yet: ./grids check" in saved.note
    with Bag(saved.folder) as whole:
        assert sum(whole.counts.values()) == len(list(samples(0.5)))


def test_an_episode_that_cannot_be_closed_can_be_recovered_while_the_recorder_runs(tmp_path, monkeypatch):
    bag = BagWriter(tmp_path / "episode", CONNECTIONS, {"task": "t"})
    recording = Recording(bag, jpeg_quality=90, queue_bytes=1 << 30, min_free_bytes=0)
    for sample in samples(0.5):
        recording.put(sample.topic, sample.type, sample.stamp_ns, sample.raw)

    def refuse(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("grids_data.bag.writer.write_json", refuse)
    saved = save(recording, "success", {}, threading.Event(), threading.Event())
    assert saved.note == "disk error: No space left on device; fix that, then run ./grids recover"
    monkeypatch.undo()
    assert recover(tmp_path / "episode.partial").messages == len(list(samples(0.5)))


def test_recover_takes_a_partial_folder_itself_and_names_one_that_is_not_there(tmp_path, capsys):
    abandoned(tmp_path / "episode")
    assert main([str(tmp_path / "episode.partial"), str(tmp_path / "typo")]) == 2
    assert f"expected the folder of the episodes, found none at {tmp_path / 'typo'}" in capsys.readouterr().err
    assert main([str(tmp_path / "episode.partial")]) == 0
    assert capsys.readouterr().out.endswith("messages, recovered\n")
    assert [path.name for path in tmp_path.iterdir()] == ["episode"]


READ_ONLY = """
import os, sys
from grids_recorder.recover import main
os.setuid(65534) if os.getuid() == 0 else None
sys.exit(main(sys.argv[1:]))
"""


def test_a_leftover_in_a_read_only_folder_is_named_and_kept(public_folder):
    abandoned(public_folder / "episode")
    left = [public_folder / "episode.partial", *(public_folder / "episode.partial").rglob("*")]
    for path in left:
        path.chmod(0o555 if path.is_dir() else 0o444)
    words = [sys.executable, "-c", READ_ONLY, str(public_folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "episode.partial: Permission denied; nothing was changed; fix it and run again" in done.stdout
    for path in left:
        path.chmod(0o755)
    assert recover(left[0]).messages > 100


def test_a_live_recording_is_not_recovered(tmp_path):
    bag = BagWriter(tmp_path / "live", CONNECTIONS, {})
    (result,) = recover_all(tmp_path)
    assert result.folder is None
    assert "is being recorded right now" in result.note
    bag.discard()
    assert not list(tmp_path.iterdir())


def test_a_leftover_without_messages_is_kept_and_named(tmp_path):
    bag = BagWriter(tmp_path / "empty", CONNECTIONS, {})
    bag.abandon()
    (result,) = recover_all(tmp_path)
    assert result.folder is None
    assert "the folder is kept" in result.note
    assert (tmp_path / "empty.partial").exists()


def test_a_read_only_folder_is_refused_with_its_name(public_folder):
    code = (
        "import os, sys; from pathlib import Path\n"
        "from grids_data.bag.writer import BagWriter; from grids_data.errors import DataError\n"
        "os.setuid(65534) if os.getuid() == 0 else None\n"
        "try: BagWriter(Path(sys.argv[1]) / 'episode', [], {})\n"
        "except DataError as error: print(error)\n"
    )
    (public_folder / "locked").mkdir(mode=0o555)
    words = [sys.executable, "-c", code, str(public_folder / "locked")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert "episode.partial: expected a writable folder" in done.stdout, done.stderr


FULL_DISK = """
import resource, sys
from pathlib import Path
from grids_data.bag.writer import BagWriter
from grids_recorder.node.recording import Recording, require_space
from grids_data.bag import cdr
from grids_recorder.bench import synthetic
connections = [(f"/{c}/color/image_raw", cdr.IMAGE, False) for c in ("front", "wrist")]
connections += [("/follower/joint_states", synthetic.JOINT_STATE, False)]
connections += [("/follower/command_trace", synthetic.COMMAND_TRACE, False)]
resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))
bag = BagWriter(Path(sys.argv[1]), connections, {"task": "full"})
recording = Recording(bag, jpeg_quality=None, queue_bytes=1 << 30, min_free_bytes=0)
for sample in synthetic.samples(8.0):
    recording.put(sample.topic, sample.type, sample.stamp_ns, sample.raw)
print(recording.finish(), recording.failure, sum(recording.lost.values()) > 0, sep="|")
"""


def test_a_full_disk_ends_the_episode_and_keeps_what_was_written(tmp_path):
    words = [sys.executable, "-c", FULL_DISK, str(tmp_path / "full")]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
    folder, failure, lost = done.stdout.strip().split("|")
    assert folder == "None"
    assert failure == "disk error: File too large"
    assert lost == "True"
    result = recover(tmp_path / "full.partial")
    assert result.messages > 200


def test_recovery_without_space_changes_nothing_and_says_how_much_is_missing(tmp_path, monkeypatch):
    abandoned(tmp_path / "episode")
    before = sorted(p.stat().st_size for p in tmp_path.rglob("*.mcap"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 0))
    with pytest.raises(DataError, match="recovery needs 5 MB more free disk space; free some and run again"):
        recover(tmp_path / "episode.partial")
    assert sorted(p.stat().st_size for p in tmp_path.rglob("*.mcap")) == before


def test_a_disk_that_gets_low_is_noticed_before_it_is_full(tmp_path):
    bag = BagWriter(tmp_path / "episode", CONNECTIONS, {})
    recording = Recording(bag, jpeg_quality=90, queue_bytes=1 << 20, min_free_bytes=1 << 62)
    end = time.monotonic() + 5
    while not recording.full:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert recording.finish() == tmp_path / "episode"


def test_an_episode_is_not_begun_on_a_disk_without_space(tmp_path, monkeypatch):
    require_space(tmp_path, 1)
    with pytest.raises(DataError, match="gone: expected the folder of the episodes: No such file"):
        require_space(tmp_path / "gone", 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 0))
    with pytest.raises(DataError, match=f"less than 500 MB are free in {tmp_path}: free some first"):
        require_space(tmp_path, 500)


def test_messages_beyond_the_queue_are_counted_as_lost(tmp_path):
    bag = BagWriter(tmp_path / "episode", CONNECTIONS, {})
    recording = Recording(bag, jpeg_quality=90, queue_bytes=10, min_free_bytes=0)
    for sample in samples(0.2):
        recording.put(sample.topic, sample.type, sample.stamp_ns, sample.raw)
    folder = recording.finish()
    lost = json.loads((folder / "episode.json").read_text())["lost"]
    assert lost == {name: count for name, count in recording.lost.items()}
    assert sum(lost.values()) == len(list(samples(0.2)))


def test_the_bench_counts_what_is_missing_at_both_ends():
    assert missing_stamps([1, 2, 3, 4, 5], {2, 4}) == 3
    assert missing_stamps([1, 2], set()) == 2


@pytest.mark.parametrize(("after_s", "readable"), [(0.45, True), (1.5, False)])
def test_the_bench_excuses_an_empty_leftover_only_before_the_first_flush(tmp_path, monkeypatch, after_s, readable):
    monkeypatch.setattr(bench, "_write_until_killed", lambda _folder, told: (told.write_text("1 /a\n"), time.sleep(60)))
    monkeypatch.setattr(bench.time, "sleep", lambda seconds, sleep=time.sleep: sleep(min(seconds, 0.05)))
    (tmp_path / "bags").mkdir()
    empty = Recovered(tmp_path / "bags", None, 0, "no complete message was found", empty=True)
    monkeypatch.setattr(bench, "recover_all", lambda _folder: [empty])
    assert bench.kill_once(tmp_path, after_s)[0] is readable


def test_the_bench_counts_a_leftover_that_cannot_be_read_however_early_the_kill(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "_write_until_killed", lambda _folder, told: (told.write_text("1 /a\n"), time.sleep(60)))
    (tmp_path / "bags").mkdir()
    broken = Recovered(tmp_path / "bags", None, 0, "what is left cannot be read (bad magic)")
    monkeypatch.setattr(bench, "recover_all", lambda _folder: [broken])
    assert not bench.kill_once(tmp_path, 0.05)[0]
