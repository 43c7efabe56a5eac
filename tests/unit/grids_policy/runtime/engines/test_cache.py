"""What engines build is used again only for the same everything."""

from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from grids_policy.runtime.bundle import BundleError
from grids_policy.runtime.engines import cache
from grids_policy.runtime.engines.cache import Fingerprint, open_cache, seal_cache

FINGERPRINT = Fingerprint("rtx", "RTX 3090", "580.1", "8.6", "tensorrt-rtx 1.7", "1.32.0", "0" * 64)


def filled(root: Path) -> Path:
    folder, said = open_cache(root, FINGERPRINT)
    assert "building" in said
    (folder / "vision.engine").write_bytes(b"engine")
    seal_cache(folder, FINGERPRINT)
    return folder


def test_an_engine_is_used_again_only_for_the_same_everything(tmp_path):
    folder = filled(tmp_path)
    again, said = open_cache(tmp_path, FINGERPRINT)
    assert again == folder
    assert "rtx engines from" in said
    assert (folder / "vision.engine").exists()
    for field in fields(Fingerprint):
        other, said = open_cache(tmp_path, replace(FINGERPRINT, **{field.name: "different"}))
        assert other != folder, field.name


@pytest.mark.parametrize("damage", ["engine", "record", "unsealed", "stranger", "folder", "missing"])
def test_a_doubtful_engine_cache_is_emptied(tmp_path, damage):
    folder = filled(tmp_path)
    if damage == "engine":
        (folder / "vision.engine").write_bytes(b"other")
    elif damage == "record":
        (folder / "fingerprint.json").write_text("{")
    elif damage == "stranger":
        (folder / "prefix.engine").write_bytes(b"from elsewhere")
    elif damage == "folder":
        (folder / "more").mkdir()
    elif damage == "missing":
        (folder / "vision.engine").unlink()
    else:
        (folder / "fingerprint.json").unlink()
    _, said = open_cache(tmp_path, FINGERPRINT)
    assert "building" in said
    assert not list(folder.iterdir())


def test_a_record_of_another_machine_is_refused_with_both_sides(tmp_path):
    folder = filled(tmp_path)
    seal_cache(folder, replace(FINGERPRINT, device="RTX 4090"))
    _, said = open_cache(tmp_path, FINGERPRINT)
    assert "RTX 4090" in said
    assert "RTX 3090" in said


def test_without_space_for_the_engines_nothing_is_begun(tmp_path, monkeypatch):
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: SimpleNamespace(free=3_000_000))
    with pytest.raises(BundleError, match=r"expected 500 MB of free space for built engines, got 3 MB: make room"):
        open_cache(tmp_path, FINGERPRINT, 500_000_000)
    assert not list(tmp_path.iterdir())


def test_a_cache_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match=r"built engines cannot be kept there .Not a directory.: make room or set"):
        open_cache(tmp_path / "file", FINGERPRINT)


def test_a_folder_that_is_filled_when_the_engine_is_freed_may_be_empty_until_then(tmp_path):
    folder, _ = open_cache(tmp_path, FINGERPRINT)
    (folder / "vision").mkdir()
    (folder / "vision.engine").write_bytes(b"engine")
    seal_cache(folder, FINGERPRINT)
    assert "rtx engines from" in open_cache(tmp_path, FINGERPRINT)[1]
    (folder / "vision" / "kernels").write_bytes(b"compiled")
    seal_cache(folder, FINGERPRINT)
    assert "rtx engines from" in open_cache(tmp_path, FINGERPRINT)[1]
    (folder / "vision" / "kernels").write_bytes(b"others")
    assert "changed since it was built" in open_cache(tmp_path, FINGERPRINT)[1]


def test_a_link_to_a_folder_is_not_sealed(tmp_path):
    folder = filled(tmp_path)
    (folder / "vision").symlink_to(tmp_path)
    with pytest.raises(BundleError, match="Is a directory"):
        seal_cache(folder, FINGERPRINT)


def test_a_cache_of_another_user_is_one_sentence(tmp_path, monkeypatch):
    def forbidden(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_file", forbidden)
    with pytest.raises(BundleError, match=r"built engines cannot be kept there .Permission denied.: make room or set"):
        open_cache(tmp_path, FINGERPRINT)


def test_a_record_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    folder, _ = open_cache(tmp_path, FINGERPRINT)
    (folder / "vision.engine").write_bytes(b"engine")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(BundleError, match="No space left on device"):
        seal_cache(folder, FINGERPRINT)
    assert not folder.exists()
