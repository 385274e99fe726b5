"""TargetDisk: writes one disk of a recovery, and announces it when it is whole.

Invariants: a journal row is written only after the bytes that it names were synced. Nothing that exists is overwritten.
Files are private (mode 0600). File, directory and rename are synced in that order.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import xxhash

from jetdr_core.errors import JetdrError, TargetExists, TargetFull
from jetdr_core.rehydrate.disk_files import ANNOUNCING, DATA, JOURNAL, WORK, DiskFiles
from jetdr_core.rehydrate.journal import (
    Applied,
    Encoded,
    Journal,
    RecoveryIdentity,
    encode_applied,
    encode_encoded,
    encode_identity,
)
from jetdr_core.rehydrate.journal_file import JournalFile
from jetdr_core.rehydrate.standing import Progress, Standing
from jetdr_core.rehydrate.target_failure import target_call
from jetdr_core.rehydrate.target_folder import TargetFolder
from jetdr_core.vmdk import FlatType, descriptor_text, encode_stream_optimized

__all__ = ["TargetDisk", "check_space"]

FLAT_TYPES: Mapping[str, FlatType] = {"flat": "monolithicFlat", "vmfs": "vmfs"}
"""Formats whose data is announced by a descriptor of that type beside it."""

_SPACE_SPARE_BYTES = 1 << 20
_FILE_MODE = 0o600
_BUFFER_BYTES = 1 << 20


def check_space(directory: Path, needed_bytes: int) -> None:
    """Raise :class:`TargetFull` unless the file system of ``directory``, or of its nearest parent, has room."""
    while not os.path.exists(directory):
        directory = directory.parent
    with target_call(directory, "asking for its free space"):
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
    """One disk while it is being written: its data and its journal, both open, the journal locked.

    ``fd`` is the disk's data, wherever it is by now. It is -1 for a stream that is finished. ``work`` is the working
    folder.

    Any thread may write to :attr:`fd`, at disjoint offsets. One thread may call :meth:`save` beside the writers. All
    other methods are for one thread alone.
    """

    def __init__(
        self,
        target: TargetFolder,
        files: DiskFiles,
        identity: RecoveryIdentity,
        standing: Standing,
        look_again: Callable[[], Standing],
        asked: str = "",
    ) -> None:
        """Open or create the files. ``standing`` was seen without the lock. ``look_again`` sees it with the lock.

        ``asked`` are the words that named the recovery's point.
        """
        self.files = files
        self.identity = identity
        self._asked = asked
        self.progress = standing.progress
        self.fd = -1
        self._target = target
        self._journal = JournalFile.lock(target, files)
        self.work = self._journal.work
        try:
            if not look_again().agrees_with(standing):
                raise TargetExists(f"{files.journal} changed meanwhile", hint="run this again")
            self._open(standing)
        except BaseException:
            self.close()
            raise

    @property
    def path(self) -> Path:
        """Where the data is."""
        return self.files.outputs[0] if self.progress in (Progress.RENAMED, Progress.FINISHED) else self.files.data

    def writing(self) -> AbstractContextManager[None]:
        """Translates the errors of what the body does to :attr:`fd`."""
        return target_call(self.path, "writing it", size_bytes=self.identity.size_bytes)

    def reading(self) -> AbstractContextManager[None]:
        """Translates the errors of what the body does to :attr:`fd`."""
        return target_call(self.path, "reading it")

    def save(self, applied: Sequence[Applied]) -> None:
        """Make everything written before the call durable, then note ``applied`` in the journal, durably.

        The frames in ``applied`` must have been written before the call. After an error of the target the journal is
        as it was, or has the rows already.
        """
        if applied:
            with self.writing():
                os.fdatasync(self.fd)
            self._journal.append(*encode_applied(applied, self._journal.checksum))

    def finish(self, encoded: Callable[[int], None]) -> None:
        """Bring the disk into its final format and announce it, durably.

        While a stream is encoded, ``encoded`` is called with the byte of the disk up to which the stream is written.
        """
        if self.progress is Progress.PARTIAL:
            with self.writing():
                os.fsync(self.fd)
            if self.files.format == "stream":
                self._encode_stream(encoded)
            else:
                self._announce(DATA, self.fd, self.files.outputs[0])
            self.progress = Progress.RENAMED
        if self.progress is Progress.RENAMED and self.files.format in FLAT_TYPES:
            self._write_descriptor()
        self.progress = Progress.FINISHED
        self.work.remove_file(DATA)

    def descriptor(self) -> bytes:
        """The descriptor of the disk as ``flat`` or ``vmfs``."""
        return descriptor_text(
            FLAT_TYPES[self.files.format],
            extent_name=self.files.outputs[0].name,
            size_bytes=self.identity.size_bytes,
            cid=self._content_id(),
        )

    def zero(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Make the ranges (start, end) read as zeros, where nothing was written yet. A new file reads as zeros."""

    def is_as_announced(self, journal: Journal | None) -> bool:
        """Whether the file that announces a finished disk is the one that was written, or is missing still."""
        if self.progress is not Progress.FINISHED or self.files.format == "raw":
            return True
        name = self.files.outputs[-1].name
        if self.files.format in FLAT_TYPES:
            expected = self.descriptor()
            return self._target.read_file(name, len(expected) + 1) == expected
        encoded = journal.encoded if journal else None
        return encoded is not None and self._target.digest_of(name, encoded.size_bytes) == encoded.digest

    def forget(self) -> None:
        """Remove the journal and its folder, because the recovery is complete."""
        self.work.remove_file(ANNOUNCING)
        self.work.remove_file(JOURNAL)
        top = self._target.find_folder(WORK)
        if top is not None:
            with top:
                top.remove_folder(self.files.work.name)
            self._target.remove_folder(WORK)

    def withdraw(self) -> None:
        """Remove the files of a disk of which nothing was written yet, so that a failed start leaves nothing."""
        with suppress(JetdrError):
            self.work.remove_file(DATA)
            self.forget()

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)
        self._journal.close()

    # -- opening -------------------------------------------------------------------------------------------------------

    def _open(self, standing: Standing) -> None:
        if standing.journal is not None and standing.is_resumed:
            self._journal.resume(standing.journal)
        if standing.progress is Progress.NONE:
            self._begin()
        elif standing.progress is Progress.PARTIAL:
            self._continue()
        elif self.files.format != "stream":
            self.fd = self._target.open_file(self.files.outputs[0].name)

    def _begin(self) -> None:
        self._journal.begin(self.identity, self._asked)
        self.fd = self.work.create_file(DATA)
        self.progress = Progress.PARTIAL
        try:
            with target_call(self.files.data, "giving it that size", size_bytes=self.identity.size_bytes):
                os.ftruncate(self.fd, self.identity.size_bytes)
            self.work.sync()
        except BaseException:
            self.withdraw()
            raise

    def _continue(self) -> None:
        self.fd = self.work.open_file(DATA, writable=True)
        if os.fstat(self.fd).st_size > self.identity.size_bytes:
            raise TargetExists(
                f"{self.files.data} is longer than the disk", hint=f"remove {self.files.work} to begin again"
            )
        with self.writing():
            os.ftruncate(self.fd, self.identity.size_bytes)

    # -- finishing -----------------------------------------------------------------------------------------------------

    def _encode_stream(self, encoded: Callable[[int], None]) -> None:
        output = self.files.outputs[-1]
        with self._new_announcing() as (fd, file), target_call(self.files.announcing, "writing it"):
            sink = _Digesting(file)
            report = encode_stream_optimized(
                self.fd,
                self.identity.size_bytes,
                sink,
                cid=self._content_id(),
                extent_name=output.name,
                progress=encoded,
            )
            file.flush()
            os.fsync(fd)
            written = Encoded(report.bytes_written, sink.digest())
            self._journal.append(*encode_encoded(written, self._journal.checksum))
            self._announce(ANNOUNCING, fd, output)

    def _write_descriptor(self) -> None:
        with self._new_announcing() as (fd, file), target_call(self.files.announcing, "writing it"):
            file.write(self.descriptor())
            file.flush()
            os.fsync(fd)
            self._announce(ANNOUNCING, fd, self.files.outputs[-1])

    @contextmanager
    def _new_announcing(self) -> Iterator[tuple[int, BinaryIO]]:
        self.work.remove_file(ANNOUNCING)
        fd = self.work.create_file(ANNOUNCING)
        try:
            with os.fdopen(fd, "wb", _BUFFER_BYTES) as file:
                yield fd, file
        except BaseException:
            self.work.remove_file(ANNOUNCING)  # a full target has no room for what is of no use
            raise

    def _announce(self, name: str, fd: int, output: Path) -> None:
        try:
            with target_call(output, "setting its mode"):
                os.fchmod(fd, _FILE_MODE)
            self.work.move_file(name, self._target, output.name)
        except TargetExists as error:
            raise TargetExists(
                f"{output} appeared while the disk was being recovered", hint="remove it and run this again"
            ) from error

    def _content_id(self) -> int:
        """The VMDK content ID, equal for equal recoveries. Never 0xFFFFFFFF, which means "no parent"."""
        return zlib.crc32(encode_identity(self.identity)) & 0x7FFF_FFFF


class _Digesting:
    """Passes on what is written, and has its XXH3-128."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = xxhash.xxh3_128()

    def write(self, data: bytes) -> None:
        self._digest.update(data)
        self._file.write(data)

    def digest(self) -> bytes:
        return self._digest.digest()
