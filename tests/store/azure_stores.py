"""Azure stores on Azurite, and what tests ask of them."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from azure.storage.blob import ContainerSasPermissions, generate_container_sas

from jetdr_core.errors import StoreError
from jetdr_core.store import ObjectStore, RetryPolicy
from jetdr_core.store.azure import AzureBlobStore
from jetdr_core.store.azure_target import azure_target
from tests.peers.azurite import Azurite

PATIENT = RetryPolicy(attempts_max=20)


def new_name() -> str:
    return f"c{uuid.uuid4().hex}"


def signature(azurite: Azurite, container: str, permission: str, valid_for: timedelta) -> str:
    expiry = datetime.now(UTC) + valid_for
    allowed = ContainerSasPermissions.from_string(permission)
    return generate_container_sas(azurite.account, container, azurite.key, permission=allowed, expiry=expiry)


@asynccontextmanager
async def opened(
    environment: dict[str, str], container: str, *, create: bool = False, stall_limit_s: float = 30.0
) -> AsyncIterator[AzureBlobStore]:
    target = azure_target(f"az://{container}", environment)
    store = AzureBlobStore(target, create=create, stall_limit_s=stall_limit_s)
    try:
        yield store
    finally:
        await store.close()


async def keys(store: ObjectStore, prefix: str = "") -> list[str]:
    return [info.key async for info in store.list_prefix(prefix)]


async def failure(call: Awaitable[object]) -> StoreError:
    with pytest.raises(StoreError) as caught:
        await call
    return caught.value


def assert_tells_no_secret(error: BaseException, *texts: str) -> None:
    seen: BaseException | None = error
    while seen is not None:
        for text in texts:
            assert text not in f"{seen} {seen!r} {vars(seen)}"
        seen = seen.__cause__ or seen.__context__
