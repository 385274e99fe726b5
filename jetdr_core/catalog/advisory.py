"""Advisory objects: heartbeats and summaries. They may be replaced while they are read, and nothing depends on them.

Invariant: an advisory object that is missing, too long, unreadable or odd costs a warning and nothing else. It is not
read if it is longer than one of its kind can be.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from jetdr_core.errors import DamagedObject, ObjectNotFound, StoreError, UnsupportedVersion
from jetdr_core.store import ObjectStore

log = logging.getLogger(__name__)
T = TypeVar("T")


async def read_advisory(
    store: ObjectStore, key: str, decode: Callable[[bytes], T], bytes_max: int, *, size_bytes: int | None = None
) -> T | None:
    """What ``decode`` makes of the object, or None with a warning. None without a warning if there is none.

    ``size_bytes`` is its size in a listing. By default the object is listed first.
    """
    try:
        size = await _size(store, key) if size_bytes is None else size_bytes
        if not 0 < size <= bytes_max:
            raise DamagedObject(key, "object", f"{size} bytes cannot be; at most {bytes_max} can")
        return decode(await store.get_range(key, 0, size))
    except ObjectNotFound:
        return None
    except (DamagedObject, UnsupportedVersion, StoreError) as error:
        log.warning("%s is ignored: %s", key, error)
        return None


async def _size(store: ObjectStore, key: str) -> int:
    async for info in store.list_prefix(key):
        if info.key == key:
            return info.size_bytes
        break
    raise ObjectNotFound("get", key)
