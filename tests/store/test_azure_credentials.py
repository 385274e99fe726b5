"""Credentials of an Azure store: what they open, when they are renewed, and that nothing shows them."""

from __future__ import annotations

import asyncio
import base64
import logging
import secrets
import time
from datetime import timedelta
from pathlib import Path

import pytest

from jetdr_core.errors import InvalidRequest, StoreAccessDenied
from jetdr_core.store import open_store
from jetdr_core.store.azure import AzureBlobStore
from jetdr_core.store.azure_target import azure_target
from jetdr_core.store.credential_file import UrlWithCredential
from tests.peers.azurite import Azurite
from tests.store.azure_stores import assert_tells_no_secret, failure, keys, new_name, opened, signature


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


def test_connection_string_of_another_account_is_no_renewed_credential(
    azurite: Azurite, caplog: pytest.LogCaptureFixture
) -> None:
    """A wrong file in the place of the right one must not send a domain's history elsewhere."""
    wrong = base64.b64encode(secrets.token_bytes(64)).decode()
    given = azurite.connection_string.replace(azurite.key, wrong)
    other = f"DefaultEndpointsProtocol=https;AccountName=other1;AccountKey={wrong};EndpointSuffix=core.windows.net"
    place = f"az://{new_name()}"

    async def scenario() -> None:
        store = AzureBlobStore(
            azure_target(place, {"AZURE_STORAGE_CONNECTION_STRING": given}),
            renewed=lambda: azure_target(place, {"AZURE_STORAGE_CONNECTION_STRING": other}),
        )
        for _ in range(2):
            assert isinstance(await failure(store.get("k")), StoreAccessDenied)
        await store.close()

    asyncio.run(scenario())
    assert "is of another account" in caplog.text
