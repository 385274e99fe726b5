"""What the Azure store promises beyond every store: it understands the service's answers."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from jetdr_core.errors import ObjectExists, ObjectNotFound, ObjectUnavailable, StoreAccessDenied, StoreError, StoreLost
from jetdr_core.store import ObjectInfo, azure
from tests.peers.azurite import Azurite
from tests.store.azure_stores import assert_tells_no_secret, failure, keys, new_name, opened

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
async def answering(
    status: int, code: str, *headers: str, listed: list[str] | None = None
) -> AsyncIterator[dict[str, str]]:
    """Settings of a service that gives one answer to everything, but for a listing if ``listed`` are given."""
    rows = "".join(f"<Blob><Name>{name}</Name></Blob>" for name in listed or [])
    listing = f"<EnumerationResults><Blobs>{rows}</Blobs><NextMarker/></EnumerationResults>".encode()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        await reader.readexactly(int(length or 0))
        if listed is not None and b"comp=list" in head:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\n")
            writer.write(b"Content-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(listing), listing))
            await writer.drain()
            writer.close()
            await writer.wait_closed()
            return
        writer.write(f"HTTP/1.1 {status} Said\r\nx-ms-error-code: {code}\r\nx-ms-request-id: r17\r\n".encode())
        writer.write("".join(f"{header}\r\n" for header in headers).encode())
        writer.write(b"Content-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        yield Azurite(port, base64.b64encode(b"key").decode()).environment()


@pytest.mark.parametrize("listed", [["k"], ["k2"], []], ids=["there", "another", "none"])
@pytest.mark.parametrize(
    ("status", "code"),
    [(409, "BlobImmutableDueToPolicy"), (409, "ContainerQuotaExceeded"), (409, ""), (412, "LeaseIdMismatch")],
)
def test_a_conflict_is_an_existing_object_only_if_that_is_there(status: int, code: str, listed: list[str]) -> None:
    """Otherwise an owner would look for another owner's object, find none, and call the chain broken."""

    async def scenario() -> None:
        async with answering(status, code, listed=listed) as settings, opened(settings, "container") as store:
            error = await failure(store.put_if_absent("k", [b"x"]))
            assert isinstance(error, ObjectExists) == (listed == ["k"])
            assert error.is_refusal == (listed != ["k"])
            assert isinstance(error, ObjectExists) or code in str(error)

    asyncio.run(scenario())


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
