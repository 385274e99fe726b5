"""ControlServer: answers requests on a Unix socket, one per line. docs/formats/control.md.

Invariants: only root and the DRVA's own user are answered. A connection holds up no other one: its lines are bounded
and every wait has a limit. Garbage is answered with an error, and its connection is closed.
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
from jetdr_core.drva.wire import LINE_BYTES_MAX, ControlRequest, Json
from jetdr_core.errors import InvalidRequest, JetdrError
from jetdr_core.unix_socket import UnixListener

__all__ = ["ControlLimits", "ControlServer"]

log = logging.getLogger(__name__)

PRIVILEGED = 0


@dataclass(frozen=True, slots=True)
class ControlLimits:
    """The limits of one connection, and of their number."""

    request_s: float = 30.0
    """The wait for the end of the next request."""
    answer_s: float = 60.0
    """The time that a command may take."""
    taking_s: float = 10.0
    """The wait for the client to take the answer."""
    connections: int = 64


class ControlServer:
    """Serves ``answer`` at ``path``, in one event loop."""

    def __init__(
        self, path: Path, answer: Callable[[ControlRequest], Awaitable[Json]], limits: ControlLimits | None = None
    ) -> None:
        self._path = path
        self._answer = answer
        self._limits = limits or ControlLimits()
        self._listener: UnixListener | None = None
        self._server: asyncio.Server | None = None
        self._conversations: set[asyncio.Task[None]] = set()
        self._problem = ""  # why a socket that was removed could not be made again

    async def start(self) -> None:
        """Listen. A socket that an earlier DRVA left at the path is replaced, and nothing else."""
        self._listener = UnixListener("control_socket", self._path)
        self._server = await asyncio.start_unix_server(self._accept, sock=self._listener.socket, limit=LINE_BYTES_MAX)

    async def keep(self) -> None:
        """Listen anew if the socket has lost its name, as to a cleaner of /run. Connections that are open stay."""
        before = self._server
        try:
            if self._listener is None or self._listener.is_named:
                return
            await self.start()
        except (JetdrError, OSError) as error:
            if str(error) != self._problem:
                log.error("control: the socket %s was removed, and cannot be made again: %s", self._path, error)
            self._problem = str(error)
            return
        self._problem = ""
        log.warning("control: the socket %s was removed, and is made again", self._path)
        if before is not None:
            before.close()

    async def stop(self) -> None:
        """Stop listening, and close all connections. Answers in flight are dropped."""
        if self._listener is not None:
            self._listener.remove_name()
        if self._server is not None:
            self._server.close()
        for conversation in self._conversations:
            conversation.cancel()
        await asyncio.gather(*self._conversations, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conversation = asyncio.ensure_future(self._converse(reader, writer))
        self._conversations.add(conversation)
        conversation.add_done_callback(self._conversations.discard)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.set_write_buffer_limits(0)  # drain() returns once the kernel has taken everything
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
            writer.transport.abort()  # the kernel has the answer, or the client will not take it

    def _check_peer(self, writer: asyncio.StreamWriter) -> None:
        if len(self._conversations) > self._limits.connections:
            raise DrvaBusy(f"{self._limits.connections} clients are connected already", hint="try again later")
        peer = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        _, uid, _ = struct.unpack("3i", peer)
        if uid not in {PRIVILEGED, os.getuid()}:
            raise InvalidRequest(f"user {uid} may not control this DRVA", hint="use the DRVA's account, or root")

    async def _next_line(self, reader: asyncio.StreamReader) -> bytes:
        """Return the next line, or nothing at the end of the connection."""
        try:
            line = await asyncio.wait_for(reader.readline(), self._limits.request_s)
        except ValueError:
            raise InvalidRequest(
                f"a request has more than {LINE_BYTES_MAX} bytes", hint="end each request with a newline"
            ) from None
        if line and not line.endswith(b"\n"):
            raise InvalidRequest(f"a request has no end: {line[:40]!r}", hint="end each request with a newline")
        return line

    async def _answer_line(self, line: bytes, writer: asyncio.StreamWriter) -> bool:
        """Answer the line. Return False if it was no request, so that the connection is to be closed."""
        request = None
        try:
            request = wire.decode_request(line)
            reply = wire.result_reply(request, await asyncio.wait_for(self._answer(request), self._limits.answer_s))
        except (JetdrError, OSError) as error:
            reply = wire.error_reply(request, self._late() if type(error) is TimeoutError else error)
        except Exception as error:  # a bug: the client and the log hear of it, and the DRVA goes on
            log.exception("control: command failed")
            reply = wire.error_reply(request, error)
        await self._tell(writer, reply)
        return request is not None

    def _late(self) -> DrvaUnreachable:
        return DrvaUnreachable(f"the command took more than {self._limits.answer_s:g} s", hint="it may still succeed")

    async def _tell(self, writer: asyncio.StreamWriter, reply: Json) -> None:
        writer.write(wire.encode(reply))
        await asyncio.wait_for(writer.drain(), self._limits.taking_s)
