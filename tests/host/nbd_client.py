"""A plain NBD client: one request at a time, any offset and length, and the error number that comes back.

Simple replies only; https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md.
"""

from __future__ import annotations

import os
import struct
from types import TracebackType
from typing import Self

from jetdr_core.unix_socket import connect_unix

READ, WRITE, FLUSH, TRIM, CACHE, ZERO = 0, 1, 3, 4, 5, 6
FUA, NO_HOLE, FAST_ZERO = 1, 2, 16

_OPTION_MAGIC = b"IHAVEOPT"
_EXPORT_NAME = 1
_CLIENT_FLAGS = 3  # fixed newstyle, no zeroes


class NbdClient:
    """Connected to export ``name`` at the Unix socket ``path``. Errors are ``OSError`` with the wire's number."""

    def __init__(self, path: str, name: str) -> None:
        self._socket = connect_unix(path, 30)
        self._handle = 0
        try:
            self._receive(18)
            self._socket.sendall(struct.pack(">I", _CLIENT_FLAGS))
            self._socket.sendall(_OPTION_MAGIC + struct.pack(">II", _EXPORT_NAME, len(name)) + name.encode())
            self.size_bytes, self.flags = struct.unpack(">QH", self._receive(10))
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._socket.close()

    def read(self, offset: int, length: int) -> bytes:
        self.request(READ, offset, length)
        return self._receive(length)

    def write(self, offset: int, data: bytes, flags: int = 0) -> None:
        self.request(WRITE, offset, len(data), flags, data)

    def flush(self) -> None:
        self.request(FLUSH, 0, 0)

    def zero(self, offset: int, length: int, flags: int = 0) -> None:
        self.request(ZERO, offset, length, flags)

    def trim(self, offset: int, length: int) -> None:
        self.request(TRIM, offset, length)

    def cache(self, offset: int, length: int) -> None:
        self.request(CACHE, offset, length)

    def request(self, command: int, offset: int, length: int, flags: int = 0, data: bytes = b"") -> None:
        self._handle += 1
        self._socket.sendall(struct.pack(">IHHQQI", 0x25609513, flags, command, self._handle, offset, length) + data)
        magic, error, handle = struct.unpack(">IIQ", self._receive(16))
        assert (magic, handle) == (0x67446698, self._handle)
        if error:
            raise OSError(error, os.strerror(error))

    def _receive(self, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            piece = self._socket.recv(length - len(data))
            if not piece:
                raise ConnectionError("the server closed the connection")
            data += piece
        return bytes(data)
