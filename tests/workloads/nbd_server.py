"""NbdServer: a plain NBD server over disks in this process, one export per disk, on a Unix socket.

Speaks the fixed newstyle handshake and simple replies, one thread per request. Talks to: nothing but the disks' own
methods ``read``, ``write``, ``zero``, ``flush``.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from jetdr_core.errors import JetdrError

_OPTION_MAGIC = b"IHAVEOPT"
_REPLY_MAGIC = 0x3E889045565A9
_REQUEST_MAGIC = 0x25609513
_SIMPLE_MAGIC = 0x67446698
_EXPORT_NAME, _ABORT, _INFO, _GO = 1, 2, 6, 7
_ACK, _EXPORT_INFO, _UNSUPPORTED, _UNKNOWN = 1, 3, 0x80000001, 0x80000006
_READ, _WRITE, _DISCONNECT, _FLUSH, _TRIM, _WRITE_ZEROES = 0, 1, 2, 3, 4, 6
_FUA = 1
_FLAGS = 1 | 4 | 8 | 32 | 64 | 256
_EIO, _EINVAL = 5, 22


class Served(Protocol):
    """What is served of a disk."""

    size_bytes: int

    def read(self, offset: int, length: int) -> bytes: ...
    def write(self, offset: int, data: bytes) -> int: ...
    def zero(self, offset: int, length: int, *, discard: bool = False) -> int: ...
    def flush(self) -> int: ...


class NbdServer:
    """Serves from construction to :meth:`close`; any number of connections, any number of requests in flight."""

    def __init__(self, path: Path, disks: Mapping[str, Served]) -> None:
        self._disks = disks
        self._pool = ThreadPoolExecutor(16, "nbd")
        self._lines: set[socket.socket] = set()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(16)
        self._thread = threading.Thread(target=self._accept, name="nbd-accept", daemon=True)
        self._thread.start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for line in list(self._lines):
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._pool.shutdown()

    def _accept(self) -> None:
        while True:
            try:
                line, _ = self._listener.accept()
            except OSError:
                return
            self._lines.add(line)
            threading.Thread(target=self._serve, args=(line,), name="nbd-line", daemon=True).start()

    def _serve(self, line: socket.socket) -> None:
        with line, line.makefile("rb") as source, contextlib.suppress(OSError, EOFError):
            disk = self._negotiate(line, _Reader(source.read))
            if disk is not None:
                self._transmit(line, _Reader(source.read), disk)
        self._lines.discard(line)

    def _negotiate(self, line: socket.socket, read: _Reader) -> Served | None:
        line.sendall(b"NBDMAGIC" + _OPTION_MAGIC + struct.pack(">H", 3))
        no_zeroes = read.numbers(">I")[0] & 2
        while True:
            magic, option, length = read.numbers(">8sII")
            data = read(length)
            if magic != _OPTION_MAGIC or option == _ABORT:
                return None
            if option == _EXPORT_NAME:
                disk = self._disks[data.decode()]
                line.sendall(struct.pack(">QH", disk.size_bytes, _FLAGS) + (b"" if no_zeroes else bytes(124)))
                return disk
            if option not in {_INFO, _GO}:
                line.sendall(struct.pack(">QIII", _REPLY_MAGIC, option, _UNSUPPORTED, 0))
                continue
            name = data[4 : 4 + struct.unpack_from(">I", data)[0]].decode()
            if name not in self._disks:
                line.sendall(struct.pack(">QIII", _REPLY_MAGIC, option, _UNKNOWN, 0))
                continue
            disk = self._disks[name]
            info = struct.pack(">HQH", 0, disk.size_bytes, _FLAGS)
            line.sendall(struct.pack(">QIII", _REPLY_MAGIC, option, _EXPORT_INFO, len(info)) + info)
            line.sendall(struct.pack(">QIII", _REPLY_MAGIC, option, _ACK, 0))
            if option == _GO:
                return disk

    def _transmit(self, line: socket.socket, read: _Reader, disk: Served) -> None:
        sending = threading.Lock()
        while True:
            magic, flags, kind, handle, offset, length = read.numbers(">IHHQQI")
            if magic != _REQUEST_MAGIC or kind == _DISCONNECT:
                return
            data = read(length) if kind == _WRITE else b""
            self._pool.submit(self._answer, line, sending, disk, flags, kind, handle, offset, length, data)

    def _answer(
        self,
        line: socket.socket,
        sending: threading.Lock,
        disk: Served,
        flags: int,
        kind: int,
        handle: int,
        offset: int,
        length: int,
        data: bytes,
    ) -> None:
        error, answer = 0, b""
        try:
            answer = _do(disk, flags, kind, offset, length, data)
        except JetdrError:
            error = _EIO
        except ValueError:
            error = _EINVAL
        with sending, contextlib.suppress(OSError):
            line.sendall(struct.pack(">IIQ", _SIMPLE_MAGIC, error, handle) + answer)


def _do(disk: Served, flags: int, kind: int, offset: int, length: int, data: bytes) -> bytes:
    if kind == _READ:
        return disk.read(offset, length)
    if kind == _FLUSH:
        disk.flush()
    elif kind == _WRITE:
        disk.write(offset, data)
    elif kind in {_TRIM, _WRITE_ZEROES}:
        disk.zero(offset, length, discard=kind == _TRIM)
    else:
        raise ValueError(kind)
    if flags & _FUA and kind != _READ:
        disk.flush()
    return b""


class _Reader:
    """Reads whole pieces, or raises EOFError."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read

    def __call__(self, length: int) -> bytes:
        data = self._read(length)
        if len(data) < length:
            raise EOFError
        return data

    def numbers(self, form: str) -> tuple[Any, ...]:
        return struct.unpack(form, self(struct.calcsize(form)))
