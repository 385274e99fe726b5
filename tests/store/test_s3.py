"""What the S3 store promises beyond every store: it understands the service's answers, and shows no secret."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from jetdr_core.errors import (
    InvalidRequest,
    ObjectExists,
    ObjectNotFound,
    ObjectUnavailable,
    StoreAccessDenied,
    StoreError,
    StoreLost,
)
from jetdr_core.store import ObjectInfo, open_store, s3
from jetdr_core.store.credential_file import UrlWithCredential
from jetdr_core.store.s3 import S3Store
from jetdr_core.store.s3_target import s3_target
from tests.peers.s3_server import S3Server
from tests.store.azure_stores import assert_tells_no_secret, failure, keys, new_name

KEY = "0123456789abcdefSECRETKEY0123456789abcdef"
SETTINGS = {"AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": KEY}
KINDS = (StoreLost, ObjectExists, ObjectNotFound, ObjectUnavailable, StoreAccessDenied, StoreError)


def new_bucket(server: S3Server) -> str:
    bucket = new_name()
    server.put(f"/{bucket}")
    return bucket


@asynccontextmanager
async def opened(environment: dict[str, str], bucket: str) -> AsyncIterator[S3Store]:
    store = S3Store(s3_target(f"s3://{bucket}", environment))
    yield store
    await store.close()


# -- the service's answers ---------------------------------------------------------------------------------------------


def test_missing_bucket_is_named_with_the_remedy(s3_server: S3Server) -> None:
    async def scenario() -> None:
        async with opened(s3_server.environment(), "nowhere") as store:
            for call in (store.put_if_absent("k", [b"x"]), store.get("k"), keys(store)):
                error = await failure(call)
                assert "bucket 'nowhere' does not exist; check bucket and endpoint, or create" in str(error)
                assert not error.transient
                assert not isinstance(error, ObjectNotFound)

    asyncio.run(scenario())


def test_a_bucket_that_is_deleted_under_a_store_is_a_loss(s3_server: S3Server) -> None:
    bucket = new_bucket(s3_server)

    async def scenario() -> None:
        async with opened(s3_server.environment(), bucket) as store:
            assert await keys(store) == []
            s3_server.delete(f"/{bucket}")
            for call in (store.put_if_absent("n", [b"x"]), store.get("k"), keys(store)):
                assert isinstance(await failure(call), StoreLost)

    asyncio.run(scenario())


def test_listing_goes_on_over_many_pages_and_leaves_foreign_objects_out(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "_LIST_ROWS", 7)
    bucket = new_bucket(s3_server)

    async def scenario() -> None:
        async with opened(s3_server.environment(), bucket) as store:
            names = [f"k/{number:03d}" for number in range(30)]
            for name in names:
                await store.put_if_absent(name, [bytes(int(name[2:]))])
            for name in ("/k/.hidden", "/k/a%20b", "/k/%C3%A4", "/j/1", "/k-/1", "/kk", "/l"):
                s3_server.put(f"/{bucket}{name}", b"not ours")
            assert [info async for info in store.list_prefix("k/")] == [
                ObjectInfo(name, int(name[2:])) for name in names
            ]
            assert await keys(store, "k/01") == names[10:20]
            assert await keys(store, "k/0291") == []
            assert await keys(store, "k") == sorted(["k-/1", "kk", *names])

    asyncio.run(scenario())


@pytest.mark.parametrize(("prefix", "listed"), [("/payroll", ""), ("/payroll", "chain/"), ("", "payroll/")])
def test_a_listing_ends_after_an_object_that_stands_for_a_folder(s3_server: S3Server, prefix: str, listed: str) -> None:
    """Amazon's console makes one for each new folder."""
    bucket = new_bucket(s3_server)
    s3_server.put(f"/{bucket}{prefix}/{listed}")

    async def scenario() -> None:
        async with opened(s3_server.environment(), f"{bucket}{prefix}") as store, asyncio.timeout(5):
            assert await keys(store, listed) == []

    asyncio.run(scenario())


@asynccontextmanager
async def answering(status: int, code: str, *headers: str) -> AsyncIterator[dict[str, str]]:
    """Settings of a service that gives one answer to everything."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        await reader.readexactly(int(length or 0))
        body = f"<Error><Code>{code}</Code><Message>{KEY}</Message><RequestId>r17</RequestId></Error>".encode()
        writer.write(f"HTTP/1.1 {status} Said\r\n".encode())
        writer.write("".join(f"{header}\r\n" for header in headers).encode())
        writer.write(b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body))
        writer.write(body)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        yield {**SETTINGS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}


@pytest.mark.parametrize(
    ("status", "code", "operation", "kind", "transient"),
    [
        (412, "PreconditionFailed", "put", ObjectExists, False),
        (409, "ConditionalRequestConflict", "put", StoreError, True),
        (409, "OperationAborted", "put", StoreError, True),
        (409, "InvalidBucketState", "put", StoreError, False),
        (403, "AccessDenied", "replace", StoreAccessDenied, False),
        (403, "InvalidObjectState", "get", ObjectUnavailable, False),
        (404, "NoSuchKey", "get", ObjectNotFound, False),
        (404, "NoSuchKey", "put", StoreError, False),
        (404, "NoSuchBucket", "get", StoreError, False),
        (401, "Unauthorized", "get", StoreAccessDenied, False),
        (400, "ExpiredToken", "put", StoreAccessDenied, False),
        (400, "RequestTimeout", "put", StoreError, True),
        (400, "AuthorizationHeaderMalformed", "put", StoreError, False),
        (400, "MalformedXML", "put", StoreError, False),
        (416, "InvalidRange", "get range", ObjectUnavailable, False),
        (301, "PermanentRedirect", "get", StoreError, False),
        (307, "TemporaryRedirect", "put", StoreError, False),
        (429, "", "get", StoreError, True),
        (500, "InternalError", "put", StoreError, True),
        (503, "SlowDown", "get range", StoreError, True),
        (503, "ServiceUnavailable", "delete", StoreError, True),
        (504, "", "delete", StoreError, True),
    ],
)
def test_answer_means_one_error(status: int, code: str, operation: str, kind: type, transient: bool) -> None:
    async def scenario() -> None:
        async with answering(status, code) as settings, opened(settings, "bucket") as store:
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
            assert_tells_no_secret(error, KEY, "SECRET")

    asyncio.run(scenario())


@pytest.mark.parametrize("status", [301, 307, 308])
def test_no_signature_and_no_object_goes_where_a_redirect_leads(status: int) -> None:
    async def scenario() -> None:
        heard: list[bytes] = []

        async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            heard.append(await reader.read(1000))
            writer.close()

        async with await asyncio.start_server(listen, "127.0.0.1", 0) as elsewhere:
            there = f"http://127.0.0.1:{elsewhere.sockets[0].getsockname()[1]}/"
            async with (
                answering(status, "Redirect", f"Location: {there}") as settings,
                opened(settings, "bucket") as store,
            ):
                for call in (store.put_if_absent("k", [b"x"]), store.replace("k", [b"x"])):
                    error = await failure(call)
                    assert f"HTTP {status}" in str(error)
                    assert "another region than 'us-east-1': set AWS_REGION" in error.hint
                assert heard == []
                await failure(store.get("k"))
        assert all(b"authorization" not in head.lower() for head in heard)

    asyncio.run(scenario())


def test_a_name_that_cannot_be_resolved_is_transient_and_told() -> None:
    async def scenario() -> None:
        async with opened({**SETTINGS, "AWS_ENDPOINT_URL": "https://nowhere.invalid"}, "bucket") as store:
            error = await failure(store.get("k"))
            assert error.transient
            assert "failed to lookup address" in str(error)

    asyncio.run(scenario())


# -- credentials -------------------------------------------------------------------------------------------------------


def test_another_key_in_the_credential_file_is_taken_when_the_old_one_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    file = tmp_path / "credential"
    signed_by: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        signed_by.append(head.partition("Credential=")[2].partition("/")[0])
        fresh = signed_by[-1] == "fresh"
        body = b"bytes" if fresh else b"<Error><Code>ExpiredToken</Code></Error>"
        head = "200 OK\r\nETag: e\r\nLast-Modified: Fri, 27 Nov 2026 20:00:00 GMT" if fresh else "400 Bad Request"
        writer.write(f"HTTP/1.1 {head}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()

    def give(key_id: str, port: int) -> None:
        endpoint = f"AWS_ENDPOINT_URL=http://127.0.0.1:{port}"
        file.write_text(f"AWS_ACCESS_KEY_ID={key_id}\nAWS_SECRET_ACCESS_KEY={KEY}\n{endpoint}\n")
        file.chmod(0o600)

    async def scenario() -> None:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            give("stale", port)
            store = open_store(UrlWithCredential("s3://bucket", file))
            assert isinstance(await failure(store.get("k")), StoreAccessDenied)
            give("fresh", port)
            assert await store.get("k") == b"bytes"
            assert await store.get("k") == b"bytes"
            await store.close()

    asyncio.run(scenario())
    assert signed_by[-3:] == ["stale", "fresh", "fresh"]
    assert KEY not in caplog.text
    assert "the credential was renewed" in caplog.text


def test_no_setting_of_the_environment_reaches_a_store_with_a_credential_file(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library reads the environment by itself. Its settings could switch off what the chain relies on."""
    for name, value in {
        "AWS_SESSION_TOKEN": "another",
        "AWS_CONDITIONAL_PUT": "disabled",
        "AWS_SKIP_SIGNATURE": "true",
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1",
        "AWS_BUCKET": "elsewhere",
    }.items():
        monkeypatch.setenv(name, value)
    file = tmp_path / "credential"
    file.write_text("".join(f"{name}={value}\n" for name, value in s3_server.environment().items()))
    file.chmod(0o600)
    bucket = new_bucket(s3_server)

    async def scenario() -> None:
        store = open_store(UrlWithCredential(f"s3://{bucket}/p", file))
        await store.put_if_absent("k", [b"x"])
        assert isinstance(await failure(store.put_if_absent("k", [b"y"])), ObjectExists)
        assert await store.get("k") == b"x"
        await store.close()

    asyncio.run(scenario())


# -- URL and environment -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "environment", "says"),
    [
        ("s3://", {}, "no valid bucket"),
        ("s3://Bucket", {}, "no valid bucket"),
        ("s3://a..b", {}, "no valid bucket"),
        ("s3://bucket--use1-az4--x-s3", {}, "no valid bucket"),
        ("s3://bucket/../x", {}, "begins no valid key"),
        ("s3://bucket?X-Amz-Signature=hunter2", {}, "a query"),
        ("s3://hunter2@bucket", {}, "a user"),
        ("s3://bucket", {"AWS_REGION": ""}, "no AWS region"),
        ("s3://bucket", {"AWS_REGION": "eu/../west"}, "no AWS region"),
        ("s3://bucket", {"AWS_SECRET_ACCESS_KEY": ""}, "without the other"),
        ("s3://bucket", {"AWS_ENDPOINT_URL": "s3.example"}, "no plain http(s) URL"),
        ("s3://bucket", {"AWS_ENDPOINT_URL": "http://u:hunter2@h"}, "no plain http(s) URL"),
        ("s3://bucket", {"AWS_ENDPOINT_URL": "http://10.0.0.1"}, "is not encrypted"),
    ],
)
def test_what_means_no_bucket_is_refused_without_a_secret(url: str, environment: dict[str, str], says: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        s3_target(url, {**SETTINGS, "AWS_REGION": "eu-west-1", **environment})
    assert says in str(caught.value)
    assert caught.value.hint
    assert_tells_no_secret(caught.value, "hunter2", KEY)


def test_repr_of_a_target_shows_no_secret() -> None:
    target = s3_target("s3://bucket/p", {**SETTINGS, "AWS_SESSION_TOKEN": "TOKEN", "AWS_REGION": "eu-west-1"})
    assert (target.bucket, target.prefix, target.region) == ("bucket", "p/", "eu-west-1")
    for secret in (KEY, "TOKEN", "someone"):
        assert secret not in f"{target} {target!r} {S3Store(target)!r}"


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "obstore", None)
    monkeypatch.delitem(__import__("sys").modules, "jetdr_core.store.s3")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    with pytest.raises(InvalidRequest, match=r"needs the package obstore; pip install 'jetdr_core\[s3\]'"):
        open_store("s3://bucket")
