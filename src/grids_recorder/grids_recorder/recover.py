"""`./grids recover FOLDER…`: turns what a crash left behind (`*.partial`) into ordinary bags, mends bags of others.

Of a `*.partial` every complete record up to the last flush is copied into a new bag; the leftover is removed only when
the new bag is in place. A folder that a live recorder holds is left alone.
"""

import argparse
import json
import os
import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mcap.records import Channel, Schema
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.rosbag2.errors import WriterError
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from grids_data.bag.reader import UNREADABLE, Bag
from grids_data.bag.writer import EPISODE_FILE, PARTIAL, bag_qos, lock, put_in_place, write_json
from grids_data.errors import DataError
from grids_recorder.node.provenance import NOTED, Provenance
from grids_recorder.reindex import broken_bags, mend, readable_messages

_NEW = ".recovered"
_BAG_VERSION = 9
_SPARE_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Recovered:
    """What became of one leftover. `folder` is None when nothing could be saved; `empty`: nothing was there to save."""

    partial: Path
    folder: Path | None
    messages: int
    note: str
    empty: bool = False


def leftovers(folder: Path) -> list[Path]:
    """`folder` itself where it is a partial one, else those directly in it or one level below, oldest first."""
    found = [*folder.glob(f"*{PARTIAL}"), *folder.glob(f"*/*{PARTIAL}")]
    found = [folder] if folder.name.endswith(PARTIAL) else found
    return sorted((path for path in found if path.is_dir()), key=os.path.getmtime)


def recover(partial: Path) -> Recovered:
    """Recover the bag of one partial folder. Raises DataError when that fails; the folder is then kept."""
    try:
        held = lock(partial)
        if held is None:
            raise DataError(f"{partial} is being recorded right now: stop that recording first")
        with held:
            return _recover(partial, held)
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{partial}: {error.strerror or error}; nothing was changed; fix it and run again") from error
    except (WriterError, *UNREADABLE) as error:
        raise DataError(f"{partial}: what is left cannot be read ({error}); the folder is kept") from error


def _recover(partial: Path, held) -> Recovered:
    final = partial.with_name(partial.name.removesuffix(PARTIAL))
    bag, new = partial / final.name, partial / (final.name + _NEW)
    shutil.rmtree(new, ignore_errors=True)
    if (bag / "metadata.yaml").exists() and (bag / EPISODE_FILE).exists():
        placed = put_in_place(bag, _free_name(final), partial, held)
        return Recovered(partial, placed, -1, "was complete, only the rename was missing")
    files = sorted(bag.glob("*.mcap"))
    size = sum(file.stat().st_size for file in files)
    free = shutil.disk_usage(partial).free
    if free < size + _SPARE_BYTES:
        need = (size + _SPARE_BYTES - free) >> 20
        raise DataError(f"{partial}: recovery needs {need + 1} MB more free disk space; free some and run again")
    count = _copy(files, new, final.name) if files else 0
    if count == 0:
        return Recovered(partial, None, 0, "no complete message was found; the folder is kept", empty=True)
    notes = partial / EPISODE_FILE
    episode = json.loads(notes.read_text(encoding="utf-8")) if notes.exists() else {}
    # How many messages were lost before the crash was known to the recorder alone.
    episode |= {"recovered": True, "outcome": episode.get("outcome", ""), "lost": None} | _provenance(new)
    write_json(new / EPISODE_FILE, episode)
    placed = put_in_place(new, _free_name(final), partial, held)
    return Recovered(partial, placed, count, "recovered")


def _provenance(folder: Path) -> dict:
    """Who commanded, from the recovered messages; the keys are those of a finished recording."""
    found = Provenance()
    with Bag(folder) as bag:
        found.begin(next(bag.messages()).time_ns)
        for record in bag.messages(NOTED):
            with suppress(DataError):  # a broken message costs its note, not the bag
                found.add(record.topic, record.time_ns, bag.decode(record))
    return found.as_json()


def _free_name(final: Path) -> Path:
    """`final`, or the first free name behind it: an existing bag is never overwritten."""
    candidate, number = final, 1
    while candidate.exists():
        number += 1
        candidate = final.with_name(f"{final.name}_{number}")
    return candidate


def _copy(files: list[Path], new: Path, name: str) -> int:
    count = 0
    with Writer(new, version=_BAG_VERSION, storage_plugin=StoragePlugin.MCAP) as writer:
        connections = {}
        for file in files:
            for schema, channel, message in readable_messages(file):
                if channel.topic not in connections:
                    connections[channel.topic] = _connection(writer, schema, channel)
                writer.write(connections[channel.topic], message.log_time, message.data)
                count += 1
        writer.set_custom_data("grids", json.dumps({"recovered": True}))
    for path in (*new.iterdir(), new):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    return count


def _connection(writer: Writer, schema: Schema, channel: Channel):
    types = get_typestore(Stores.ROS2_JAZZY)
    if schema.name not in types.types:
        types.register(get_types_from_msg(schema.data.decode(), schema.name))
    latched = "transient_local" in channel.metadata.get("offered_qos_profiles", "")
    return writer.add_connection(
        channel.topic,
        schema.name,
        msgdef=schema.data.decode(),
        rihs01=types.hash_rihs01(schema.name),
        offered_qos_profiles=[bag_qos(latched=latched)],
    )


def recover_all(folder: Path) -> list[Recovered]:
    """Recover every leftover in `folder` that no recorder is writing; errors become notes."""
    results = []
    for partial in leftovers(folder):
        try:
            results.append(recover(partial))
        except DataError as error:
            results.append(Recovered(partial, None, 0, str(error)))
    return results


def mend_all(path: Path) -> list[Recovered]:
    """Mend every bag at or below `path` that cannot be read; errors become notes."""
    results = []
    for folder in broken_bags(path):
        try:
            mended = mend(folder)
            results.append(Recovered(folder, mended.folder, mended.messages, mended.note))
        except DataError as error:
            results.append(Recovered(folder, None, 0, str(error).removeprefix(f"{folder}: ")))
    return results


def main(argv: list[str]) -> int:
    """0 everything recovered (or nothing to do), 1 something could not be, 2 a folder is not there."""
    parser = argparse.ArgumentParser(prog="grids recover", description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path, default=[Path("recordings")], metavar="FOLDER")
    folders = parser.parse_args(argv).folders
    missing = [str(folder) for folder in folders if not folder.exists()]
    if missing:
        sys.stderr.write(f"grids recover: expected the folder of the episodes, found none at {', '.join(missing)}\n")
        return 2
    results = []
    for folder in folders:
        results += [*(recover_all(folder) if folder.is_dir() else ()), *mend_all(folder)]
    for result in results:
        messages = f"{result.messages} messages, " if result.messages > 0 else ""
        sys.stdout.write(f"{result.folder or result.partial}: {messages}{result.note}\n")
    if not results:
        sys.stdout.write("nothing to recover: every bag can be read to its end\n")
    return int(any(result.folder is None for result in results))
