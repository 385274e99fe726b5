"""ObjectStore: the container that a protected domain lives in. All implementations pass one conformance suite.

A key is one or more parts joined by ``/``, each of which matches ``[A-Za-z0-9][A-Za-z0-9._-]*``. Anything else is an
:class:`InvalidRequest`, so no key leads out of its container.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple, Protocol

from typing_extensions import Buffer

from jetdr_core.errors import StoreError


class ObjectInfo(NamedTuple):
    """One row of a listing."""

    key: str
    size_bytes: int


class ObjectRange(NamedTuple):
    """``length`` bytes from ``offset`` of the object ``key``."""

    key: str
    offset: int
    length: int


class ObjectStore(Protocol):
    """Immutable objects under keys. Used from one event loop.

    Every failure is a :class:`StoreError` that says whether it is transient. A lasting failure to get one object, while
    the container can be listed, is an :class:`ObjectUnavailable` that says why: the object is missing, shorter, in an
    archive tier, or it alone is denied or unreadable. What is denied for all objects, listings included, is a
    :class:`StoreAccessDenied`. ``data`` is a sequence of buffers, written
    one after the other. The caller leaves them unchanged until the call returns.
    """

    @property
    def url(self) -> str:
        """Return where the store is, without credentials."""

    async def put_if_absent(self, key: str, data: Sequence[Buffer]) -> None:
        """Create the object, whole and durable at return, or raise :class:`ObjectExists` with nothing changed.

        Of several concurrent callers exactly one succeeds. After a transient error the object may exist nevertheless.
        """

    async def replace(self, key: str, data: Sequence[Buffer]) -> None:
        """Create or replace the object. A reader sees the old bytes or the new ones, never a mixture."""

    async def get(self, key: str) -> bytes:
        """Return all bytes of the object, or raise :class:`ObjectNotFound`."""

    async def get_range(self, key: str, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes from ``offset``.

        Raises :class:`ObjectUnavailable` if the object ends earlier.
        """

    async def get_ranges(self, ranges: Sequence[ObjectRange]) -> list[bytes | StoreError]:
        """Return for each range what :meth:`get_range` returns or raises, in the order of ``ranges``.

        For many small ranges this costs far less than as many calls. All results are in memory together.
        """

    def list_prefix(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """List the objects whose key begins with ``prefix`` (any string that begins a key), in key order.

        The list has every object whose put had returned before the call.
        """

    async def delete(self, key: str) -> None:
        """Remove the object. Idempotent."""

    async def close(self) -> None:
        """Release all connections. Idempotent."""
