"""NBD exports of one disk each, to be compared: nbdkit's file plugin, ours unprotected, QEMU's blklogwrites.

What is protected is in benchmarks.protected. Every primary is a file of the same size in the same folder, written once
before.
"""

from __future__ import annotations

import mmap
import os
from abc import ABC, abstractmethod
from pathlib import Path

import jetdr_core
from benchmarks.fio import program
from benchmarks.measure import PeerMissing
from benchmarks.process import Server

__all__ = ["Export", "Place", "blklogwrites", "nbdkit_file", "plugin", "uncache", "written_file"]

DISK = "disk"
_PIECE_BYTES = 4 << 20


class Place:
    """Where the exports keep their things: ``work`` on the disk, ``runtime`` in memory (sockets, rings)."""

    def __init__(self, work: Path, runtime: Path, disk_bytes: int) -> None:
        self.work, self.runtime, self.disk_bytes = work, runtime, disk_bytes

    def primary(self, name: str) -> Path:
        return written_file(self.work / f"{name}.img", self.disk_bytes)


class Export(ABC):
    """One contestant. ``begin`` before each of its turns, ``settle`` until nothing is owed of what was written."""

    name: str
    uri: str
    primary: Path

    @property
    @abstractmethod
    def pids(self) -> list[int]:
        """Every process that works for this export, but for the client's."""

    @abstractmethod
    def end(self) -> None:
        """Stop the servers."""

    def begin(self) -> None:
        """Nothing to do for most."""
        return

    def settle(self) -> None:
        """Nothing is owed by most."""
        return

    def check(self) -> None:
        """Compare with the primary what else the export has kept: nothing, for most."""
        return


class _Served(Export):
    """One server process behind a Unix socket."""

    def __init__(self, name: str, place: Place, command: list[str], socket: Path, export: str, primary: Path) -> None:
        self.primary, self.name, self.uri = primary, name, f"nbd+unix:///{export}?socket={socket}"
        self._command, self._socket, self._said = command, socket, place.work / f"{socket.stem}.said"
        self._server = self._start()

    @property
    def pids(self) -> list[int]:
        return [self._server.pid]

    def end(self) -> None:
        self._server.end()

    def _start(self) -> Server:
        return Server(self._command, self._socket, self._said)


def nbdkit_file(place: Place) -> Export:
    """nbdkit's own file plugin."""
    socket, primary = place.runtime / "file.sock", place.primary("file")
    command = [program("nbdkit"), "-f", "--unix", str(socket), "file", str(primary)]
    return _Served("nbdkit file", place, command, socket, "", primary)


def plugin_path() -> Path:
    """Our nbdkit plugin, where the build puts it."""
    path = Path(jetdr_core.__file__).parent / "nbdkit-jetdr-plugin.so"
    if not path.exists():
        raise PeerMissing(f"{path.name} is not built")
    return path


def plugin(place: Place) -> Export:
    """Our plugin without a ring: the same code on the guest's path, and no replication."""
    socket, primary = place.runtime / "plugin.sock", place.primary("plugin")
    disk = f"disk=1:{DISK}:{place.disk_bytes}:{primary}"
    command = [program("nbdkit"), "-f", "--unix", str(socket), str(plugin_path()), disk]
    return _Served("unprotected", place, command, socket, DISK, primary)


class _BlkLogWrites(_Served):
    """QEMU's blklogwrites over a file, its log in a file beside it; started again each turn: a short log."""

    def __init__(self, place: Place) -> None:
        socket = place.runtime / "blklogwrites.sock"
        log = written_file(place.work / "blklogwrites.log", 2 * place.disk_bytes)
        primary = place.primary("blklogwrites")
        command = [
            program("qemu-storage-daemon"),
            *("--blockdev", f"driver=file,node-name=primary,filename={primary}"),
            *("--blockdev", f"driver=file,node-name=log,filename={log}"),
            *("--blockdev", "driver=blklogwrites,node-name=both,file=primary,log=log"),
            *("--nbd-server", f"addr.type=unix,addr.path={socket}"),
            *("--export", f"type=nbd,id=export,node-name=both,name={DISK},writable=on"),
        ]
        super().__init__("blklogwrites", place, command, socket, DISK, primary)

    def begin(self) -> None:
        self._server.end()
        self._server = self._start()


def blklogwrites(place: Place) -> Export:
    """QEMU's log of writes, in the format of dm-log-writes."""
    return _BlkLogWrites(place)


def uncache(path: Path) -> None:
    """Have the file on the disk, and none of it in the page cache.

    What was written or read there in large pieces is cached in large folios, in which the kernel takes several times as
    long for a write of 4 KiB: a matter of chance from one file to the next.
    """
    with path.open("r+b") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def written_file(path: Path, length: int) -> Path:
    """A file whose extents have all been allocated and written once."""
    zeros = mmap.mmap(-1, _PIECE_BYTES)
    with path.open("r+b" if path.exists() else "wb", buffering=0) as file:
        os.posix_fallocate(file.fileno(), 0, length)
        for offset in range(0, length, _PIECE_BYTES):
            file.write(memoryview(zeros)[: length - offset])
        os.fsync(file.fileno())
    return path
