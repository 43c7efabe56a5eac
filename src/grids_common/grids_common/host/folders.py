"""Replaces a folder as a whole: at every moment its name belongs to the complete old one or to the complete new one."""

import ctypes
import os
import shutil
from pathlib import Path

_HERE = -100  # AT_FDCWD of fcntl.h: paths are relative to the working directory
_EXCHANGE = 2  # RENAME_EXCHANGE of linux/fs.h


def replace_folder(new: Path, folder: Path) -> None:
    """Give `new` the name `folder`, then delete what had that name. Both lie on one file system.

    Linux exchanges two names in one step. Where the file system cannot (NFS), a crash between two renames leaves the
    old one complete as `folder`.old. Raises OSError; `folder` is then as before.
    """
    if not folder.exists():
        new.rename(folder)
        return
    old = new
    if not _exchange(new, folder):
        old = folder.with_name(f"{folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
        try:
            new.rename(folder)
        except OSError:
            old.rename(folder)
            raise
    shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Whether the two names were exchanged."""
    try:
        rename = ctypes.CDLL(None).renameat2
    except AttributeError:  # a C library older than 2018
        return False
    return rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0
