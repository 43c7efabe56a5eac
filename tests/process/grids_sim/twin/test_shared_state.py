"""The snapshot in shared memory."""

import multiprocessing
import time

import numpy as np
import pytest

from grids_sim.twin.shared_state import MAX_VALUES, StateReader, StateWriter


def write(writer, number, size=200):
    writer.write(
        np.full(size, float(number)),
        stamp_ns=1_700_000_000_000_000_000 + number,
        task="pick_place",
        camera_faults={"wrist": number % 8},
    )


def test_what_is_written_is_read(tmp_path):
    writer = StateWriter(tmp_path / "state")
    write(writer, 5)
    reader = StateReader(tmp_path / "state")
    got = reader.read()
    assert np.array_equal(got.values, np.full(200, 5.0))
    assert (got.stamp_ns, got.task) == (1_700_000_000_000_000_005, "pick_place")
    assert got.camera_faults == {"front": 0, "wrist": 5}
    assert reader.read(newer_than=got.counter) is None
    write(writer, 6, size=300)
    assert reader.read(newer_than=got.counter).values.shape == (300,)


def test_a_snapshot_larger_than_the_record_is_refused(tmp_path):
    with pytest.raises(ValueError, match=f"at most {MAX_VALUES} values"):
        write(StateWriter(tmp_path / "state"), 1, size=MAX_VALUES + 1)


def test_a_torn_record_is_never_returned(tmp_path):
    path = tmp_path / "state"
    writer = StateWriter(path)
    write(writer, 1)
    with path.open("r+b") as file:
        file.seek(500)
        file.write(b"\x12\x34")
    assert StateReader(path).read() is None


def _hammer(path, stop):
    writer, number = StateWriter(path), 0
    while not stop.is_set():
        number += 1
        write(writer, number)


def test_a_reader_beside_a_writer_at_full_speed_sees_only_whole_and_newer_records(tmp_path, until):
    context = multiprocessing.get_context("spawn")
    stop, path = context.Event(), tmp_path / "state"
    process = context.Process(target=_hammer, args=(path, stop))
    process.start()
    try:
        assert until(lambda: path.exists() and StateReader(path).read() is not None, 20.0)
        reader, last, seen = StateReader(path), 0, 0
        deadline = time.monotonic() + 30.0  # a machine with one free core switches between the two rarely
        while seen <= 20 and time.monotonic() < deadline:
            got = reader.read(newer_than=last)
            if got is None:
                continue
            assert got.counter > last
            assert len(set(got.values)) == 1
            assert got.stamp_ns == 1_700_000_000_000_000_000 + int(got.values[0])
            last, seen = got.counter, seen + 1
    finally:
        stop.set()
        process.join(10)
    assert seen > 20


def test_a_restarted_writer_is_noticed(tmp_path):
    path = tmp_path / "state"
    writer = StateWriter(path)
    reader = StateReader(path)
    assert not reader.stale
    writer.close()
    assert reader.stale
    again = StateWriter(path)
    assert reader.stale
    assert not StateReader(path).stale
    again.close()
