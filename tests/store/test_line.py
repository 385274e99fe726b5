"""What stores over a network promise on a bad line: one error for each failure, no hidden retry, nothing half there."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import pytest

from jetdr_core.errors import ObjectExists
from jetdr_core.store import ObjectStore, RetryingStore, s3
from jetdr_core.store.s3 import S3Store
from jetdr_core.store.s3_target import s3_target
from tests.faults.proxy import CuttingProxy, cutting_proxy
from tests.peers.azurite import Azurite
from tests.peers.s3_server import S3Server
from tests.store.azure_stores import PATIENT, failure, keys, new_name, opened
from tests.store.conftest import no_sleep


@dataclass
class Service:
    """A server, and how a store reaches a new container of it through a port that may be a proxy's."""

    server: Azurite | S3Server

    @property
    def port(self) -> int:
        return self.server.port

    def opened(self, port: int, stall_limit_s: float = 30.0) -> AbstractAsyncContextManager[ObjectStore]:
        if isinstance(self.server, Azurite):
            return opened(self.server.environment(port), new_name(), create=port != 1, stall_limit_s=stall_limit_s)
        return _opened_s3(self.server, port, stall_limit_s)


@asynccontextmanager
async def _opened_s3(server: S3Server, port: int, stall_limit_s: float) -> AsyncIterator[S3Store]:
    bucket = new_name()
    server.put(f"/{bucket}")
    store = S3Store(s3_target(f"s3://{bucket}", server.environment(port)), stall_limit_s=stall_limit_s)
    yield store
    await store.close()


@pytest.fixture(params=["azurite", "s3_server"])
def service(request: pytest.FixtureRequest) -> Service:
    return Service(request.getfixturevalue(request.param))


def patient(store: ObjectStore) -> RetryingStore:
    """``store`` for calls that are to succeed, although the machine may be slower than a short stall limit."""
    return RetryingStore(store, PATIENT)


def through_proxy(
    service: Service,
    scenario: Callable[[ObjectStore, CuttingProxy], Awaitable[None]],
    *,
    stall_limit_s: float = 30.0,
) -> None:
    async def scene() -> None:
        async with (
            cutting_proxy(service.port) as proxy,
            service.opened(proxy.port, stall_limit_s) as store,
        ):
            await patient(store).replace("first", [b"the connection is warm"])
            await scenario(store, proxy)

    asyncio.run(scene())


def test_nobody_listening_is_transient(service: Service) -> None:
    async def scenario() -> None:
        async with service.opened(1) as store:
            for call in (store.put_if_absent("k", [b"x"]), store.get("k"), keys(store)):
                assert (await failure(call)).transient

    asyncio.run(scenario())


def test_lost_answer_is_one_transient_error_and_no_hidden_retry(service: Service) -> None:
    async def scenario(store: ObjectStore, proxy: CuttingProxy) -> None:
        proxy.lose_answers(1)
        error = await failure(store.put_if_absent("k", [b"mine"]))
        assert error.transient
        assert not isinstance(error, ObjectExists)
        assert proxy.answers_lost == 1
        assert await store.get("k") == b"mine"

    through_proxy(service, scenario)


def test_retried_put_whose_answer_was_lost_is_there_once(service: Service) -> None:
    async def scenario(store: ObjectStore, proxy: CuttingProxy) -> None:
        retrying = RetryingStore(store, PATIENT, sleep=no_sleep)
        proxy.lose_answers(1)
        with pytest.raises(ObjectExists):
            await retrying.put_if_absent("k", [b"mine"])
        assert retrying.retries == {"put": 1}
        assert (await retrying.get("k"), await keys(store)) == (b"mine", ["first", "k"])

    through_proxy(service, scenario)


def test_upload_cut_in_the_middle_is_retried_and_never_half_there(service: Service) -> None:
    body = os.urandom(2 << 20)

    async def scenario(store: ObjectStore, proxy: CuttingProxy) -> None:
        retrying = RetryingStore(store, PATIENT, sleep=no_sleep)
        proxy.cut()
        proxy.cut_uploads(3, after_bytes=1 << 20)
        await retrying.put_if_absent("k", [body])
        assert (proxy.uploads_cut, retrying.retries["put"]) == (3, 3)
        assert await retrying.get("k") == body

    through_proxy(service, scenario)


def test_download_cut_in_the_middle_is_retried_and_never_short(service: Service) -> None:
    body = os.urandom(4 << 20)

    async def scenario(store: ObjectStore, proxy: CuttingProxy) -> None:
        await store.put_if_absent("k", [body])
        retrying = RetryingStore(store, PATIENT, sleep=no_sleep)
        proxy.lose_answers(2, after_bytes=1 << 20)
        assert await retrying.get("k") == body
        assert (proxy.answers_lost, retrying.retries["get"]) == (2, 2)
        proxy.lose_answers(1, after_bytes=1 << 20)
        assert await retrying.get_range("k", 1, 3 << 20) == body[1 : (3 << 20) + 1]
        assert retrying.retries["get range"] == 1

    through_proxy(service, scenario)


def test_chain_over_a_bad_line_is_dense_and_every_object_its_own(service: Service) -> None:
    source = random.Random(11)
    bodies = {f"chain/{number:010d}": source.randbytes(200_000) for number in range(30)}

    async def scenario(store: ObjectStore, proxy: CuttingProxy) -> None:
        retrying = RetryingStore(store, PATIENT, sleep=no_sleep)

        async def upload(key: str) -> None:
            fault = source.random()
            if fault < 0.3:
                proxy.lose_answers(1)
            elif fault < 0.6:
                proxy.cut_uploads(1, after_bytes=source.randrange(200_000))
            try:
                await retrying.put_if_absent(key, [bodies[key]])
            except ObjectExists:
                assert await retrying.get(key) == bodies[key]

        for _ in range(3):
            batch = [key for key in bodies if key not in set(await keys(retrying, "chain/"))][:10]
            await asyncio.gather(*map(upload, batch))
        assert await keys(retrying, "chain/") == sorted(bodies)
        assert [await retrying.get(key) for key in bodies] == list(bodies.values())
        assert proxy.answers_lost > 0
        assert proxy.uploads_cut > 0

    through_proxy(service, scenario)


def test_frozen_line_is_a_transient_error_within_the_stall_limit(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "SLOWEST_BYTES_PER_S", 1 << 30)

    async def scenario(store: ObjectStore, proxy: CuttingProxy) -> None:
        await patient(store).replace("k", [bytes(1 << 20)])
        began = time.monotonic()
        proxy.freeze()
        large = [bytes(64 << 20)]  # more than sockets buffer: the upload itself stands still
        for call in (store.put_if_absent("l", large), store.put_if_absent("m", [b"x"]), store.get("k")):
            assert (await failure(call)).transient
        assert time.monotonic() - began < 10
        proxy.cut()
        proxy.thaw()
        assert await patient(store).get("k") == bytes(1 << 20)

    through_proxy(service, scenario, stall_limit_s=0.3)
