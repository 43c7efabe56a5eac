"""Bags with messages of other programs, of other ROS releases and of other storages give the same series."""

import sqlite3
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from grids_common.images import compressed_to_rgb
from grids_data.bag import cdr
from grids_data.bag.reader import Bag, find_bag
from grids_data.bag.series import JOINTS, STATUS, TRACE, read_series
from grids_data.errors import DataError
from grids_recorder.bench import synthetic
from grids_recorder.bench.synthetic import samples
from grids_recorder.convert import cli as convert
from grids_recorder.judge.cli import check_bag, main

FRONT_JPEG = "/front/color/image_raw" + cdr.COMPRESSED_SUFFIX
CUSTOM, NESTED = "lab_msgs/msg/Lamp", "lab_msgs/msg/Sticker"


def store():
    """The types of the recorder, and two of a laboratory's own."""
    found = get_typestore(Stores.ROS2_JAZZY)
    found.register({k: v for k, v in cdr.typestore().fielddefs.items() if k not in found.types})
    found.register(get_types_from_msg("std_msgs/Header header\nfloat32 level", CUSTOM))
    found.register(get_types_from_msg("string name\nuint8 header", NESTED))
    return found


def messages(seconds: float = 2.5) -> list[tuple[str, str, int, bytes]]:
    """(topic, type, time in ns, bytes) of an episode, pictures as JPEG."""
    found = []
    for sample in samples(seconds):
        jpeg = sample.type == cdr.IMAGE
        topic = sample.topic + cdr.COMPRESSED_SUFFIX if jpeg else sample.topic
        raw = cdr.jpeg_message(sample.raw, 90) if jpeg else sample.raw
        found.append((topic, cdr.COMPRESSED if jpeg else sample.type, sample.stamp_ns + 5_000_000, raw))
    return found


def write(folder: Path, rows: Iterable, plugin: StoragePlugin = StoragePlugin.MCAP, version: int = 9) -> Path:
    types = store()
    with Writer(folder, version=version, storage_plugin=plugin) as writer:
        connections = {}
        for topic, kind, time_ns, raw in sorted(rows, key=lambda row: row[2]):
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=types)
            writer.write(connections[topic], time_ns, raw)
    return folder


def foreign(kind: str, begin_ns: int, **fields) -> list[tuple[str, str, int, bytes]]:
    types = store()
    raw = bytes(types.serialize_cdr(types.types[kind](**fields), kind))
    return [(f"/other/{kind.rsplit('/', maxsplit=1)[-1].lower()}", kind, begin_ns + i * 10**8, raw) for i in range(20)]


def header():
    types = store().types
    return types["std_msgs/msg/Header"](types["builtin_interfaces/msg/Time"](1, 2), "lamp")


FOREIGN = {
    "std_msgs/msg/Float32": {"data": 1.5},
    "std_msgs/msg/Int32": {"data": 3},
    "std_msgs/msg/UInt8": {"data": 3},
    "std_msgs/msg/Bool": {"data": True},
    "std_msgs/msg/Empty": {"structure_needs_at_least_one_member": 0},
    "std_msgs/msg/String": {"data": ""},
    "tf2_msgs/msg/TFMessage": {"transforms": []},
    CUSTOM: {"level": 1.0},
    NESTED: {"name": "", "header": 1},
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_topics_of_other_programs_change_nothing(tmp_path, kind):
    rows = messages()
    fields = FOREIGN[kind] | ({"header": header()} if kind == CUSTOM else {})
    before = [*foreign(kind, rows[0][2] - 9 * 10**9, **fields), *foreign(kind, rows[0][2], **fields)]
    verdict = check_bag(write(tmp_path / "bag", [*rows, *before]))
    assert verdict.level == "OK", verdict.reasons
    assert verdict.duration_s == pytest.approx(2.5, abs=0.1)
    assert next(t.recorded for t in verdict.topics if t.topic.startswith("/other")) == 40
    with Bag(tmp_path / "bag") as bag:
        assert len(read_series(bag).joints) == sum(row[0] == JOINTS for row in rows)


@pytest.mark.parametrize("raw", [b"", b"\0\1\0\0", b"\xff" * 40], ids=["empty", "short", "noise"])
@pytest.mark.parametrize("kind", ["sensor_msgs/msg/Image", "sensor_msgs/msg/JointState", CUSTOM])
def test_broken_messages_of_other_programs_change_nothing(tmp_path, kind, raw):
    rows = messages()
    assert check_bag(write(tmp_path / "bag", [*rows, ("/other", kind, rows[9][2], raw)])).level == "OK"


@pytest.mark.parametrize("plugin", list(StoragePlugin))
def test_a_type_without_a_definition_costs_only_its_own_topic(tmp_path, plugin):
    rows = messages()
    folder = write(tmp_path / "bag", [*rows, *foreign(CUSTOM, rows[0][2], header=header(), level=1.0)], plugin)
    forget_definition(folder, CUSTOM)
    assert check_bag(folder).level == "OK"
    with (
        Bag(folder) as bag,
        pytest.raises(DataError, match=r"/other/lamp: expected the definition of lab_msgs/msg/Lamp"),
    ):
        bag.decode(next(bag.messages(["/other/lamp"])))


def forget_definition(folder: Path, kind: str) -> None:
    for path in folder.glob("*.db3"):
        with sqlite3.connect(path) as database:
            database.execute("update message_definitions set encoded_message_definition='' where topic_type=?", [kind])
    for path in folder.glob("*.mcap"):
        data = path.read_bytes()
        text = store().generate_msgdef(kind, ros_version=2)[0].encode()
        assert text in data
        path.write_bytes(data.replace(text, b" " * len(text)))


def test_a_bag_of_humble_is_read_with_the_installed_definitions(tmp_path):
    folder = write(tmp_path / "bag", messages(), StoragePlugin.SQLITE3, version=8)
    with sqlite3.connect(next(folder.glob("*.db3"))) as database:
        database.execute("drop table message_definitions")
        database.execute("alter table topics drop column type_description_hash")
        database.execute("update schema set schema_version=3")
    path = folder / "metadata.yaml"
    tree = yaml.safe_load(path.read_text())
    tree["rosbag2_bagfile_information"]["version"] = 5
    for topic in tree["rosbag2_bagfile_information"]["topics_with_message_count"]:
        del topic["topic_metadata"]["type_description_hash"]
    path.write_text(yaml.safe_dump(tree))
    assert check_bag(folder).level == "OK"
    with Bag(folder) as bag:
        assert len(read_series(bag).sent) > 200


def as_png(row: tuple[str, str, int, bytes]) -> tuple[str, str, int, bytes]:
    topic, kind, time_ns, raw = row
    if kind != cdr.COMPRESSED:
        return row
    types = store()
    message = types.deserialize_cdr(raw, kind)
    data = cv2.imencode(".png", compressed_to_rgb(message)[..., ::-1])[1].reshape(-1)
    made = types.types[kind](header=message.header, format="bgr8; png compressed bgr8", data=data)
    return topic, kind, time_ns, bytes(types.serialize_cdr(made, kind))


def test_pictures_stored_as_png_are_the_same_as_jpeg(tmp_path):
    rows = messages()
    jpeg, png = write(tmp_path / "jpeg", rows), write(tmp_path / "png", [as_png(row) for row in rows])
    assert check_bag(png).level == "OK"
    with Bag(jpeg) as one, Bag(png) as other:
        for first, second in zip(one.messages([FRONT_JPEG]), other.messages([FRONT_JPEG]), strict=True):
            np.testing.assert_array_equal(one.image(first), other.image(second))
        assert read_series(other).cameras["front"].shape == synthetic.frame(0, (48, 64)).shape[:2]


@pytest.mark.parametrize("topic", [JOINTS, TRACE, STATUS, FRONT_JPEG])
def test_a_needed_topic_of_another_type_is_named(tmp_path, topic):
    rows = [row for row in messages() if row[0] != topic]
    kind = "std_msgs/msg/Float32"
    odd = [(topic, kind, time_ns, raw) for _, _, time_ns, raw in foreign(kind, rows[0][2], data=1.0)]
    verdict = check_bag(write(tmp_path / "bag", [*rows, *odd]))
    assert verdict.level == "REJECT"
    assert f"{topic}: expected messages of type " in verdict.reasons
    assert "got std_msgs/msg/Float32" in verdict.reasons
    with Bag(tmp_path / "bag") as bag, pytest.raises(DataError, match=f"{topic}: expected messages of type"):
        next(bag.messages([topic]))


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff"])
def test_pictures_that_are_none_are_named(tmp_path, data, capsys):
    types, rows = store(), []
    for topic, kind, time_ns, raw in messages():
        changed = raw
        if kind == cdr.COMPRESSED:
            message = types.deserialize_cdr(raw, kind)
            broken = types.types[kind](header=message.header, format="x", data=np.frombuffer(data, np.uint8))
            changed = bytes(types.serialize_cdr(broken, kind))
        rows.append((topic, kind, time_ns, changed))
    folder = write(tmp_path / "bag", rows)
    assert "color/image_raw/compressed: " in check_bag(folder).reasons
    assert convert.main([str(folder), str(tmp_path / "set"), "--include-rejected", "--workers", "1"]) == 2
    assert "compressed image: " in capsys.readouterr().err


def test_an_empty_bag_is_rejected_in_words(tmp_path, capsys):
    folder = write(tmp_path / "bag", [])
    assert main([str(folder), "--no-sheet"]) == 1
    assert "nothing was received" in capsys.readouterr().out
    assert convert.main([str(folder), str(tmp_path / "set"), "--include-rejected"]) == 2
    assert "expected images, found none" in capsys.readouterr().err


def test_every_kind_of_file_is_found_and_what_is_missing_is_named(tmp_path):
    for plugin in StoragePlugin:
        folder = write(tmp_path / plugin.name, messages(1.0), plugin)
        file = next(path for path in folder.iterdir() if path.suffix in (".mcap", ".db3"))
        (folder / "metadata.yaml").unlink()
        assert find_bag(folder) == file  # one file can be viewed without metadata.yaml
        with pytest.raises(DataError, match=r"metadata\.yaml is missing.*: \./grids recover .* mends it"):
            Bag(folder)
        file.write_bytes(b"")
        with pytest.raises(DataError, match=rf"{file.name} is empty, nothing was recorded"):
            Bag(folder)
    (tmp_path / "no").mkdir()
    (tmp_path / "no" / "metadata.yaml").write_text("{}")
    with pytest.raises(DataError, match=r"no \.mcap or \.db3 file: copy the bag again$"):
        Bag(tmp_path / "no")
    (tmp_path / "no" / "metadata.yaml").unlink()
    with pytest.raises(DataError, match=r"with a \.mcap or \.db3 file, found none: name another folder$"):
        Bag(tmp_path / "no")
    (tmp_path / "no" / "x.txt").write_text("x")
    with pytest.raises(DataError, match=r"expected a \.mcap or \.db3 file, got x\.txt$"):
        Bag(tmp_path / "no" / "x.txt")
