"""Mends bags of any recorder that was killed or copied in part, as `ros2 bag reindex` does, and damaged files too.

A lost metadata.yaml is written anew from the files. From a file that cannot be read to its end every complete message
is copied to a new one; the old one stays beside it as NAME.damaged.
"""

import os
import re
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml
from mcap.exceptions import McapError
from mcap.records import Channel, Message, Schema
from mcap.stream_reader import StreamReader
from mcap.writer import Writer
from rosbags.interfaces import MessageDefinitionFormat
from rosbags.rosbag2 import Reader
from rosbags.rosbag2.metadata import dump_qos_v9

from grids_data.bag.reader import METADATA_FILE, UNREADABLE, Bag, bags_in, one_line, storage_files
from grids_data.bag.writer import EPISODE_FILE, PARTIAL, write_json
from grids_data.errors import DataError

DAMAGED = ".damaged"
_NEW = ".recovering"
_BAG_VERSION = 9
_ZSTD = b"\x28\xb5\x2f\xfd"
_SPLIT = re.compile(r"(.*)_\d+")


@dataclass(frozen=True, slots=True)
class Mended:
    """What was done to a bag. `messages` are all that it now holds."""

    folder: Path
    messages: int
    note: str


def readable_messages(file: Path) -> Iterator[tuple[Schema, Channel, Message]]:
    """Messages of an MCAP file up to the first damaged record."""
    schemas: dict[int, Schema] = {}
    channels: dict[int, Channel] = {}
    with file.open("rb") as stream:
        try:
            records = StreamReader(stream, record_size_limit=file.stat().st_size).records
        except (McapError, *UNREADABLE):
            return
        while True:
            try:
                record = next(records)
            except (McapError, *UNREADABLE):  # StopIteration is one of them
                return
            match record:
                case Schema():
                    schemas[record.id] = record
                case Channel():
                    channels[record.id] = record
                case Message():
                    channel = channels.get(record.channel_id)
                    schema = channel and schemas.get(channel.schema_id)
                    if schema is None:
                        return
                    yield schema, channel, record


def _database_messages(file: Path) -> Iterator[tuple[Schema, Channel, Message]]:
    """Messages of an SQLite file up to the first one that cannot be read."""
    encodings = {MessageDefinitionFormat.MSG: "ros2msg", MessageDefinitionFormat.IDL: "ros2idl"}
    try:
        with Reader(file) as reader:
            for connection, time_ns, raw in reader.messages():
                text, qos = connection.msgdef, yaml.safe_dump(dump_qos_v9(connection.ext.offered_qos_profiles))
                schema = Schema(text.data.encode(), encodings.get(text.format, ""), connection.id, connection.msgtype)
                about = {"offered_qos_profiles": qos}
                channel = Channel(connection.id, connection.topic, "cdr", about, connection.id)
                yield schema, channel, Message(connection.id, time_ns, bytes(raw), time_ns, 0)
    except UNREADABLE:
        return


def _copy(source: Path, target: Path) -> int:
    """Write every readable message of `source` to a new MCAP file; returns their number."""
    messages = readable_messages(source) if source.suffix == ".mcap" else _database_messages(source)
    schemas: dict[int, int] = {}
    channels: dict[int, int] = {}
    count = 0
    with target.open("wb") as stream:
        writer = Writer(stream)
        writer.start(profile="ros2", library="grids recover")
        for schema, channel, message in messages:
            if schema.id not in schemas:
                schemas[schema.id] = writer.register_schema(schema.name, schema.encoding, schema.data)
            if channel.id not in channels:
                channels[channel.id] = writer.register_channel(
                    channel.topic, channel.message_encoding, schemas[schema.id], dict(channel.metadata)
                )
            writer.add_message(
                channels[channel.id], message.log_time, message.data, message.publish_time, message.sequence
            )
            count += 1
        writer.finish()
        stream.flush()
        os.fsync(stream.fileno())
    return count


def _is_whole(file: Path) -> bool:
    try:
        with Reader(file) as reader:
            return sum(1 for _ in reader.messages()) == reader.message_count
    except UNREADABLE:
        return False


def _metadata(files: list[Path]) -> dict:
    """The content of metadata.yaml for whole files of one bag."""
    topics: dict[tuple, dict] = {}
    counts: Counter[tuple] = Counter()
    rows, packed, distro = [], False, ""
    for file in files:
        with Reader(file) as reader:
            distro = distro or reader.ros_distro or ""
            for one in reader.connections:
                qos = dump_qos_v9(one.ext.offered_qos_profiles)
                key = (one.topic, one.msgtype, repr(qos))
                counts[key] += one.msgcount
                topics[key] = {
                    "name": one.topic, "type": one.msgtype, "serialization_format": one.ext.serialization_format,
                    "offered_qos_profiles": qos, "type_description_hash": one.digest,
                }  # fmt: skip
            first = next((raw for _, _, raw in reader.messages()), b"") if reader.message_count else b""
            packed = packed or bytes(first[:4]) == _ZSTD
            begin = reader.start_time if reader.message_count else 0
            duration = max(reader.duration - 1, 0)
            rows.append((file.name, begin, duration, reader.message_count))
    filled = [row for row in rows if row[3]] or rows
    begin, end = min(row[1] for row in filled), max(row[1] + row[2] for row in filled)
    about = {
        "version": _BAG_VERSION,
        "storage_identifier": "mcap" if files[0].suffix == ".mcap" else "sqlite3",
        "duration": {"nanoseconds": end - begin},
        "starting_time": {"nanoseconds_since_epoch": begin},
        "message_count": sum(row[3] for row in rows),
        "topics_with_message_count": [
            {"topic_metadata": topic, "message_count": counts[key]} for key, topic in topics.items()
        ],
        "compression_format": "zstd" if packed else "",
        "compression_mode": "MESSAGE" if packed else "",
        "relative_file_paths": [file.name for file in files],
        "files": [
            {
                "path": name, "starting_time": {"nanoseconds_since_epoch": start},
                "duration": {"nanoseconds": length}, "message_count": count,
            }
            for name, start, length, count in rows
        ],
        "custom_data": None,
        "ros_distro": distro or "unknown",
    }  # fmt: skip
    return {"rosbag2_bagfile_information": about}


def broken_bags(path: Path) -> list[Path]:
    """Folders of bags at or below `path` that cannot be read to their end, without *.partial ones."""
    folders = [path.parent] if path.is_file() else bags_in(path)
    folders += [file.parent for file in path.rglob(f"*{DAMAGED}") if file.parent not in folders]  # cut off here before
    return [folder for folder in folders if not _reads(folder) and PARTIAL not in str(folder.name)]


def _reads(folder: Path) -> bool:
    if not storage_files(folder) and any(folder.glob("*.zstd")):
        return True  # packed files with their metadata.yaml; without it, opening says what to do
    try:
        with Bag(folder) as bag:
            found = Counter(message.topic for message in bag.messages())
            return all(found[topic] >= count for topic, count in bag.counts.items())
    except DataError:
        return False


def mend(folder: Path) -> Mended:
    """Make the bag in `folder` readable. DataError when nothing can be saved; all files are then as they were."""
    try:
        return _mend(folder)
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror or error}; no message was lost; fix it and run again") from error


def _mend(folder: Path) -> Mended:
    _undo(folder)
    files = storage_files(folder)
    if not files:
        raise DataError(f"{folder}: expected a .mcap or .db3 file, found none: copy the bag again")
    if len(files) > 1 and len({_prefix(file) for file in files}) > 1:
        names = ", ".join(file.name for file in files[:4])
        raise DataError(
            f"{folder}: expected the files of one bag (NAME_0, NAME_1, …), found {names}: give each a folder of its own"
        )
    for file in files:
        if user := _opened_by(file):
            raise DataError(f"{file} is being written by process {user}: stop that recording first")
    cut = [file for file in files if not _is_whole(file) or _log_of(file)]
    if any(file.suffix != ".mcap" and not _log_of(file) for file in cut):
        cut = [file for file in files if not _log_of(file)]  # one bag has files of one kind
    new = folder / _NEW
    new.mkdir()
    try:
        made = {file: _remade(file, new) for file in cut}
        whole = sorted((made.get(file, file) for file in files), key=lambda path: (len(path.name), path.name))
        tree = _metadata([path for path in whole if path])
        count = tree["rosbag2_bagfile_information"]["message_count"]
        if count == 0:
            raise DataError(f"{folder}: no complete message was found; all files are kept as they were")
        text = yaml.safe_dump(tree, sort_keys=False)
        (new / METADATA_FILE).write_text(text, encoding="utf-8")
        _put(folder, new, cut)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    _note(folder, cut)
    what = f"{len(cut)} file(s) cut off, what was complete is in new ones, the old kept as *{DAMAGED}; " if cut else ""
    return Mended(folder, count, f"{what}metadata.yaml written")


def _prefix(file: Path) -> str:
    match = _SPLIT.fullmatch(file.stem)
    return f"{match[1]}{file.suffix}" if match else file.name


def _log_of(file: Path) -> Path | None:
    """The write-ahead log that a killed SQLite recorder leaves beside its file."""
    log = file.with_name(f"{file.name}-wal")
    return log if file.suffix == ".db3" and log.exists() and log.stat().st_size else None


def _remade(file: Path, new: Path) -> Path:
    if log := _log_of(file):
        target = new / file.name
        shutil.copyfile(file, target)
        shutil.copyfile(log, new / log.name)
        try:
            with sqlite3.connect(target) as database:
                database.execute("PRAGMA journal_mode=DELETE")
            database.close()
        except sqlite3.Error as error:
            raise DataError(f"{file}: expected an SQLite file with its log: {one_line(error)}; all are kept") from error
        return target
    target = new / f"{file.stem}.mcap"
    _copy(file, target)
    return target


def _put(folder: Path, new: Path, cut: list[Path]) -> None:
    """Set the damaged files aside and the new ones in their place; `_undo` reverses it where this is cut off."""
    for file in (*cut, *(log for log in map(_log_of, cut) if log), folder / METADATA_FILE):
        if file.exists():
            file.rename(_free(file.with_name(file.name + DAMAGED)))
    for file in sorted(new.iterdir(), key=lambda path: path.name == METADATA_FILE):  # metadata.yaml is the last
        if not file.name.endswith(("-wal", "-shm")):
            file.rename(folder / file.name)


def _free(path: Path) -> Path:
    number, candidate = 1, path
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}{number}")
    return candidate


def _undo(folder: Path) -> None:
    """Put the old files back where an earlier attempt was cut off between setting them aside and replacing them."""
    if not (folder / _NEW).exists():
        return
    for file in folder.glob(f"*{DAMAGED}"):
        original = file.with_name(file.name.removesuffix(DAMAGED))
        if not original.exists():
            file.rename(original)
    shutil.rmtree(folder / _NEW)


def _note(folder: Path, cut: list[Path]) -> None:
    """An episode's own notes tell that its end is missing."""
    path = folder / EPISODE_FILE
    if cut and path.exists():
        with Bag(folder) as bag:
            episode = bag.episode
        write_json(path, episode | {"recovered": True, "lost": None})


def _opened_by(file: Path) -> str:
    """Process id of another process that has the file open; empty: none that this user may see."""
    wanted = file.stat()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            found = link.stat()
        except OSError:
            continue
        if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino) and link.parts[2] != str(os.getpid()):
            return link.parts[2]
    return ""
