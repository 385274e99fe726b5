"""What the Azure store promises beyond every store: it understands answers, and survives a bad line."""

from __future__ import annotations

import asyncio
import base64
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from jetdr_core.errors import ObjectExists, ObjectNotFound, ObjectUnavailable, StoreAccessDenied, StoreError, StoreLost
from jetdr_core.store import ObjectInfo, RetryingStore, azure
from jetdr_core.store.azure import AzureBlobStore
from tests.faults.proxy import CuttingProxy, cutting_proxy
from tests.peers.azurite import Azurite
from tests.store.azure_stores import PATIENT, assert_tells_no_secret, failure, keys, new_name, opened
from tests.store.conftest import no_sleep

# -- the service's answers ---------------------------------------------------------------------------------------------


def test_missing_container_is_named_with_the_remedy(azurite: Azurite) -> None:
    container = new_name()

    async def scenario() -> None:
        async with opened(azurite.environment(), container) as store:
            for call in (store.put_if_absent("k", [b"x"]), store.get("k"), store.get_range("k", 0, 0), keys(store)):
                error = await failure(call)
                assert f"container '{container}' does not exist; check account and container, or" in str(error)
                assert not error.transient
                assert not isinstance(error, ObjectNotFound)

    asyncio.run(scenario())


def test_a_container_that_is_deleted_under_a_store_is_a_loss(azurite: Azurite) -> None:
    container = new_name()

    async def scenario() -> None:
        async with opened(azurite.environment(), container, create=True) as store:
            await store.put_if_absent("k", [b"x"])
            await store._container.delete_container()
            for call in (store.put_if_absent("n", [b"x"]), store.get("k"), store.get_range("k", 0, 1), keys(store)):
                error = await failure(call)
                assert isinstance(error, StoreLost)
                assert f"container '{container}' is gone; the log is kept from now on" in str(error)
                assert not error.transient
        async with opened(azurite.environment(), container) as store:  # it never had one, so it lost none
            assert "does not exist; check account and container" in str(await failure(store.get("k")))

    asyncio.run(scenario())


def test_two_stores_may_create_the_container_at_once(azurite: Azurite) -> None:
    container = new_name()

    async def scenario() -> None:
        async with (
            opened(azurite.environment(), container, create=True) as store,
            opened(azurite.environment(), container, create=True) as other,
        ):
            await asyncio.gather(*[place.put_if_absent(f"k/{place is store}", [b"x"]) for place in (store, other)])
            assert await keys(store) == ["k/False", "k/True"]

    asyncio.run(scenario())


def test_listing_goes_on_over_many_pages(azurite: Azurite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(azure, "_PAGE_ROWS", 7)

    async def scenario() -> None:
        async with opened(azurite.environment(), new_name(), create=True) as store:
            names = [f"k/{number:03d}" for number in range(30)]
            await asyncio.gather(*[store.put_if_absent(name, [bytes(int(name[2:]))]) for name in names])
            rows = [info async for info in store.list_prefix("k/")]
            assert rows == [ObjectInfo(name, int(name[2:])) for name in names]

    asyncio.run(scenario())


def test_foreign_blobs_are_left_alone(azurite: Azurite) -> None:
    container = new_name()

    async def scenario() -> None:
        async with opened(azurite.environment(), container, create=True) as store:
            await store.put_if_absent("k", [b"x"])
            for name in ("a b", ".hidden", "ä"):
                await store._container.get_blob_client(name).upload_blob(b"not ours")
            assert await keys(store) == ["k"]

    asyncio.run(scenario())


@asynccontextmanager
async def answering(status: int, code: str, *headers: str) -> AsyncIterator[dict[str, str]]:
    """Settings of a service that gives one answer to everything."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        await reader.readexactly(int(length or 0))
        writer.write(f"HTTP/1.1 {status} Said\r\nx-ms-error-code: {code}\r\nx-ms-request-id: r17\r\n".encode())
        writer.write("".join(f"{header}\r\n" for header in headers).encode())
        writer.write(b"Content-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        yield Azurite(port, base64.b64encode(b"key").decode()).environment()


KINDS = (StoreLost, ObjectExists, ObjectNotFound, ObjectUnavailable, StoreAccessDenied, StoreError)


@pytest.mark.parametrize(
    ("status", "code", "operation", "kind", "transient"),
    [
        (409, "BlobAlreadyExists", "put", ObjectExists, False),
        (412, "ConditionNotMet", "put", ObjectExists, False),
        (412, "LeaseIdMissing", "put", ObjectExists, False),
        (403, "UnauthorizedBlobOverwrite", "put", ObjectExists, False),
        (409, "ContainerBeingDeleted", "put", StoreError, True),
        (409, "BlobImmutableDueToPolicy", "replace", StoreError, False),
        (409, "BlobArchived", "get", ObjectUnavailable, False),
        (404, "BlobNotFound", "get", ObjectNotFound, False),
        (404, "ContainerNotFound", "get", StoreError, False),
        (404, "ResourceNotFound", "put", StoreError, False),
        (401, "NoAuthenticationInformation", "get", StoreAccessDenied, False),
        (403, "AuthorizationPermissionMismatch", "put", StoreAccessDenied, False),
        (416, "InvalidRange", "get range", ObjectUnavailable, False),
        (400, "InvalidHeaderValue", "put", StoreError, False),
        (302, "", "get", StoreError, False),
        (307, "", "put", StoreError, False),
        (408, "", "put", StoreError, True),
        (429, "", "get", StoreError, True),
        (500, "InternalError", "put", StoreError, True),
        (500, "OperationTimedOut", "get", StoreError, True),
        (502, "", "put", StoreError, True),
        (503, "ServerBusy", "put", StoreError, True),
        (503, "ServerBusy", "get range", StoreError, True),
        (504, "", "delete", StoreError, True),
    ],
)
def test_answer_means_one_error(status: int, code: str, operation: str, kind: type, transient: bool) -> None:
    async def scenario() -> None:
        async with answering(status, code) as settings, opened(settings, "container") as store:
            calls: dict[str, Callable[[], Awaitable[object]]] = {
                "put": lambda: store.put_if_absent("k", [b"x"]),
                "replace": lambda: store.replace("k", [b"x"]),
                "get": lambda: store.get("k"),
                "get range": lambda: store.get_range("k", 0, 1),
                "delete": lambda: store.delete("k"),
            }
            error = await failure(calls[operation]())
            told = next(kind for kind in KINDS if isinstance(error, kind))
            assert (told, error.transient, error.operation) == (kind, transient, operation)

    asyncio.run(scenario())


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_credential_and_no_object_goes_where_a_redirect_leads(status: int) -> None:
    async def scenario() -> None:
        heard: list[bytes] = []

        async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            heard.append(await reader.read(1000))
            writer.close()

        async with await asyncio.start_server(listen, "127.0.0.1", 0) as elsewhere:
            there = f"http://127.0.0.1:{elsewhere.sockets[0].getsockname()[1]}/"
            async with answering(status, "", f"Location: {there}") as settings:
                signed = settings | {"AZURE_STORAGE_KEY": "", "AZURE_STORAGE_SAS_TOKEN": "sv=1&sig=SECRET"}
                async with opened(signed, "container") as store:
                    for call in (store.get("k"), store.put_if_absent("k", [b"x"]), keys(store)):
                        error = await failure(call)
                        assert f"HTTP {status}" in str(error)
                        assert "redirects are not followed: name the endpoint" in error.hint
                        assert_tells_no_secret(error, "SECRET")
        assert heard == []

    asyncio.run(scenario())


# -- the line ----------------------------------------------------------------------------------------------------------


def through_proxy(
    azurite: Azurite,
    scenario: Callable[[AzureBlobStore, CuttingProxy], Awaitable[None]],
    *,
    stall_limit_s: float = 30.0,
) -> None:
    async def scene() -> None:
        async with (
            cutting_proxy(azurite.port) as proxy,
            opened(azurite.environment(proxy.port), new_name(), create=True, stall_limit_s=stall_limit_s) as store,
        ):
            await store.put_if_absent("first", [b"the connection is warm"])
            await scenario(store, proxy)

    asyncio.run(scene())


def test_nobody_listening_is_transient(azurite: Azurite) -> None:
    async def scenario() -> None:
        async with opened(azurite.environment(port=1), new_name()) as store:
            for call in (store.put_if_absent("k", [b"x"]), store.get("k"), keys(store)):
                assert (await failure(call)).transient

    asyncio.run(scenario())


def test_lost_answer_is_one_transient_error_and_no_hidden_retry(azurite: Azurite) -> None:
    async def scenario(store: AzureBlobStore, proxy: CuttingProxy) -> None:
        proxy.lose_answers(1)
        error = await failure(store.put_if_absent("k", [b"mine"]))
        assert error.transient
        assert not isinstance(error, ObjectExists)
        assert proxy.answers_lost == 1
        assert await store.get("k") == b"mine"

    through_proxy(azurite, scenario)


def test_retried_put_whose_answer_was_lost_is_there_once(azurite: Azurite) -> None:
    async def scenario(store: AzureBlobStore, proxy: CuttingProxy) -> None:
        retrying = RetryingStore(store, PATIENT, sleep=no_sleep)
        proxy.lose_answers(1)
        with pytest.raises(ObjectExists):
            await retrying.put_if_absent("k", [b"mine"])
        assert retrying.retries == {"put": 1}
        assert (await retrying.get("k"), await keys(store)) == (b"mine", ["first", "k"])

    through_proxy(azurite, scenario)


def test_upload_cut_in_the_middle_is_retried_and_never_half_there(azurite: Azurite) -> None:
    body = os.urandom(2 << 20)

    async def scenario(store: AzureBlobStore, proxy: CuttingProxy) -> None:
        retrying = RetryingStore(store, PATIENT, sleep=no_sleep)
        proxy.cut()
        proxy.cut_uploads(3, after_bytes=1 << 20)
        await retrying.put_if_absent("k", [body])
        assert (proxy.uploads_cut, retrying.retries["put"]) == (3, 3)
        assert await retrying.get("k") == body

    through_proxy(azurite, scenario)


def test_download_cut_in_the_middle_is_retried_and_never_short(azurite: Azurite) -> None:
    body = os.urandom(4 << 20)

    async def scenario(store: AzureBlobStore, proxy: CuttingProxy) -> None:
        await store.put_if_absent("k", [body])
        retrying = RetryingStore(store, PATIENT, sleep=no_sleep)
        proxy.lose_answers(2, after_bytes=1 << 20)
        assert await retrying.get("k") == body
        assert (proxy.answers_lost, retrying.retries["get"]) == (2, 2)
        proxy.lose_answers(1, after_bytes=1 << 20)
        assert await retrying.get_range("k", 1, 3 << 20) == body[1 : (3 << 20) + 1]
        assert retrying.retries["get range"] == 1

    through_proxy(azurite, scenario)


def test_chain_over_a_bad_line_is_dense_and_every_object_its_own(azurite: Azurite) -> None:
    source = random.Random(11)
    bodies = {f"chain/{number:010d}": source.randbytes(200_000) for number in range(30)}

    async def scenario(store: AzureBlobStore, proxy: CuttingProxy) -> None:
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

    through_proxy(azurite, scenario)


def test_frozen_line_is_a_transient_error_within_the_stall_limit(azurite: Azurite) -> None:
    async def scenario(store: AzureBlobStore, proxy: CuttingProxy) -> None:
        await store.put_if_absent("k", [bytes(1 << 20)])
        began = time.monotonic()
        proxy.freeze()
        large = [bytes(64 << 20)]  # more than sockets buffer: the upload itself stands still
        for call in (store.put_if_absent("l", large), store.put_if_absent("m", [b"x"]), store.get("k")):
            assert (await failure(call)).transient
        assert time.monotonic() - began < 10
        proxy.cut()
        proxy.thaw()
        assert await store.get("k") == bytes(1 << 20)

    through_proxy(azurite, scenario, stall_limit_s=0.3)
