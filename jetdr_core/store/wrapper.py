"""StoreWrapper: passes every call on to an inner store. Each wrapper does one thing, and overrides the calls for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from typing_extensions import Buffer

from jetdr_core.errors import StoreError
from jetdr_core.store.protocol import ObjectInfo, ObjectRange, ObjectStore
from jetdr_core.store.ranges import get_each

__all__ = ["StoreWrapper"]


class StoreWrapper:
    """An :class:`ObjectStore` that does what ``inner`` does. Closing it closes ``inner``."""

    def __init__(self, inner: ObjectStore) -> None:
        self._inner = inner

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._inner!r})"

    @property
    def url(self) -> str:
        return self._inner.url

    async def put_if_absent(self, key: str, data: Sequence[Buffer]) -> None:
        await self._inner.put_if_absent(key, data)

    async def replace(self, key: str, data: Sequence[Buffer]) -> None:
        await self._inner.replace(key, data)

    async def get(self, key: str) -> bytes:
        return await self._inner.get(key)

    async def get_range(self, key: str, offset: int, length: int) -> bytes:
        return await self._inner.get_range(key, offset, length)

    async def get_ranges(self, ranges: Sequence[ObjectRange]) -> list[bytes | StoreError]:
        """Range by range, so that what a wrapper does to :meth:`get_range` happens to each of them."""
        return await get_each(self.get_range, ranges)

    def list_prefix(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        return self._inner.list_prefix(prefix)

    async def delete(self, key: str) -> None:
        await self._inner.delete(key)

    async def close(self) -> None:
        await self._inner.close()
