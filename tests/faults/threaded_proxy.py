"""A cutting proxy for callers that block. It runs in threads of its own, and other threads may call its methods."""

from __future__ import annotations

import contextlib
import random
import select
import socket
import threading
from collections.abc import Iterator

_PIECE_BYTES = 64 << 10


class ThreadedProxy:
    """Forwards connections on ``port`` to ``port_peer`` on the loopback.

    ``freeze``: nothing passes until ``thaw``, and connections stay open. ``let_new_ones_pass``: existing connections
    stay frozen, new ones are not. ``cut``: every connection is reset. ``cut_uploads``: the connection on which that
    many bytes have passed to the peer is reset. ``garble``: about one byte in fifty of the peer's, from ``first_byte``
    on, is changed.
    """

    def __init__(self, port_peer: int) -> None:
        self._port_peer = port_peer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open = threading.Event()
        self._open.set()
        self._lines: set[socket.socket] = set()
        self._upload_bytes_left: int | None = None
        self._garbling: random.Random | None = None
        self._sound_bytes_left = 0
        self._ending = False
        self._threads: list[threading.Thread] = []
        self._begin(self._accept)

    def freeze(self) -> None:
        self._open.clear()

    def let_new_ones_pass(self) -> None:
        self._frozen, self._open = self._open, threading.Event()
        self._open.set()

    def thaw(self) -> None:
        self._open.set()
        with contextlib.suppress(AttributeError):
            self._frozen.set()

    def cut(self) -> None:
        for line in list(self._lines):
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)

    def cut_uploads(self, after_bytes: int) -> None:
        self._upload_bytes_left = after_bytes

    def garble(self, seed: int, first_byte: int) -> None:
        self._garbling = random.Random(seed)
        self._sound_bytes_left = first_byte

    def end(self) -> None:
        self._ending = True
        self.thaw()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join()

    # -- parts -----------------------------------------------------------------------------------------------------

    def _begin(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._ending:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return
            try:
                peer = socket.create_connection(("127.0.0.1", self._port_peer))
            except OSError:
                caller.close()
                continue
            self._begin(self._serve, caller, peer, self._open)

    def _serve(self, caller: socket.socket, peer: socket.socket, opened: threading.Event) -> None:
        self._lines |= {caller, peer}
        with caller, peer, contextlib.suppress(OSError):
            while True:
                for source in select.select([caller, peer], [], [])[0]:
                    piece = source.recv(_PIECE_BYTES)
                    opened.wait()
                    if not piece or (source is caller and self._is_cut(len(piece))):
                        return
                    (peer if source is caller else caller).sendall(piece if source is caller else self._garbled(piece))

    def _garbled(self, piece: bytes) -> bytes:
        if self._garbling is None:
            return piece
        changed = bytearray(piece)
        for at in range(self._sound_bytes_left, len(piece)):
            if self._garbling.random() < 0.02:
                changed[at] = self._garbling.randrange(256)
        self._sound_bytes_left = max(0, self._sound_bytes_left - len(piece))
        return bytes(changed)

    def _is_cut(self, length: int) -> bool:
        if self._upload_bytes_left is None:
            return False
        self._upload_bytes_left -= length
        if self._upload_bytes_left > 0:
            return False
        self._upload_bytes_left = None
        return True


@contextlib.contextmanager
def threaded_proxy(port_peer: int) -> Iterator[ThreadedProxy]:
    proxy = ThreadedProxy(port_peer)
    try:
        yield proxy
    finally:
        proxy.end()
