"""ControlServer: answers one request a line on a Unix socket. docs/formats/control.md.

Invariants: only root and the DRVA's own user are heard; a connection holds up nobody but itself, has bounded lines and
a limit on every wait; garbage is answered with an error, and the connection closed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from jetdr_core.drva import wire
from jetdr_core.drva.errors import DrvaBusy, DrvaUnreachable
from jetdr_core.drva.wire import LINE_BYTES_MAX, Json, Request
from jetdr_core.errors import InvalidRequest, JetdrError

__all__ = ["ControlLimits", "ControlServer"]

log = logging.getLogger(__name__)

PRIVILEGED = 0


@dataclass(frozen=True, slots=True)
class ControlLimits:
    """Waits of one connection, and how many there may be."""

    request_s: float = 30.0
    """for the next request, from its first byte to its last,"""
    answer_s: float = 60.0
    """for the command,"""
    taking_s: float = 10.0
    """and for the client to take the answer."""
    connections: int = 64


class ControlServer:
    """Serves ``answer`` at ``path``. Runs in one event loop."""

    def __init__(
        self, path: Path, answer: Callable[[Request], Awaitable[Json]], limits: ControlLimits | None = None
    ) -> None:
        self._path = path
        self._answer = answer
        self._limits = limits or ControlLimits()
        self._server: asyncio.Server | None = None
        self._conversations: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen; what an earlier DRVA left at the path is replaced."""
        with suppress(FileNotFoundError):
            self._path.unlink()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        umask = os.umask(0o177)
        try:
            listener.bind(str(self._path))
        finally:
            os.umask(umask)
        self._server = await asyncio.start_unix_server(self._accept, sock=listener, limit=LINE_BYTES_MAX)

    async def stop(self) -> None:
        """Hear nobody any more; answers under way are given up."""
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)
        for conversation in self._conversations:
            conversation.cancel()
        await asyncio.gather(*self._conversations, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conversation = asyncio.ensure_future(self._converse(reader, writer))
        self._conversations.add(conversation)
        conversation.add_done_callback(self._conversations.discard)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.set_write_buffer_limits(0)  # drained: the kernel has taken all
        try:
            self._check_peer(writer)
            while line := await self._next_line(reader):
                if not await self._answer_line(line, writer):
                    break
        except (InvalidRequest, DrvaBusy) as error:
            with suppress(ConnectionError, TimeoutError):
                await self._tell(writer, wire.error_reply(None, error))
        except (ConnectionError, TimeoutError) as error:
            log.debug("control: a client went away: %r", error)
        finally:
            writer.transport.abort()  # what it had to say was taken, or will not be

    def _check_peer(self, writer: asyncio.StreamWriter) -> None:
        if len(self._conversations) > self._limits.connections:
            raise DrvaBusy(f"{self._limits.connections} clients are connected already", hint="try again later")
        peer = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        _, uid, _ = struct.unpack("3i", peer)
        if uid not in {PRIVILEGED, os.getuid()}:
            raise InvalidRequest(f"user {uid} may not control this DRVA", hint="use its own account, or root")

    async def _next_line(self, reader: asyncio.StreamReader) -> bytes:
        """Empty at the end of the conversation."""
        try:
            line = await asyncio.wait_for(reader.readline(), self._limits.request_s)
        except ValueError:
            raise InvalidRequest(
                f"a request of over {LINE_BYTES_MAX} bytes", hint="end each request with a newline"
            ) from None
        if line and not line.endswith(b"\n"):
            raise InvalidRequest(f"a request without its end: {line[:40]!r}", hint="end each with a newline")
        return line

    async def _answer_line(self, line: bytes, writer: asyncio.StreamWriter) -> bool:
        """Answer; False when the conversation is over, because what came was no request."""
        request = None
        try:
            request = wire.decode_request(line)
            reply = wire.result_reply(request, await asyncio.wait_for(self._answer(request), self._limits.answer_s))
        except (JetdrError, OSError) as error:
            reply = wire.error_reply(request, self._late() if type(error) is TimeoutError else error)
        except Exception as error:  # a bug: told to the client and to the log, and the DRVA goes on
            log.exception("control: command failed")
            reply = wire.error_reply(request, error)
        await self._tell(writer, reply)
        return request is not None

    def _late(self) -> DrvaUnreachable:
        return DrvaUnreachable(f"the command took over {self._limits.answer_s:g} s", hint="it may still be done")

    async def _tell(self, writer: asyncio.StreamWriter, reply: Json) -> None:
        writer.write(wire.encode(reply))
        await asyncio.wait_for(writer.drain(), self._limits.taking_s)
