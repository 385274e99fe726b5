"""JournalFile: the journal of one disk, open and locked, in the disk's working folder.

The lock is what keeps two recoveries of one disk apart, so it is taken before anything is believed or written. It is
advisory, and the kernel lets it go with the process.

Invariant: a chunk is durable when :meth:`JournalFile.append` returns.
"""

from __future__ import annotations

import errno
import fcntl
import os
from typing import Self

from jetdr_core.errors import TargetExists, TargetFailed
from jetdr_core.rehydrate.disk_files import DATA, JOURNAL, WORK, DiskFiles
from jetdr_core.rehydrate.journal import Journal, RecoveryIdentity, encode_header
from jetdr_core.rehydrate.target_failure import target_call
from jetdr_core.rehydrate.target_folder import TargetFolder

__all__ = ["JournalFile"]

_ATTEMPTS = 8
"""Another recovery that ends may remove the folder as often as this while it is being opened."""


class JournalFile:
    """The journal ``fd`` in ``work``. Both belong to this object. ``checksum`` is the last chunk's."""

    def __init__(self, files: DiskFiles, work: TargetFolder, fd: int) -> None:
        self.files = files
        self.work = work
        self.checksum = 0
        self._fd = fd
        self._bytes = 0

    @classmethod
    def lock(cls, target: TargetFolder, files: DiskFiles) -> Self:
        """Open and lock the journal, in a folder that is created if it is missing.

        :class:`TargetExists` if a recovery that is running has the lock, or the files belong to another user.
        """
        for _ in range(_ATTEMPTS):
            journal = cls._open(target, files)
            if journal is None:
                continue
            try:
                if journal.take():
                    return journal
            except BaseException:
                journal.close()
                raise
            journal.close()
        raise TargetExists(f"{files.work} is in use by another recovery", hint="wait for it or choose another target")

    @classmethod
    def _open(cls, target: TargetFolder, files: DiskFiles) -> Self | None:
        """Open the journal. None if another recovery removed the folders at the same moment."""
        work: TargetFolder | None = None
        try:
            with target.make_folder(WORK) as top:
                work = top.make_folder(files.work.name)
            return cls(files, work, work.open_file(JOURNAL, writable=True, create=True))
        except BaseException as error:
            if work is not None:
                work.close()
            if isinstance(error, TargetFailed) and error.errno == errno.ENOENT:
                return None
            raise

    def take(self) -> bool:
        """Lock the journal. False if another recovery removed it at the same moment, so that it is nobody's."""
        with target_call(self.files.journal, "locking it"):
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise TargetExists(
                    f"{self.files.journal} is in use by a recovery that is running",
                    hint="wait for it or choose another target",
                ) from None
        if not self.work.is_named(self._fd, JOURNAL):
            return False
        self.work.check_own(JOURNAL, DATA)
        return True

    def begin(self, identity: RecoveryIdentity, asked: str) -> None:
        """Make it the journal of a recovery that has written nothing, durably. ``asked`` named its point."""
        header = encode_header(identity, asked)
        with target_call(self.files.journal, "writing it"):
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, header, 0)
            os.fsync(self._fd)
        self._bytes, self.checksum = len(header), int.from_bytes(header[-8:], "little")

    def resume(self, journal: Journal) -> None:
        """Go on after what was read of it. What follows there is cut off."""
        self._bytes, self.checksum = journal.bytes_valid, journal.checksum
        with target_call(self.files.journal, "writing it"):
            os.ftruncate(self._fd, self._bytes)

    def append(self, chunk: bytes, checksum: int) -> None:
        """Append a chunk that continues :attr:`checksum`. After an error the journal is as it was, or has the chunk."""
        with target_call(self.files.journal, "writing it"):
            os.pwrite(self._fd, chunk, self._bytes)
            os.fdatasync(self._fd)
        self._bytes += len(chunk)
        self.checksum = checksum

    @property
    def bytes_written(self) -> int:
        """How long it is."""
        return self._bytes

    def close(self) -> None:
        """Close the journal, which unlocks it, and the folder. Idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
        self.work.close()
