"""CuttingProxy: a TCP proxy before a real peer, which cuts or freezes connections at a moment that a test chooses.

The proxy does not interpret what it carries. It belongs to the event loop it was started in.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

_PIECE_BYTES = 64 << 10


class CuttingProxy:
    """Forwards connections on ``port`` to ``port_peer`` on the loopback, and counts what passes.

    ``freeze``: nothing passes in either direction, and connections stay open. ``cut``: every connection is reset.
    ``lose_answers(n, after_bytes)``: n times, after that many bytes of answers, the next bytes are dropped and their
    connection is reset. ``cut_uploads(n, after_bytes)``: the same for what callers send.
    """

    def __init__(self, port_peer: int) -> None:
        self.port = 0
        self.bytes_up = 0
        self.bytes_down = 0
        self.answers_lost = 0
        self.uploads_cut = 0
        self._port_peer = port_peer
        self._open = asyncio.Event()
        self._open.set()
        self._answers_to_lose = 0
        self._answer_bytes = 0
        self._answer_bytes_passed = 0
        self._uploads_to_cut = 0
        self._upload_bytes = 0
        self._upload_bytes_passed = 0
        self._lines: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def freeze(self) -> None:
        self._open.clear()

    def thaw(self) -> None:
        self._open.set()

    def cut(self) -> None:
        for line in self._lines:
            line.transport.abort()

    def lose_answers(self, count: int, after_bytes: int = 0) -> None:
        self._answers_to_lose, self._answer_bytes, self._answer_bytes_passed = count, after_bytes, 0

    def cut_uploads(self, count: int, after_bytes: int) -> None:
        self._uploads_to_cut, self._upload_bytes, self._upload_bytes_passed = count, after_bytes, 0

    async def serve(self, caller_in: asyncio.StreamReader, caller_out: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(OSError):
            peer_in, peer_out = await asyncio.open_connection("127.0.0.1", self._port_peer)
            both = {caller_out, peer_out}
            self._lines |= both
            try:
                async with asyncio.TaskGroup() as flows:
                    flows.create_task(self._up(caller_in, peer_out, both))
                    flows.create_task(self._down(peer_in, caller_out, both))
            finally:
                self._lines -= both
                await _close(both)

    async def _up(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, both: set[asyncio.StreamWriter]
    ) -> None:
        while piece := await _read(source):
            await self._open.wait()
            self.bytes_up += len(piece)
            self._upload_bytes_passed += len(piece)
            if self._uploads_to_cut and self._upload_bytes_passed > self._upload_bytes:
                self._uploads_to_cut -= 1
                self._upload_bytes_passed = 0
                self.uploads_cut += 1
                _reset(both)
                return
            await _write(target, piece)
        _reset(both)

    async def _down(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, both: set[asyncio.StreamWriter]
    ) -> None:
        while piece := await _read(source):
            await self._open.wait()
            self.bytes_down += len(piece)
            self._answer_bytes_passed += len(piece)
            if self._answers_to_lose and self._answer_bytes_passed > self._answer_bytes:
                self._answers_to_lose -= 1
                self._answer_bytes_passed = 0
                self.answers_lost += 1
                _reset(both)
                return
            await _write(target, piece)
        _reset(both)

    async def finish(self) -> None:
        """End every connection, also one that is still being made."""
        while self._tasks:
            self.cut()
            self.thaw()
            await asyncio.wait(self._tasks, timeout=0.05)


@contextlib.asynccontextmanager
async def cutting_proxy(port_peer: int) -> AsyncIterator[CuttingProxy]:
    proxy = CuttingProxy(port_peer)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.finish()
        await server.wait_closed()


async def _read(source: asyncio.StreamReader) -> bytes:
    with contextlib.suppress(OSError):
        return await source.read(_PIECE_BYTES)
    return b""


async def _write(target: asyncio.StreamWriter, piece: bytes) -> None:
    with contextlib.suppress(OSError):
        target.write(piece)
        await target.drain()


def _reset(lines: set[asyncio.StreamWriter]) -> None:
    for line in lines:
        line.transport.abort()


async def _close(lines: set[asyncio.StreamWriter]) -> None:
    for line in lines:
        line.close()
        with contextlib.suppress(OSError):
            await line.wait_closed()
