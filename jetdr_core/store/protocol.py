"""ObjectStore: the container a protected domain lives in. One conformance suite holds for all implementations.

Keys are relative, ``/``-separated, of parts that match ``[A-Za-z0-9][A-Za-z0-9._-]*``; anything else is an
:class:`InvalidRequest`, so a key cannot leave its container.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple, Protocol

from typing_extensions import Buffer


class ObjectInfo(NamedTuple):
    """One row of a listing."""

    key: str
    size_bytes: int


class ObjectStore(Protocol):
    """Immutable objects under keys. Usable from one event loop.

    Every failure is a :class:`StoreError` whose ``transient`` is set. ``data`` is a sequence of buffers, written one
    after the other; the caller may not change them until the call returns.
    """

    @property
    def url(self) -> str:
        """Where the store is, without credentials."""

    async def put_if_absent(self, key: str, data: Sequence[Buffer]) -> None:
        """Create the object, whole and durable at return, or raise :class:`ObjectExists`, touching nothing.

        Of several concurrent callers exactly one succeeds. After a transient error the object may exist all the same.
        """

    async def replace(self, key: str, data: Sequence[Buffer]) -> None:
        """Create or replace the object, whole: a reader sees the old bytes or the new, never a mixture."""

    async def get(self, key: str) -> bytes:
        """All bytes of the object, or :class:`ObjectNotFound`."""

    async def get_range(self, key: str, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes from ``offset``.

        An object that ends earlier is a non-transient :class:`StoreError`.
        """

    def list_prefix(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """Objects whose key begins with ``prefix`` (any string that begins a key), in key order.

        Sees every object whose put had returned.
        """

    async def delete(self, key: str) -> None:
        """Remove the object; one that does not exist is not an error."""

    async def close(self) -> None:
        """Release connections; twice is harmless."""
