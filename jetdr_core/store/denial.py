"""A denied read: of one object, or of everything in the container. The answer alone does not tell."""

from __future__ import annotations

from jetdr_core.errors import ObjectUnavailable, StoreAccessDenied, StoreError
from jetdr_core.store.protocol import ObjectStore

__all__ = ["denial_of"]


async def denial_of(store: ObjectStore, error: StoreAccessDenied, hint: str) -> StoreError:
    """Return the error of a denied request. It is one of the object alone, with ``hint``, if ``store`` can be listed.

    Only for reads one more request is made.
    """
    if not error.operation.startswith("get"):
        return error
    try:
        async for _ in store.list_prefix(error.key):
            break
    except StoreError:
        return error
    return ObjectUnavailable(error.operation, error.key, error.cause, hint=hint)
