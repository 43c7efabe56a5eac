"""Finding and reading recorded runs, without a ROS graph."""

from collections.abc import Iterator
from pathlib import Path

from rosbags.highlevel import AnyReader, AnyReaderError


class BagError(RuntimeError):
    """The recording cannot be used; the message says what was expected and what came."""


def find_bags(path: Path) -> list[Path]:
    """Every bag at or below `path`, sorted: folders with metadata.yaml, else .mcap files. BagError: there is none."""
    path = Path(path)
    if not path.exists():
        raise BagError(f"expected a run folder or a bag, found nothing at {path}")
    if path.suffix == ".mcap" and path.is_file():
        return [path]
    if (path / "metadata.yaml").is_file():
        return [path]
    found = sorted(p.parent for p in path.rglob("metadata.yaml")) or sorted(path.rglob("*.mcap"))
    if not found:
        raise BagError(
            f"expected a bag (metadata.yaml or .mcap) under {path}, found none; record one with ./grids record"
        )
    return found


def find_bag(path: Path) -> Path:
    """The one bag at or below `path`; BagError names the alternatives where there are several."""
    found = find_bags(path)
    if len(found) > 1:
        names = ", ".join(str(p.relative_to(path)) for p in found[:8])
        raise BagError(f"expected one bag under {path}, found {len(found)}: {names}")
    return found[0]


def read(bag: Path, topics: tuple[str, ...], *, until_s: float | None = None) -> Iterator[tuple[str, object, int]]:
    """(topic, message, log time in ns) in order, up to `until_s` after the start. BagError for an unreadable bag."""
    try:
        with AnyReader([Path(bag)]) as reader:
            wanted = [c for c in reader.connections if c.topic in topics]
            if not wanted:
                has = ", ".join(sorted({c.topic for c in reader.connections})) or "no topics"
                raise BagError(f"{bag}: expected one of {', '.join(topics)}; it holds {has}")
            stop_ns = reader.end_time if until_s is None else reader.start_time + round(until_s * 1e9) + 1
            for connection, t_ns, raw in reader.messages(connections=wanted, stop=stop_ns):
                yield connection.topic, reader.deserialize(raw, connection.msgtype), t_ns
    except (AnyReaderError, OSError, KeyError) as error:
        raise BagError(f"{bag}: not a readable ROS 2 bag: {error}") from error
