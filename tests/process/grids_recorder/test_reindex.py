"""Bags of a killed `ros2 bag record` are mended: every complete message is there, and no file is lost."""

import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from rosbags.rosbag2 import Reader, StoragePlugin, Writer

from grids_data.bag import cdr
from grids_data.bag.reader import Bag
from grids_data.errors import DataError
from grids_recorder.bench.synthetic import samples
from grids_recorder.judge.cli import check_bag
from grids_recorder.recover import main
from grids_recorder.reindex import DAMAGED

MCAP, SQLITE3 = StoragePlugin.MCAP, StoragePlugin.SQLITE3


def write(folder: Path, plugin: StoragePlugin = MCAP, seconds: float = 2.5) -> Path:
    """An episode as a rosbag2 of the given storage, pictures as JPEG."""
    with Writer(folder, version=9, storage_plugin=plugin) as writer:
        connections = {}
        for number, sample in enumerate(samples(seconds)):
            jpeg = sample.type == cdr.IMAGE
            topic = sample.topic + cdr.COMPRESSED_SUFFIX if jpeg else sample.topic
            if topic not in connections:
                kind = cdr.COMPRESSED if jpeg else sample.type
                connections[topic] = writer.add_connection(topic, kind, typestore=cdr.typestore())
            raw = cdr.jpeg_message(sample.raw, 90) if jpeg else sample.raw
            writer.write(connections[topic], sample.stamp_ns + 5_000_000, raw)
            if plugin == MCAP and number % 50 == 49:
                writer.storage.close_chunk()
    return folder


def storage(folder: Path) -> Path:
    return next(path for path in sorted(folder.iterdir()) if path.suffix in (".mcap", ".db3"))


def content(path: Path) -> list[tuple[str, int, bytes]]:
    with Bag(path) as bag:
        return [(one.topic, one.time_ns, one.raw) for one in bag.messages()]


def cut(path: Path, share: float) -> bytes:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path.read_bytes()


METADATA_DAMAGES = {
    "lost": lambda path: path.unlink(),
    "empty": lambda path: path.write_text(""),
    "no yaml": lambda path: path.write_text("a: [b"),
    "half": lambda path: path.write_text(path.read_text()[: len(path.read_text()) // 2]),
    "list": lambda path: path.write_text("[]"),
    "other files": lambda path: path.write_text(path.read_text().replace("bag.", "other.")),
}


@pytest.mark.parametrize("plugin", [MCAP, SQLITE3])
@pytest.mark.parametrize("damage", METADATA_DAMAGES)
def test_a_lost_or_broken_metadata_file_is_written_anew(tmp_path, capsys, plugin, damage):
    folder = write(tmp_path / "bag", plugin)
    wanted, file = content(folder), storage(folder)
    before = file.read_bytes()
    METADATA_DAMAGES[damage](folder / "metadata.yaml")
    with pytest.raises(DataError, match=r"\./grids recover .*bag mends it"):
        Bag(folder)
    assert main([str(tmp_path)]) == 0
    assert f"{folder}: {len(wanted)} messages, metadata.yaml written" in capsys.readouterr().out
    assert content(folder) == wanted
    assert file.read_bytes() == before
    assert check_bag(folder).level == "OK"
    assert main([str(tmp_path)]) == 0
    assert "nothing to recover: every bag can be read to its end" in capsys.readouterr().out


@pytest.mark.parametrize("metadata", [True, False])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.999])
def test_every_complete_message_of_a_cut_file_is_saved_and_the_file_kept(tmp_path, capsys, share, metadata):
    folder = write(tmp_path / "bag")
    wanted, file = content(folder), storage(folder)
    left = cut(file, share)
    if not metadata:
        (folder / "metadata.yaml").unlink()
    with pytest.raises(DataError, match=r"is missing.*\./grids recover .*bag mends it"):
        Bag(folder)
    assert main([str(folder)]) == 0
    assert "1 file(s) cut off" in capsys.readouterr().out
    saved = content(folder)
    assert saved == wanted[: len(saved)]
    assert len(saved) >= (share - 0.2) * len(wanted)
    assert file.with_name(file.name + DAMAGED).read_bytes() == left
    with Reader(folder) as reader:
        assert reader.message_count == len(saved)


def test_a_damaged_chunk_in_the_middle_is_noticed_though_the_bag_opens(tmp_path, capsys):
    folder = write(tmp_path / "bag")
    file = storage(folder)
    data = bytearray(file.read_bytes())
    wanted, length = content(folder), len(data) // 10
    data[5 * length : 6 * length] = bytes(length)
    file.write_bytes(data)
    assert main([str(folder)]) == 0
    assert "cut off" in capsys.readouterr().out
    saved = content(folder)
    assert len(saved) > 50
    assert saved == wanted[: len(saved)]


def test_a_split_bag_with_a_cut_last_file_is_one_bag_again(tmp_path):
    first, second = write(tmp_path / "first", seconds=1.0), write(tmp_path / "second", seconds=1.0)
    folder = tmp_path / "bag"
    folder.mkdir()
    shutil.copy(storage(first), folder / "bag_0.mcap")
    shutil.copy(storage(second), folder / "bag_1.mcap")
    cut(folder / "bag_1.mcap", 0.8)
    assert main([str(folder)]) == 0
    wanted = len(content(first))
    assert wanted < len(content(folder)) < 2 * wanted
    assert {path.name for path in folder.iterdir()} == {
        "bag_0.mcap", "bag_1.mcap", f"bag_1.mcap{DAMAGED}", "metadata.yaml",
    }  # fmt: skip


def test_files_of_different_recordings_are_not_joined(tmp_path, capsys):
    for name in ("a", "b"):
        shutil.copy(storage(write(tmp_path / name, seconds=0.5)), tmp_path / f"{name}.mcap")
        shutil.rmtree(tmp_path / name)
    assert main([str(tmp_path)]) == 1
    assert "found a.mcap, b.mcap: give each a folder of its own" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mcap", "b.mcap"]


def test_the_write_ahead_log_of_a_killed_sqlite_recorder_is_read(tmp_path):
    folder = write(tmp_path / "bag", SQLITE3)
    wanted, file = content(folder), storage(folder)
    (folder / "metadata.yaml").unlink()
    code = (
        "import os, sqlite3, sys; d = sqlite3.connect(sys.argv[1]); d.execute('pragma journal_mode=WAL');"
        "d.execute('delete from messages where id > 400'); d.commit(); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, str(file)], check=True)
    assert file.with_name(file.name + "-wal").stat().st_size > 0
    assert main([str(folder)]) == 0
    assert content(folder) == wanted[:400]
    assert file.with_name(file.name + DAMAGED).exists()
    assert file.with_name(f"{file.name}-wal{DAMAGED}").exists()


@pytest.mark.parametrize("plugin", [MCAP, SQLITE3])
@pytest.mark.parametrize("data", [b"", b"\0" * 5000, b"text", b"\x89MCAP0\r\n", b"SQLite format 3\0"])
def test_a_file_without_a_message_is_named_and_kept(tmp_path, capsys, plugin, data):
    folder = write(tmp_path / "bag", plugin)
    storage(folder).write_bytes(data)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert main([str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "no complete message was found; all files are kept as they were" in said
    assert said.count("\n") == 1
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_damaged_database_gives_what_can_be_read(tmp_path, capsys):
    folder = write(tmp_path / "bag", SQLITE3)
    wanted, file = content(folder), storage(folder)
    data = bytearray(file.read_bytes())
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    file.write_bytes(data)
    code, said = main([str(folder)]), capsys.readouterr().out
    assert said.count("\n") == 1
    kept = file.with_name(file.name + DAMAGED) if code == 0 else file
    assert kept.read_bytes() == data
    if code == 0:
        saved = content(folder)
        assert saved == wanted[: len(saved)]


def test_a_bag_that_is_being_written_is_left_alone(tmp_path, capsys):
    folder = write(tmp_path / "bag")
    cut(storage(folder), 0.5)
    names = sorted(path.name for path in folder.iterdir())
    code = "import sys; f = open(sys.argv[1], 'ab'); print(flush=True); sys.stdin.read()"
    arguments = [sys.executable, "-c", code, str(storage(folder))]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert main([str(folder)]) == 1
        assert f"is being written by process {process.pid}: stop that recording" in capsys.readouterr().out
        process.communicate()
    assert sorted(path.name for path in folder.iterdir()) == names
    assert main([str(folder)]) == 0


def test_an_attempt_that_was_cut_off_is_undone_first(tmp_path):
    folder = write(tmp_path / "bag")
    wanted, file = content(folder), storage(folder)
    (folder / ".recovering").mkdir()
    file.rename(file.with_name(file.name + DAMAGED))
    (folder / "metadata.yaml").rename(folder / f"metadata.yaml{DAMAGED}")
    assert main([str(tmp_path)]) == 0
    assert content(folder) == wanted


def test_a_file_may_be_named_instead_of_its_folder(tmp_path, capsys):
    folder = write(tmp_path / "bag")
    (folder / "metadata.yaml").unlink()
    assert main([str(storage(folder))]) == 0
    assert "metadata.yaml written" in capsys.readouterr().out


def test_a_whole_folder_of_bags_is_mended_and_sound_ones_are_left(tmp_path, capsys):
    (tmp_path / "deep").mkdir()
    sound = write(tmp_path / "deep" / "sound", seconds=0.5)
    lost = write(tmp_path / "deep" / "lost", SQLITE3, seconds=0.5)
    (lost / "metadata.yaml").unlink()
    assert main([str(tmp_path)]) == 0
    assert str(sound) not in capsys.readouterr().out
    with sqlite3.connect(storage(lost)) as database:
        assert len(content(lost)) == database.execute("select count(*) from messages").fetchone()[0]
