"""A folder is replaced as a whole, on file systems that exchange names and on those that do not."""

import threading
from pathlib import Path

import pytest

from grids_common.host import folders
from grids_common.host.folders import replace_folder


def made(path: Path, text: str) -> Path:
    path.mkdir()
    (path / "file").write_text(text)
    return path


@pytest.fixture(params=[True, False], ids=["exchanged", "renamed"])
def place(request, tmp_path, monkeypatch):
    if not request.param:
        monkeypatch.setattr(folders, "_exchange", lambda one, other: False)
    return tmp_path


def test_the_new_one_has_the_name_and_nothing_else_is_left(place):
    replace_folder(made(place / "new", "1"), place / "kept")
    replace_folder(made(place / "new", "2"), place / "kept")
    assert (place / "kept" / "file").read_text() == "2"
    assert [path.name for path in place.iterdir()] == ["kept"]


def test_the_old_one_stays_where_the_new_one_cannot_take_its_place(place):
    made(place / "kept", "1")
    with pytest.raises(FileNotFoundError):
        replace_folder(place / "missing", place / "kept")
    assert (place / "kept" / "file").read_text() == "1"


def test_at_every_moment_there_is_a_complete_one(tmp_path):
    """Somebody who looks again and again never finds the name free."""
    folder, ended, missed = made(tmp_path / "kept", "0"), threading.Event(), []

    def look() -> None:
        while not ended.is_set():
            if not folder.is_dir():
                missed.append(1)

    watcher = threading.Thread(target=look)
    watcher.start()
    for turn in range(300):
        replace_folder(made(tmp_path / "new", str(turn)), folder)
    ended.set()
    watcher.join()
    assert not missed
