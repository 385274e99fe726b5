"""Objects that a store lists and does not give: one object is missing, denied, archived or unreadable, for good."""

from __future__ import annotations

from collections.abc import Callable

from jetdr_core.errors import ObjectNotFound, ObjectUnavailable, StoreAccessDenied, StoreError
from jetdr_core.store import ObjectStore, StoreWrapper

WITHHELD: dict[str, Callable[[str], ObjectUnavailable]] = {
    "missing": lambda key: ObjectNotFound("get range", key),
    "denied": lambda key: ObjectUnavailable("get range", key, "Permission denied", hint="check owner and mode"),
    "archived": lambda key: ObjectUnavailable("get range", key, "the object is in the archive tier", hint="rehydrate"),
    "unreadable": lambda key: ObjectUnavailable("get range", key, "Input/output error"),
}
"""By name: what getting an object raises."""


def access_denied(key: str) -> StoreError:
    """What getting an object raises if the whole container is denied."""
    return StoreAccessDenied("get range", key, "HTTP 403")


class Withholding(StoreWrapper):
    """``inner``, but getting the object ``key`` raises ``why(key)``, after the first ``reads`` times."""

    def __init__(self, inner: ObjectStore, key: str, why: Callable[[str], StoreError], *, reads: int = 0) -> None:
        super().__init__(inner)
        self._key = key
        self._why = why
        self._reads_left = reads

    async def get(self, key: str) -> bytes:
        self._look(key)
        return await super().get(key)

    async def get_range(self, key: str, offset: int, length: int) -> bytes:
        self._look(key)
        return await super().get_range(key, offset, length)

    def _look(self, key: str) -> None:
        if key != self._key:
            return
        self._reads_left -= 1
        if self._reads_left < 0:
            raise self._why(key)
