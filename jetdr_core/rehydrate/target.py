"""The target directory: where a disk is rebuilt, how far an earlier run came, how a finished disk is announced.

A disk NAME is rebuilt as raw bytes in ``.NAME.partial``, with ``.NAME.journal`` beside it, and renamed to its final
name when it is whole. Invariants: nothing that exists is overwritten; nothing is created before :func:`examine`
accepted every disk; a journal row is written only after the bytes it names were synced; files are private (mode 0600);
file, directory and rename are synced in that order. The store is not trusted: names are checked again before they
become paths.
"""

from __future__ import annotations

import enum
import fcntl
import os
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jetdr_core.durable import new_file, rename, sync_folder
from jetdr_core.errors import InvalidRequest, TargetExists, TargetFull
from jetdr_core.identity import check_config_name, check_name
from jetdr_core.rehydrate.journal import (
    Applied,
    Journal,
    RecoveryIdentity,
    decode_journal,
    encode_chunk,
    encode_header,
)
from jetdr_core.vmdk import write_flat_descriptor, write_stream_optimized

__all__ = [
    "FORMATS",
    "DiskFiles",
    "Progress",
    "Standing",
    "TargetDisk",
    "check_config",
    "check_free",
    "check_names",
    "check_space",
    "examine",
    "write_config",
]

FORMATS = ("flat", "stream", "raw")
_SPACE_SPARE_BYTES = 1 << 20
_FILE_MODE = 0o600


class Progress(enum.Enum):
    """How far an earlier run of the same recovery came with a disk."""

    NONE = "nothing is there"
    PARTIAL = "the partial file holds what the journal says"
    EXTENT = "the flat extent has its final name, its descriptor is missing"
    FINISHED = "the disk has its final name"


@dataclass(frozen=True, slots=True)
class DiskFiles:
    """Paths of one disk in the target. The last of ``outputs`` is what announces the disk."""

    directory: Path
    name: str
    format: str

    @property
    def outputs(self) -> tuple[Path, ...]:
        names = {
            "flat": (f"{self.name}-flat.vmdk", f"{self.name}.vmdk"),
            "stream": (f"{self.name}.vmdk",),
            "raw": (f"{self.name}.raw",),
        }
        return tuple(self.directory / name for name in names[self.format])

    @property
    def partial(self) -> Path:
        return self.directory / f".{self.name}.partial"

    @property
    def journal(self) -> Path:
        return self.directory / f".{self.name}.journal"

    def allocated_bytes(self) -> int:
        """What an earlier run has allocated for the partial file."""
        try:
            return self.partial.lstat().st_blocks * 512
        except FileNotFoundError:
            return 0

    @property
    def announcing(self) -> Path:
        """The descriptor or stream while it is written."""
        return self.directory / f".{self.name}.vmdk.partial"


@dataclass(frozen=True, slots=True)
class Standing:
    """What :func:`examine` found: the progress, and the frames that are durable already."""

    progress: Progress
    journal: Journal | None

    @property
    def applied(self) -> list[Applied]:
        return self.journal.applied if self.journal and self.progress is Progress.PARTIAL else []


def check_names(disks: Sequence[DiskFiles], configs: Iterable[str]) -> None:
    """Refuse names that are no names, and two outputs of one name."""
    names = [check_config_name(name) for name in configs]
    for files in disks:
        check_name("disk", files.name)
        names += [path.name for path in files.outputs]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise InvalidRequest(
            f"two outputs of this recovery are named {doubled[0]!r}", hint="recover the disks into separate directories"
        )


# -- what is there -----------------------------------------------------------------------------------------------------


def check_free(files: DiskFiles) -> None:
    """TargetExists if something of the disk is there that no recovery left behind. A first, quick look."""
    there = [path for path in (*files.outputs, files.partial) if os.path.lexists(path)]
    if there and not files.journal.is_file():
        raise TargetExists(f"{there[0]} exists", hint="choose another target or remove it")


def examine(files: DiskFiles, identity: RecoveryIdentity) -> Standing:
    """How far this very recovery came in the target; TargetExists if what is there is not of it. Changes nothing."""
    journal = _read_journal(files.journal)
    outputs = [path for path in files.outputs if os.path.lexists(path)]
    partial = os.path.lexists(files.partial)
    if not outputs and not partial:
        return Standing(Progress.NONE, None)
    check_free(files)
    if journal is None:
        raise TargetExists(
            f"{files.journal} is damaged", hint="remove it and what it belongs to, or choose another target"
        )
    if journal.identity != identity:
        raise TargetExists(
            f"{files.journal} belongs to another recovery ({_differences(journal.identity, identity)})",
            hint=f"finish it, or remove {files.journal.name} and {[*outputs, files.partial][0].name} to give it up",
        )
    return Standing(_progress(files, outputs, partial=partial), journal)


def _read_journal(path: Path) -> Journal | None:
    try:
        return decode_journal(path.read_bytes(), str(path))
    except FileNotFoundError:
        return None


def _differences(theirs: RecoveryIdentity, ours: RecoveryIdentity) -> str:
    pairs = [(name, getattr(theirs, name), getattr(ours, name)) for name in RecoveryIdentity.__slots__]
    return ", ".join(f"{name} {found}" for name, found, expected in pairs if found != expected)


def _progress(files: DiskFiles, outputs: Sequence[Path], *, partial: bool) -> Progress:
    if len(outputs) == len(files.outputs):
        return Progress.FINISHED
    if not outputs:
        return Progress.PARTIAL
    if outputs[0] == files.outputs[0] and not partial:
        return Progress.EXTENT
    raise TargetExists(f"{outputs[0]} exists", hint="choose another target or remove it")


def check_space(directory: Path, needed_bytes: int) -> None:
    """Raise TargetFull unless the file system of ``directory`` (or of its nearest parent) has room."""
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


# -- writing -----------------------------------------------------------------------------------------------------------


def check_config(path: Path, text: bytes) -> bool:
    """Whether the configuration file is there already; TargetExists if another file has its name."""
    if not os.path.lexists(path):
        return False
    if path.is_symlink() or not path.is_file() or path.read_bytes() != text:
        raise TargetExists(f"{path} exists", hint="choose another target or remove it")
    return True


def write_config(path: Path, text: bytes) -> None:
    """Create the configuration file, whole and durable; leave it if it is there already."""
    if check_config(path, text):
        return
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    with new_file(partial) as target:
        target.write(text)
    rename(partial, path)


def _create(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, _FILE_MODE)


class TargetDisk:
    """One disk while it is rebuilt: its partial file and its journal, both open, the journal locked.

    :attr:`fd` may be written from any thread at disjoint offsets. :meth:`checkpoint` may run in one thread beside the
    writers: what it is told of must have been written before the call. The other methods are for one thread alone.
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

    def checkpoint(self, applied: Sequence[Applied]) -> None:
        """Make everything written so far durable, then say so. An OSError leaves the journal as it was or longer."""
        if not applied:
            return
        os.fdatasync(self.fd)
        chunk, checksum = encode_chunk(applied, self._checksum)
        os.pwrite(self._journal, chunk, self._journal_bytes)
        os.fdatasync(self._journal)
        self._journal_bytes += len(chunk)
        self._checksum = checksum

    def finish(self, encoded: Callable[[int], None]) -> None:
        """Sync, bring into the final format, announce. ``encoded`` hears up to which byte of the disk a stream is."""
        if self.progress is Progress.PARTIAL:
            os.fsync(self.fd)
            if self.files.format == "stream":
                self._encode_stream(encoded)
            else:
                self._rename(self.files.partial, self.files.outputs[0])
            self.progress = Progress.EXTENT
        if self.progress is Progress.EXTENT and self.files.format == "flat":
            self._write_descriptor()
        self.progress = Progress.FINISHED
        self.files.partial.unlink(missing_ok=True)

    def forget(self) -> None:
        """Remove the journal: the recovery is complete, or this run created nothing of worth."""
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
        header = encode_header(self.identity)
        os.ftruncate(self._journal, 0)
        os.pwrite(self._journal, header, 0)
        os.fsync(self._journal)
        self._journal_bytes, self._checksum = len(header), int.from_bytes(header[-8:], "little")
        self.fd = _create(self.files.partial)
        os.ftruncate(self.fd, self.identity.size_bytes)
        sync_folder(self.files.directory)
        self.progress = Progress.PARTIAL

    def _continue(self, standing: Standing) -> None:
        assert standing.journal is not None
        self._journal_bytes, self._checksum = standing.journal.bytes_valid, standing.journal.checksum
        os.ftruncate(self._journal, self._journal_bytes)
        self.fd = os.open(self.files.partial, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
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
            raise TargetExists(f"{output} appeared while the disk was rebuilt", hint="remove it and run this again")
        source.chmod(_FILE_MODE)
        rename(source, output)

    def _content_id(self) -> int:
        """VMDK content ID: equal for equal recoveries; never 0xFFFFFFFF, which means "no parent"."""
        return zlib.crc32(encode_header(self.identity)) & 0x7FFF_FFFF


def _lock_journal(files: DiskFiles) -> int:
    fd = os.open(files.journal, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, _FILE_MODE)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise TargetExists(
            f"{files.journal} is in use by a recovery that is running", hint="wait for it or choose another target"
        ) from None
    return fd
