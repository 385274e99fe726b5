"""PatientTransport: the HTTP transport under the Azure SDK, with limits on standing still instead of on duration.

Invariants: a request ends, with an error, when for ``stall_limit_s`` no piece of its body is taken or no byte of the
answer arrives, however large the object; a slow line that moves is left alone. An upload that a kept-alive connection
lost is not sent again behind our back: retries have one place. (Requests without a body aiohttp repeats once when a
kept-alive connection proves dead before the answer; that is harmless.) An answer is read whole, so that the SDK's own
loops around the reading of a body find nothing to do.
"""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from azure.core.pipeline.transport import AioHttpTransport

__all__ = ["PatientTransport"]

_PIECE_BYTES = 256 << 10
_CONNECT_LIMIT_S = 10.0


class PatientTransport(AioHttpTransport):  # type: ignore[misc]  # azure-core gives it without a type
    """One connection pool; belongs to one event loop from its first request on."""

    def __init__(self, *, stall_limit_s: float) -> None:
        super().__init__(connection_timeout=min(_CONNECT_LIMIT_S, stall_limit_s), read_timeout=stall_limit_s)
        self._stall_limit_s = stall_limit_s

    async def send(self, request: Any, *, stream: bool = False, **config: Any) -> Any:  # noqa: ARG002
        """Send; ``stream`` is not heeded: the answer's body is in memory at return."""
        body = request.data
        if not isinstance(body, bytes) or not body:
            return await super().send(request, stream=False, **config)
        request.data = _Pieces(body, self._stall_limit_s)
        try:
            return await super().send(request, stream=False, **config)
        finally:
            request.data = body


class _Pieces(aiohttp.Payload):
    """``body``, written piece by piece, each within the limit; ``consumed`` at once, so aiohttp tries it only once."""

    def __init__(self, body: bytes, stall_limit_s: float) -> None:
        super().__init__(body)
        self._size = len(body)
        self._body = memoryview(body)
        self._stall_limit_s = stall_limit_s

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return bytes(self._body).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        self._consumed = True
        for start in range(0, len(self._body), _PIECE_BYTES):
            async with asyncio.timeout(self._stall_limit_s):
                await writer.write(self._body[start : start + _PIECE_BYTES])

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        if content_length is not None and content_length != self._size:
            raise ValueError(f"a body of {self._size} bytes under a Content-Length of {content_length}")
        await self.write(writer)
