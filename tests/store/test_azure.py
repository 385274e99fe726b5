"""What the Azure store promises beyond every store: it keeps credentials, understands answers, survives a bad line."""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import random
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from azure.storage.blob import ContainerSasPermissions, generate_container_sas

from jetdr_core.errors import InvalidRequest, ObjectExists, ObjectNotFound, StoreAccessDenied, StoreError, StoreLost
from jetdr_core.store import ObjectInfo, ObjectStore, RetryingStore, RetryPolicy, azure, open_store
from jetdr_core.store.azure import AzureBlobStore
from jetdr_core.store.azure_target import azure_target
from jetdr_core.store.credential_file import UrlWithCredential
from tests.faults.proxy import CuttingProxy, cutting_proxy
from tests.peers.azurite import Azurite
from tests.store.conftest import no_sleep

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


# -- credentials -------------------------------------------------------------------------------------------------------


def test_wrong_key_is_access_denied_and_tells_no_key(azurite: Azurite) -> None:
    wrong = base64.b64encode(secrets.token_bytes(64)).decode()

    async def scenario() -> None:
        async with opened(azurite.environment() | {"AZURE_STORAGE_KEY": wrong}, new_name(), create=True) as store:
            for call in (store.put_if_absent("k", [b"x"]), store.get("k"), store.delete("k"), keys(store)):
                error = await failure(call)
                assert isinstance(error, StoreAccessDenied)
                assert "HTTP 403 AuthorizationFailure" in str(error)
                assert not error.transient
                assert_tells_no_secret(error, wrong, azurite.key)
            assert wrong not in f"{store!r} {store.url}"

    asyncio.run(scenario())


def test_connection_string_opens_the_store(azurite: Azurite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", azurite.connection_string)

    async def scenario() -> None:
        store = open_store(f"az://{new_name()}/p", create=True)
        await store.put_if_absent("k", [b"x"])
        assert await keys(store) == ["k"]
        assert azurite.key not in f"{store!r} {store.url}"
        await store.close()

    asyncio.run(scenario())


def test_unusable_key_in_a_connection_string_is_access_denied(azurite: Azurite) -> None:
    text = azurite.connection_string.replace(azurite.key, "SECRET-not-base64")

    async def scenario() -> None:
        async with opened({"AZURE_STORAGE_CONNECTION_STRING": text}, new_name()) as store:
            error = await failure(store.get("k"))
            assert isinstance(error, StoreAccessDenied)
            assert_tells_no_secret(error, "SECRET")

    asyncio.run(scenario())


def test_signature_gives_what_it_allows_and_no_more(azurite: Azurite) -> None:
    container = new_name()
    expired = signature(azurite, container, "rwdlc", timedelta(hours=-1))
    reader = signature(azurite, container, "rl", timedelta(hours=1))
    writer = signature(azurite, container, "rwdlc", timedelta(hours=1))

    def environment(sas: str) -> dict[str, str]:
        settings = azurite.environment() | {"AZURE_STORAGE_SAS_TOKEN": sas}
        del settings["AZURE_STORAGE_KEY"]
        return settings

    async def scenario() -> None:
        async with opened(azurite.environment(), container, create=True) as store:
            await store.put_if_absent("k", [b"x"])
        async with opened(environment(writer), container) as store:
            await store.put_if_absent("l", [b"y"])
        async with opened(environment(reader), container) as store:
            assert (await keys(store), await store.get("l")) == (["k", "l"], b"y")
            assert isinstance(await failure(store.put_if_absent("m", [b"x"])), StoreAccessDenied)
        async with opened(environment(expired), container) as store:
            error = await failure(store.get("k"))
            assert isinstance(error, StoreAccessDenied)
            assert_tells_no_secret(error, "sig=", expired)

    asyncio.run(scenario())


def test_failed_sign_in_is_access_denied_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")  # the one way that asks no peer

    async def scenario() -> None:
        store = AzureBlobStore(azure_target("https://payroll1.blob.core.windows.net/abc", {}))
        error = await failure(store.get("k"))
        assert isinstance(error, StoreAccessDenied)
        assert "set AZURE_STORAGE_KEY" in error.hint
        await store.close()

    asyncio.run(scenario())


def test_log_of_everything_tells_no_secret(azurite: Azurite, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    container = new_name()
    sas = signature(azurite, container, "rwdlc", timedelta(hours=1))
    settings = azurite.environment() | {"AZURE_STORAGE_SAS_TOKEN": sas}

    async def scenario() -> None:
        async with opened(settings, container, create=True) as store:
            await store.put_if_absent("k", [b"x"])
        del settings["AZURE_STORAGE_KEY"]
        async with opened(settings, container) as store:
            await store.get("k")
            await failure(store.get("missing"))
        async with opened(settings | {"AZURE_STORAGE_SERVICE_ENDPOINT": "http://127.0.0.1:1/x"}, container) as store:
            assert_tells_no_secret(await failure(store.get("k")), sas, sas.rpartition("sig=")[2])

    asyncio.run(scenario())
    assert "Request method: 'PUT'" in caplog.text
    for secret in (azurite.key, sas.rpartition("sig=")[2]):
        assert secret not in caplog.text


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


KINDS = (StoreLost, ObjectExists, ObjectNotFound, StoreAccessDenied, StoreError)


@pytest.mark.parametrize(
    ("status", "code", "operation", "kind", "transient"),
    [
        (409, "BlobAlreadyExists", "put", ObjectExists, False),
        (412, "ConditionNotMet", "put", ObjectExists, False),
        (412, "LeaseIdMissing", "put", ObjectExists, False),
        (403, "UnauthorizedBlobOverwrite", "put", ObjectExists, False),
        (409, "ContainerBeingDeleted", "put", StoreError, True),
        (409, "BlobImmutableDueToPolicy", "replace", StoreError, False),
        (409, "BlobArchived", "get", StoreError, False),
        (404, "BlobNotFound", "get", ObjectNotFound, False),
        (404, "ContainerNotFound", "get", StoreError, False),
        (404, "ResourceNotFound", "put", StoreError, False),
        (401, "NoAuthenticationInformation", "get", StoreAccessDenied, False),
        (403, "AuthorizationPermissionMismatch", "put", StoreAccessDenied, False),
        (416, "InvalidRange", "get range", StoreError, False),
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


def write_credential(path: Path, **variables: str) -> None:
    new = path.with_suffix(".new")
    new.write_text("# renewed\n" + "".join(f'{name}="{value}"\n' for name, value in variables.items()))
    new.chmod(0o600)
    new.rename(path)


def test_credential_in_a_file_is_renewed_while_the_store_is_open(
    azurite: Azurite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signature expires, the next one is put into the file, and nothing is reopened."""
    container, file = new_name(), tmp_path / "credential"
    for name, value in azurite.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AZURE_STORAGE_KEY", "b2Y=")  # another store's, which does not count beside a file

    async def scenario() -> None:
        async with opened(azurite.environment(), container, create=True) as maker:
            await maker.put_if_absent("k", [b"x"])
        write_credential(file, AZURE_STORAGE_SAS_TOKEN=signature(azurite, container, "rwl", timedelta(seconds=1)))
        store = open_store(UrlWithCredential(f"az://{container}", file))
        try:
            assert await store.get("k") == b"x"
            deadline = time.monotonic() + 60
            while True:
                try:
                    await store.get("k")
                except StoreAccessDenied:
                    break
                assert time.monotonic() < deadline
                await asyncio.sleep(0.1)
            write_credential(file, AZURE_STORAGE_KEY=azurite.key)
            results = await asyncio.gather(store.put_if_absent("n", [b"y"]), store.get("k"), keys(store))
            assert results[1] == b"x"
            assert results[2] in (["k"], ["k", "n"])
            file.chmod(0o644)
            assert await store.get("n") == b"y", "it is read only when the credential is refused"
        finally:
            await store.close()
        with pytest.raises(InvalidRequest, match="chmod 600"):
            open_store(UrlWithCredential(f"az://{container}", file))

    asyncio.run(scenario())


@pytest.mark.parametrize("text", ["", "# nothing\n", "SAS=abc", "sv=2021&sig=topsecret", "AZURE_STORAGE_SAS_TOKEN"])
def test_credential_file_with_something_else_is_refused_without_its_content(tmp_path: Path, text: str) -> None:
    file = tmp_path / "credential"
    file.write_text(text)
    file.chmod(0o600)
    with pytest.raises(InvalidRequest, match=r"credential_file .* is empty|line 1 is not understood") as caught:
        open_store(UrlWithCredential("az://payroll", file))
    assert "topsecret" not in str(caught.value)


def test_container_that_exists_needs_no_right_to_create_it(azurite: Azurite) -> None:
    container = new_name()

    async def scenario() -> None:
        async with opened(azurite.environment(), container, create=True) as maker:
            await maker.put_if_absent("k", [b"x"])
        sas = signature(azurite, container, "rwl", timedelta(hours=1))
        environment = azurite.environment() | {"AZURE_STORAGE_KEY": "", "AZURE_STORAGE_SAS_TOKEN": sas}
        async with opened(environment, container, create=True) as store:
            assert await keys(store) == ["k"]
            await store.put_if_absent("n", [b"y"])

    asyncio.run(scenario())
