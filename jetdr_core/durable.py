"""Durable changes of names: a file, a folder, a rename or a removal that outlives a power loss.

``fsync`` of a file makes its content durable, but not its name: the name is an entry of the folder, which has to be
synced after the file. Each function here does both steps in that order, and says what is durable at return. All of
them block.

Invariant: a durable name never leads to content that is not durable.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from jetdr_core.file_making import trying

__all__ = ["make_folders", "new_file", "remove", "rename", "replace_file", "sync_folder"]

FILE_MODE = 0o600
_BUFFER_BYTES = 1 << 20


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable: those created, renamed and removed before the call."""
    with trying(folder, "syncing the folder"):
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def make_folders(folder: Path, *, mode: int = 0o777) -> None:
    """Create ``folder`` and the missing folders above it, each durable in its parent. Idempotent.

    Folders that exist are left as they are, and need not be readable.
    """
    missing = [path for path in (folder, *folder.parents) if not _exists(path)]
    for path in reversed(missing):
        with trying(path, "making the folder"):
            path.mkdir(mode, exist_ok=True)
        sync_folder(path.parent)


def _exists(path: Path) -> bool:
    with trying(path, "looking for it"):
        return path.exists()


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Create ``path`` with mode 0600 for the body to write. If the body fails, the file is removed.

    The content is durable after the body, but the name only after :func:`rename` or :func:`sync_folder`. Raises
    ``FileExistsError``, with nothing changed, if anything has the name, even a symbolic link.
    """
    with trying(path, "making the file"):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
    try:
        with trying(path, "writing the file"), os.fdopen(fd, "wb", _BUFFER_BYTES) as file:
            yield file
            file.flush()
            os.fsync(fd)
    except BaseException:
        with suppress(OSError):
            path.unlink()
        raise


def rename(source: Path, target: Path) -> None:
    """Rename ``source`` to ``target`` in the same folder, durably. What had the name ``target`` is replaced."""
    assert source.parent == target.parent, (source, target)
    with trying(target, f"renaming {source.name} to it"):
        source.rename(target)
    sync_folder(target.parent)


def replace_file(path: Path, new: Path, content: bytes) -> None:
    """Give ``path`` the content, durably and as a whole. ``new`` is the file's name until it is whole.

    What a run that died left under that name is removed.
    """
    with trying(new, "removing what an earlier run left"):
        new.unlink(missing_ok=True)
    with new_file(new) as file:
        file.write(content)
    rename(new, path)


def remove(path: Path) -> None:
    """Remove the file, durably. Idempotent."""
    with trying(path, "removing it"):
        path.unlink(missing_ok=True)
    sync_folder(path.parent)
