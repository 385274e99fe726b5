"""PatientTransport: the HTTP transport under the Azure SDK, which limits how long a request stands still.

A limit on its duration would have to fit the largest object on the slowest line. So a request fails if for
``stall_limit_s`` no piece of its body was taken, or no byte of the answer arrived. A slow line that moves is left
alone.

Invariants: an upload that was lost with a kept-alive connection is not repeated here, because retries have one place.
(aiohttp does repeat a request without a body, once, if the connection proves dead before the answer. That is
idempotent.) An answer is read whole, so the SDK's own loops around the reading of a body find nothing to do.
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
    """One connection pool. From its first request on it belongs to one event loop."""

    def __init__(self, *, stall_limit_s: float) -> None:
        super().__init__(connection_timeout=min(_CONNECT_LIMIT_S, stall_limit_s), read_timeout=stall_limit_s)
        self._stall_limit_s = stall_limit_s

    async def send(self, request: Any, *, stream: bool = False, **config: Any) -> Any:  # noqa: ARG002
        """Send. The whole answer is in memory at return, whatever ``stream`` says."""
        body = request.data
        if not isinstance(body, bytes) or not body:
            return await super().send(request, stream=False, **config)
        request.data = _Pieces(body, self._stall_limit_s)
        try:
            return await super().send(request, stream=False, **config)
        finally:
            request.data = body


class _Pieces(aiohttp.Payload):
    """``body``, written piece by piece, each within the limit.

    It counts as consumed at once, so aiohttp sends it once.
    """

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
