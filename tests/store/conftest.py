"""The containers that the store tests run on: one of every kind, new and empty, which gives several handles."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from jetdr_core.store import (
    BandwidthLimitedStore,
    DirectoryStore,
    MemoryStore,
    ObjectStore,
    RetryingStore,
    RetryPolicy,
)
from jetdr_core.store.azure import AzureBlobStore
from jetdr_core.store.azure_target import azure_target
from jetdr_core.store.s3 import S3Store
from jetdr_core.store.s3_target import s3_target
from tests.faults.store import Fault, FaultyStore, seeded


@pytest.fixture
def tmp_path(disk_path: Path) -> Path:
    return disk_path


class Container:
    """``open`` gives a new handle on the same container. :meth:`run` runs a scenario on one or more handles."""

    def __init__(self, opener: Callable[[], ObjectStore]) -> None:
        self.open = opener

    def run(self, scenario: Callable[..., Awaitable[None]], handles: int = 1) -> None:
        async def scene() -> None:
            stores = [self.open() for _ in range(handles)]
            try:
                await scenario(*stores)
            finally:
                for store in stores:
                    await store.close()

        asyncio.run(scene())


async def no_sleep(_seconds: float) -> None:
    await asyncio.sleep(0)


def _memory() -> Callable[[], ObjectStore]:
    name = uuid.uuid4().hex
    return lambda: MemoryStore(name)


def _faulty_but_patient() -> Callable[[], ObjectStore]:
    """About every third call fails before anything is done. Retries hide that."""
    memory = _memory()
    rates = {Fault.FAIL: 0.2, Fault.THROTTLED: 0.1, Fault.HALF_LISTING: 0.1}
    policy = RetryPolicy(attempts_max=50)
    return lambda: RetryingStore(FaultyStore(memory(), seeded(7, rates)), policy, sleep=no_sleep)


KINDS = [
    *("memory", "directory", "directory-apart", "azure", "azure-prefix", "s3-prefix"),
    *("retrying", "bandwidth", "faulty-but-patient"),
]


@pytest.fixture(params=KINDS)
def container(request: pytest.FixtureRequest, tmp_path: Path) -> Container:
    if request.param.startswith("directory"):
        apart = request.param == "directory-apart"
        return Container(lambda: DirectoryStore(tmp_path / "container", create=True, apart=apart))
    if request.param.startswith("azure"):
        azurite = request.getfixturevalue("azurite")
        url = f"az://c{uuid.uuid4().hex}" + ("/some/prefix" if "prefix" in request.param else "")
        target = azure_target(url, azurite.environment())
        return Container(lambda: AzureBlobStore(target, create=True))
    if request.param.startswith("s3"):
        server = request.getfixturevalue("s3_server")
        bucket = f"b{uuid.uuid4().hex}"
        server.put(f"/{bucket}")
        return Container(lambda: S3Store(s3_target(f"s3://{bucket}/some/prefix", server.environment())))
    memory = _memory()
    wrapped: dict[str, Callable[[], ObjectStore]] = {
        "memory": memory,
        "retrying": lambda: RetryingStore(memory()),
        "bandwidth": lambda: BandwidthLimitedStore(memory(), 1e12),
        "faulty-but-patient": _faulty_but_patient(),
    }
    return Container(wrapped[request.param])
