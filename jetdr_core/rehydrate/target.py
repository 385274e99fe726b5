"""TargetDisk: writes one disk of a recovery, and announces it when it is whole.

Invariants: a journal row is written only after the bytes that it names were synced. Nothing that exists is overwritten.
Files are private (mode 0600). File, directory and rename are synced in that order.
"""

from __future__ import annotations

import errno
import fcntl
import os
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from jetdr_core.durable import rename, sync_folder
from jetdr_core.errors import SystemFailure, TargetExists, TargetFull
from jetdr_core.file_making import making
from jetdr_core.rehydrate.disk_files import DiskFiles
from jetdr_core.rehydrate.journal import Applied, RecoveryIdentity, encode_chunk, encode_header
from jetdr_core.rehydrate.standing import Progress, Standing, open_left_file
from jetdr_core.vmdk import write_flat_descriptor, write_stream_optimized

__all__ = ["TargetDisk", "check_space"]

_SPACE_SPARE_BYTES = 1 << 20
_FILE_MODE = 0o600


def check_space(directory: Path, needed_bytes: int) -> None:
    """Raise :class:`TargetFull` unless the file system of ``directory``, or of its nearest parent, has room."""
    while not directory.exists():
        directory = directory.parent
    stat = os.statvfs(directory)
    free_bytes = stat.f_bavail * stat.f_frsize
    if needed_bytes + _SPACE_SPARE_BYTES > free_bytes:
        raise TargetFull(
            f"{directory} has {free_bytes} bytes free; this recovery needs {needed_bytes + _SPACE_SPARE_BYTES}",
            hint="free space or choose another target",
            free_bytes=free_bytes,
            needed_bytes=needed_bytes + _SPACE_SPARE_BYTES,
        )


class TargetDisk:
    """One disk while it is being written: its partial file and its journal, both open, the journal locked.

    Any thread may write to :attr:`fd`, at disjoint offsets. One thread may call :meth:`save` beside the writers. All
    other methods are for one thread alone.
    """

    def __init__(self, files: DiskFiles, identity: RecoveryIdentity, standing: Standing) -> None:
        self.files = files
        self.identity = identity
        self.progress = standing.progress
        self.fd = -1
        self._journal_bytes = self._checksum = 0
        self._journal = _lock_journal(files)
        try:
            self._open(standing)
        except BaseException:
            self.close()
            raise

    def save(self, applied: Sequence[Applied]) -> None:
        """Make everything written before the call durable, then note ``applied`` in the journal, durably.

        The frames in ``applied`` must have been written before the call. After an OSError the journal is as it was, or
        has the rows already.
        """
        if not applied:
            return
        os.fdatasync(self.fd)
        chunk, checksum = encode_chunk(applied, self._checksum)
        os.pwrite(self._journal, chunk, self._journal_bytes)
        os.fdatasync(self._journal)
        self._journal_bytes += len(chunk)
        self._checksum = checksum

    def finish(self, encoded: Callable[[int], None]) -> None:
        """Bring the disk into its final format and announce it, durably.

        While a stream is encoded, ``encoded`` is called with the byte of the disk up to which the stream is written.
        """
        if self.progress is Progress.PARTIAL:
            os.fsync(self.fd)
            if self.files.format == "stream":
                self._encode_stream(encoded)
            else:
                self._rename(self.files.partial, self.files.outputs[0])
            self.progress = Progress.RENAMED
        if self.progress is Progress.RENAMED and self.files.format == "flat":
            self._write_descriptor()
        self.progress = Progress.FINISHED
        self.files.partial.unlink(missing_ok=True)

    def forget(self) -> None:
        """Remove the journal, because the recovery is complete."""
        self.files.journal.unlink(missing_ok=True)

    def close(self) -> None:
        for fd in (self.fd, self._journal):
            if fd >= 0:
                os.close(fd)
        self.fd = self._journal = -1

    def _open(self, standing: Standing) -> None:
        if standing.progress is Progress.NONE:
            self._begin()
        elif standing.progress is Progress.PARTIAL:
            self._continue(standing)

    def _begin(self) -> None:
        """Begin both files. If that fails, neither is left."""
        header = encode_header(self.identity)
        with making(self.files.partial, f"making a disk of {self.identity.size_bytes} bytes"):
            try:
                os.ftruncate(self._journal, 0)
                os.pwrite(self._journal, header, 0)
                os.fsync(self._journal)
                self._make_partial()
            except BaseException:
                self.forget()
                raise
        self._journal_bytes, self._checksum = len(header), int.from_bytes(header[-8:], "little")
        self.progress = Progress.PARTIAL

    def _make_partial(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        self.fd = os.open(self.files.partial, flags, _FILE_MODE)
        try:
            os.ftruncate(self.fd, self.identity.size_bytes)
            sync_folder(self.files.directory)
        except BaseException:
            self.files.partial.unlink()
            raise

    def _continue(self, standing: Standing) -> None:
        assert standing.journal is not None
        self._journal_bytes, self._checksum = standing.journal.bytes_valid, standing.journal.checksum
        os.ftruncate(self._journal, self._journal_bytes)
        self.fd = open_left_file(self.files.partial, os.O_RDWR)
        if os.fstat(self.fd).st_size > self.identity.size_bytes:
            raise TargetExists(f"{self.files.partial} is longer than the disk", hint="remove it to begin again")
        os.ftruncate(self.fd, self.identity.size_bytes)

    def _encode_stream(self, encoded: Callable[[int], None]) -> None:
        output = self.files.outputs[-1]
        self.files.announcing.unlink(missing_ok=True)
        write_stream_optimized(
            self.fd,
            self.identity.size_bytes,
            self.files.announcing,
            cid=self._content_id(),
            extent_name=output.name,
            progress=encoded,
        )
        self._rename(self.files.announcing, output)

    def _write_descriptor(self) -> None:
        extent, output = self.files.outputs
        self.files.announcing.unlink(missing_ok=True)
        write_flat_descriptor(
            self.files.announcing, extent_name=extent.name, size_bytes=self.identity.size_bytes, cid=self._content_id()
        )
        self._rename(self.files.announcing, output)

    def _rename(self, source: Path, output: Path) -> None:
        if os.path.lexists(output):
            raise TargetExists(
                f"{output} appeared while the disk was being recovered", hint="remove it and run this again"
            )
        source.chmod(_FILE_MODE)
        rename(source, output)

    def _content_id(self) -> int:
        """The VMDK content ID, equal for equal recoveries. Never 0xFFFFFFFF, which means "no parent"."""
        return zlib.crc32(encode_header(self.identity)) & 0x7FFF_FFFF


def _lock_journal(files: DiskFiles) -> int:
    fd = open_left_file(files.journal, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        if error.errno == errno.EWOULDBLOCK:
            raise TargetExists(
                f"{files.journal} is in use by a recovery that is running", hint="wait for it or choose another target"
            ) from None
        raise SystemFailure(
            f"{files.journal} cannot be locked: {error.strerror}",
            hint="see that the file system's locks work, or choose another target",
            errno=error.errno,
        ) from None
    return fd
