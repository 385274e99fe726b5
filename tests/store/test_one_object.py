"""An object that cannot be got for good is told from a store that cannot be used, for every kind of store."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from jetdr_core.errors import ObjectNotFound, ObjectUnavailable, StoreAccessDenied, StoreError
from jetdr_core.store import DirectoryStore, ObjectRange, ObjectStore
from jetdr_core.store.azure import AzureBlobStore
from jetdr_core.store.azure_target import azure_target
from tests.peers.azurite import Azurite
from tests.store.azure_stores import new_name

KEY, OTHER = "k/1", "k/2"


async def assert_one_object_is_unavailable(store: ObjectStore, problem: str) -> None:
    """The contract of the protocol: ``KEY`` alone fails, for good and with its cause. All else works."""
    for call in (store.get(KEY), store.get_range(KEY, 0, 1)):
        with pytest.raises(ObjectUnavailable, match=problem) as caught:
            await call
        assert not caught.value.transient
        assert not isinstance(caught.value, ObjectNotFound)
        assert caught.value.hint
    one, other = await store.get_ranges([ObjectRange(KEY, 0, 1), ObjectRange(OTHER, 0, 1)])
    assert isinstance(one, ObjectUnavailable)
    assert other == b"o"
    assert [info.key async for info in store.list_prefix("")] == [KEY, OTHER]


def on_directory(path: Path, scenario: Callable[[DirectoryStore], Awaitable[None]]) -> None:
    async def scene() -> None:
        store = DirectoryStore(path, create=True)
        try:
            await store.put_if_absent(KEY, [b"one"])
            await store.put_if_absent(OTHER, [b"other"])
            await scenario(store)
        finally:
            await store.close()

    asyncio.run(scene())


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EIO, errno.EBADMSG, errno.ENXIO])
def test_file_that_cannot_be_opened_costs_one_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    opened = os.open

    def refusing(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if path == "1":
            raise OSError(code, os.strerror(code))
        return opened(path, flags, mode, dir_fd=dir_fd)

    async def scenario(store: DirectoryStore) -> None:
        monkeypatch.setattr(os, "open", refusing)
        await assert_one_object_is_unavailable(store, os.strerror(code))

    on_directory(tmp_path / "c", scenario)


def test_io_error_that_passes_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pread, failures = os.pread, [errno.EIO, errno.EIO]

    def failing_once(fd: int, length: int, offset: int) -> bytes:
        if failures:
            raise OSError(failures.pop(), "passing")
        return pread(fd, length, offset)

    async def scenario(store: DirectoryStore) -> None:
        monkeypatch.setattr(os, "pread", failing_once)
        with pytest.raises(ObjectUnavailable):
            await store.get(KEY)
        failures.append(errno.EIO)
        assert await store.get(KEY) == b"one"
        failures.append(errno.EIO)
        assert await store.get_ranges([ObjectRange(KEY, 0, 3)]) == [b"one"]

    on_directory(tmp_path / "c", scenario)


@pytest.mark.parametrize(
    ("code", "transient"), [(errno.EACCES, False), (errno.EIO, True), (errno.ENOTCONN, False), (errno.ENODEV, False)]
)
def test_directory_that_cannot_be_listed_costs_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, transient: bool
) -> None:
    def refusing(*_args: object, **_named: object) -> int:
        raise OSError(code, os.strerror(code))

    async def scenario(store: DirectoryStore) -> None:
        monkeypatch.setattr(os, "open", refusing)
        monkeypatch.setattr(os, "scandir", refusing)
        (found,) = await store.get_ranges([ObjectRange(KEY, 0, 1)])
        with pytest.raises(StoreError) as caught:
            await store.get(KEY)
        for error in (found, caught.value):
            assert isinstance(error, StoreError)
            assert not isinstance(error, ObjectUnavailable)
            assert error.transient == transient
            assert isinstance(error, StoreAccessDenied) == (code == errno.EACCES)

    on_directory(tmp_path / "c", scenario)


def test_archived_blob_costs_one_object_and_says_what_to_do(azurite: Azurite) -> None:
    async def scenario() -> None:
        store = AzureBlobStore(azure_target(f"az://{new_name()}", azurite.environment()), create=True)
        try:
            await store.put_if_absent(KEY, [b"one"])
            await store.put_if_absent(OTHER, [b"other"])
            await store._blob(KEY).set_standard_blob_tier("Archive")
            await assert_one_object_is_unavailable(store, "is in the archive tier .*; rehydrate it to the hot or cool")
        finally:
            await store.close()

    asyncio.run(scenario())


LISTING = b"<EnumerationResults><Blobs></Blobs><NextMarker/></EnumerationResults>"


@pytest.mark.parametrize("may_list", [True, False])
def test_denied_blob_is_told_from_a_denied_container(may_list: bool) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        lists = may_list and b"comp=list" in head
        body = LISTING if lists else b""
        status = b"200 OK" if lists else b"403 No\r\nx-ms-error-code: AuthorizationPermissionMismatch"
        size = str(len(body)).encode()
        writer.write(b"HTTP/1.1 %b\r\nContent-Type: application/xml\r\nContent-Length: %b\r\n" % (status, size))
        writer.write(b"Connection: close\r\n\r\n" + body)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def scenario() -> StoreError:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            environment = Azurite(server.sockets[0].getsockname()[1], "a2V5").environment()
            store = AzureBlobStore(azure_target("az://con", environment))
            try:
                with pytest.raises(StoreError) as caught:
                    await store.get_range(KEY, 0, 1)
            finally:
                await store.close()
        return caught.value

    error = asyncio.run(scenario())
    assert isinstance(error, ObjectUnavailable) == may_list
    assert isinstance(error, StoreAccessDenied) != may_list
    assert "HTTP 403 AuthorizationPermissionMismatch" in str(error)
