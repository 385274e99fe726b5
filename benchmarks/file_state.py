"""The state of files before they are measured: allocated, durable, out of the page cache.

Invariant: nothing here waits for what other programs have written. A machine-wide ``sync`` would, and on a busy machine
that takes minutes.
"""

from __future__ import annotations

import mmap
import os
from contextlib import suppress
from pathlib import Path

__all__ = ["sync_files", "uncache", "written_file"]

_PIECE_BYTES = 4 << 20


def written_file(path: Path, length: int) -> Path:
    """Make ``path`` a file of ``length`` bytes whose extents have all been allocated and written once."""
    zeros = mmap.mmap(-1, _PIECE_BYTES)
    with path.open("r+b" if path.exists() else "wb", buffering=0) as file:
        os.posix_fallocate(file.fileno(), 0, length)
        for offset in range(0, length, _PIECE_BYTES):
            file.write(memoryview(zeros)[: length - offset])
        os.fsync(file.fileno())
    return path


def sync_files(folder: Path) -> None:
    """Make every file below ``folder`` durable, so that no writeback of an earlier turn disturbs the next one.

    A file that disappears meanwhile is skipped: a running uploader renames what it has written.
    """
    for path in sorted(folder.rglob("*")):
        with suppress(FileNotFoundError):
            if path.is_file():
                _sync_file(path)


def _sync_file(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fdatasync(fd)
    finally:
        os.close(fd)


def uncache(path: Path) -> None:
    """Make the file durable and drop it from the page cache.

    The kernel caches what was written or read in large pieces in large folios, and takes several times as long to write
    4 KiB into such a folio. Which parts of a file have large folios is a matter of chance.
    """
    with path.open("r+b") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
