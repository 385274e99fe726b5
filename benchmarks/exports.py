"""The unprotected NBD exports of the comparison: nbdkit's file plugin, our plugin, QEMU's blklogwrites.

Invariant: every export serves one disk, and every primary is a file of the same size in the same folder, written once
before it is measured.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import jetdr_core
from benchmarks.file_state import written_file
from benchmarks.fio import program
from benchmarks.measure import PeerMissing
from benchmarks.process import Server

__all__ = ["Export", "Place", "blklogwrites", "nbdkit_file", "plugin"]

DISK = "disk"


class Place:
    """Where exports keep their files: primaries and logs in ``work``, sockets and rings in ``runtime``, in memory."""

    def __init__(self, work: Path, runtime: Path, disk_bytes: int) -> None:
        self.work, self.runtime, self.disk_bytes = work, runtime, disk_bytes

    def primary(self, name: str) -> Path:
        return written_file(self.work / f"{name}.img", self.disk_bytes)


class Export(ABC):
    """One contestant. Each of its turns calls ``begin``, then writes, then ``settle``."""

    name: str
    uri: str
    primary: Path

    @property
    @abstractmethod
    def pids(self) -> list[int]:
        """Every process that works for this export, without the client's."""

    @abstractmethod
    def end(self) -> None:
        """Stop the servers."""

    def begin(self) -> None:
        """Prepare for a turn. Most exports need not."""
        return

    def settle(self) -> None:
        """Wait until the export has done all work that the turn's writes cause. Most do it before they answer."""
        return

    def check(self) -> None:
        """Compare with the primary what else the export has kept. Most keep nothing."""
        return


class _Served(Export):
    """One server process at a Unix socket."""

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
    """Start nbdkit with its own file plugin."""
    socket, primary = place.runtime / "file.sock", place.primary("file")
    command = [program("nbdkit"), "-f", "--unix", str(socket), "file", str(primary)]
    return _Served("nbdkit file", place, command, socket, "", primary)


def plugin_path() -> Path:
    """Return the path of our nbdkit plugin. PeerMissing if it is not built."""
    path = Path(jetdr_core.__file__).parent / "nbdkit-jetdr-plugin.so"
    if not path.exists():
        raise PeerMissing(f"{path.name} is not built")
    return path


def plugin(place: Place) -> Export:
    """Start nbdkit with our plugin without a ring: the same code on the guest's path, and no replication."""
    socket, primary = place.runtime / "plugin.sock", place.primary("plugin")
    disk = f"disk=1:{DISK}:{place.disk_bytes}:{primary}"
    command = [program("nbdkit"), "-f", "--unix", str(socket), str(plugin_path()), disk]
    return _Served("unprotected", place, command, socket, DISK, primary)


class _BlkLogWrites(_Served):
    """QEMU's blklogwrites over a file, with its log in another file. It restarts each turn, so its log stays short."""

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
    """Start QEMU with a log of writes in the format of dm-log-writes."""
    return _BlkLogWrites(place)
