"""MemoryStore: objects in this process's memory, for tests, demonstrations and dry runs.

Invariants: all handles of one name see the same objects, from any thread. An object is a private copy of the bytes that
were put. Nothing survives the process.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import AsyncIterator, Sequence

from typing_extensions import Buffer

from jetdr_core.errors import InvalidRequest, ObjectExists, ObjectNotFound, StoreError
from jetdr_core.store.keys import byte_views, check_key, check_prefix, check_range, is_key, store_closed, too_short
from jetdr_core.store.protocol import ObjectInfo, ObjectRange
from jetdr_core.store.ranges import get_each

__all__ = ["MemoryStore"]


class _Container:
    """The objects of one name. ``lock`` makes put-if-absent one step."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.lock = threading.Lock()


_containers: dict[str, _Container] = {}
_containers_lock = threading.Lock()


class MemoryStore:
    """A handle on the container ``name``, or on a new one if there is no name. Containers outlive their handles."""

    def __init__(self, name: str | None = None) -> None:
        if name is not None and (not is_key(name) or "/" in name):
            raise InvalidRequest(
                f"memory store name {name!r} is not valid", hint="use letters, digits, '.', '_' or '-'"
            )
        self._name = name or uuid.uuid4().hex
        with _containers_lock:
            self._container = _containers.setdefault(self._name, _Container())
        self._closed = False

    def __repr__(self) -> str:
        return f"MemoryStore({self.url!r})"

    @property
    def url(self) -> str:
        return f"memory://{self._name}"

    async def put_if_absent(self, key: str, data: Sequence[Buffer]) -> None:
        body = self._body("put", key, data)
        with self._container.lock:
            if key in self._container.objects:
                raise ObjectExists("put", key)
            self._container.objects[key] = body

    async def replace(self, key: str, data: Sequence[Buffer]) -> None:
        body = self._body("replace", key, data)
        with self._container.lock:
            self._container.objects[key] = body

    async def get(self, key: str) -> bytes:
        self._check("get", key)
        return self._object("get", key)

    async def get_range(self, key: str, offset: int, length: int) -> bytes:
        self._check("get range", key)
        check_range(key, offset, length)
        body = self._object("get range", key)
        if offset + length > len(body):
            raise too_short(key, offset, length)
        return body[offset : offset + length]

    async def get_ranges(self, ranges: Sequence[ObjectRange]) -> list[bytes | StoreError]:
        return await get_each(self.get_range, ranges)

    async def list_prefix(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        check_prefix(prefix)
        self._check_open("list", prefix)
        with self._container.lock:
            rows = sorted((key, len(body)) for key, body in self._container.objects.items() if key.startswith(prefix))
        for key, size in rows:
            yield ObjectInfo(key, size)

    async def delete(self, key: str) -> None:
        self._check("delete", key)
        with self._container.lock:
            self._container.objects.pop(key, None)

    async def close(self) -> None:
        self._closed = True

    def _body(self, operation: str, key: str, data: Sequence[Buffer]) -> bytes:
        self._check(operation, key)
        return b"".join(byte_views(data))

    def _object(self, operation: str, key: str) -> bytes:
        try:
            return self._container.objects[key]
        except KeyError:
            raise ObjectNotFound(operation, key) from None

    def _check(self, operation: str, key: str) -> None:
        check_key(key)
        self._check_open(operation, key)

    def _check_open(self, operation: str, key: str) -> None:
        if self._closed:
            raise store_closed(operation, key)
