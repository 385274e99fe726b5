"""What a store URL means, and how a bad one is refused: with the remedy, and without a secret."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from jetdr_core.errors import InvalidRequest
from jetdr_core.store import DirectoryStore, MemoryStore, open_store
from jetdr_core.store.azure_target import azure_target

KEY = "c2VjcmV0LWFjY291bnQta2V5"
SAS = "sv=2024-01-01&sr=c&sig=SECRETSIGNATURE%3D"
ACCOUNT = {"AZURE_STORAGE_ACCOUNT": "payroll1", "AZURE_STORAGE_KEY": KEY}
HOST = "https://payroll1.blob.core.windows.net"
PLAIN = {"AZURE_STORAGE_SERVICE_ENDPOINT": "http://10.0.0.1:10000/payroll1"}


@pytest.fixture(autouse=True)
def no_azure_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONNECTION_STRING", "ACCOUNT", "KEY", "SAS_TOKEN", "SERVICE_ENDPOINT"):
        monkeypatch.delenv(f"AZURE_STORAGE_{name}", raising=False)


def test_file_url_opens_the_directory(tmp_path: Path) -> None:
    store = open_store((tmp_path / "a b#c").as_uri(), create=True)
    assert isinstance(store, DirectoryStore)
    assert (tmp_path / "a b#c").is_dir()
    assert store.url == (tmp_path / "a b#c").as_uri()
    asyncio.run(store.close())


def test_memory_url_opens_the_same_objects_again() -> None:
    async def run() -> None:
        await open_store("memory://payroll").put_if_absent("k", [b"x"])
        reader = open_store("memory://payroll")
        assert await reader.get("k") == b"x"
        assert (reader.url, MemoryStore().url == MemoryStore().url) == ("memory://payroll", False)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "is not a URL"),
        ("/srv/dr", "is not a URL"),
        ("srv/dr", "is not a URL"),
        ("gs://bucket", "unknown scheme 'gs'"),
        ("http://payroll1.blob.core.windows.net/c", "unknown scheme 'http'"),
        ("file:srv/dr", "is relative"),
        ("file://srv/dr", "is relative"),
        ("file://", "is relative"),
        ("file:///srv/../etc", "contains '..'"),
        ("file:///srv/%2e%2e/etc", "contains '..'"),
        ("file:///srv%2f..%2fetc", "contains '..'"),
        ("file:///srv/%00", "NUL"),
        ("file:///srv?create=1", "a query"),
        ("file:///srv#x", "a fragment"),
        ("file:///does/not/exist", "does not exist; mount its file system"),
        ("file:///etc/passwd", "not a directory"),
        ("memory://", "is not valid"),
        ("memory://a/b", "has a path"),
        ("memory://a?b", "a query"),
        ("file:///a\nb", "not printable"),
        ("az://[", "malformed"),
    ],
)
def test_bad_url_is_refused_with_the_remedy(url: str, says: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        open_store(url)
    assert says in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    "url",
    [
        *(
            "az://",
            "az:///prefix",
            "az://C",
            "az://ab",
            "az://a--b",
            "az://-abc",
            "az://abc_d",
            f"az://{'a' * 64}",
            "az:abc",
        ),
        *("az://abc/../x", "az://abc/a//b", "az://abc/.tmp", "az://abc/a%20b", "az://abc#x", f"az://abc?{SAS}"),
        *(f"az://user:{KEY}@abc", HOST, f"{HOST}/", f"{HOST}/abc/..", f"{HOST}/abc#x", f"{HOST}/abc?comp=list"),
        *("https://example.com/abc", f"https://x.blob.core.windows.net.example.com/abc?{SAS}", f"{HOST}:8443/abc"),
    ],
)
def test_bad_azure_url_is_refused_without_a_secret(url: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        azure_target(url, ACCOUNT)
    assert caught.value.hint
    assert KEY not in str(caught.value)
    assert "SECRET" not in str(caught.value)


def test_az_url_takes_account_and_key_from_the_environment() -> None:
    target = azure_target("az://abc/some/prefix/", ACCOUNT)
    assert (target.container, target.prefix, target.endpoint, target.key) == ("abc", "some/prefix/", HOST, KEY)
    assert target.url == "az://abc/some/prefix"


def test_connection_string_goes_before_account_and_key() -> None:
    target = azure_target(
        "az://abc", ACCOUNT | {"AZURE_STORAGE_CONNECTION_STRING": "AccountName=other;AccountKey=eA=="}
    )
    assert (target.key, target.connection_string) == ("", "AccountName=other;AccountKey=eA==")


def test_service_endpoint_replaces_the_public_one() -> None:
    target = azure_target("az://abc", ACCOUNT | {"AZURE_STORAGE_SERVICE_ENDPOINT": "http://127.0.0.1:10000/payroll1/"})
    assert target.endpoint == "http://127.0.0.1:10000/payroll1"


@pytest.mark.parametrize("host", ["127.0.0.1:10000", "127.8.0.1", "[::1]:10000", "localhost:10000", "LOCALHOST"])
def test_an_endpoint_on_this_machine_may_be_plain(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (ACCOUNT | {"AZURE_STORAGE_SERVICE_ENDPOINT": f"http://{host}/payroll1"}).items():
        monkeypatch.setenv(name, value)
    asyncio.run(open_store("az://abc").close())


def test_sas_token_may_begin_with_a_question_mark() -> None:
    target = azure_target("az://abc", {"AZURE_STORAGE_ACCOUNT": "payroll1", "AZURE_STORAGE_SAS_TOKEN": f"?{SAS}"})
    assert (target.sas, target.key) == (SAS, "")


def test_signature_in_the_url_is_used_and_never_shown() -> None:
    target = azure_target(f"{HOST}/abc/prefix?{SAS}", ACCOUNT)
    assert (target.sas, target.key, target.endpoint) == (SAS, "", HOST)
    assert target.url == f"{HOST}/abc/prefix"
    assert "SECRET" not in repr(target)


def test_key_of_another_account_is_not_used() -> None:
    other = {"AZURE_STORAGE_ACCOUNT": "other123", "AZURE_STORAGE_KEY": KEY, "AZURE_STORAGE_SAS_TOKEN": SAS}
    target = azure_target(f"{HOST}/abc", other)
    assert (target.key, target.sas, target.connection_string) == ("", "", "")


def test_connection_string_is_used_for_its_own_account_only() -> None:
    for account, used in {"payroll1": True, "payroll12": False, "other123": False}.items():
        text = f"DefaultEndpointsProtocol=https;AccountName={account};AccountKey={KEY};EndpointSuffix=core.windows.net"
        assert bool(azure_target(f"{HOST}/abc", {"AZURE_STORAGE_CONNECTION_STRING": text}).connection_string) is used


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({}, "no Azure storage account"),
        ({"AZURE_STORAGE_ACCOUNT": "Bad_Name"}, "no Azure storage account"),
        ({"AZURE_STORAGE_ACCOUNT": "payroll1", "AZURE_STORAGE_KEY": "SECRET not base64"}, "is not an account key"),
        ({"AZURE_STORAGE_SERVICE_ENDPOINT": "ftp://x"}, "no plain http"),
        ({"AZURE_STORAGE_SERVICE_ENDPOINT": f"https://x?{SAS}"}, "no plain http"),
        ({"AZURE_STORAGE_SERVICE_ENDPOINT": "https://x", "AZURE_STORAGE_KEY": KEY}, "without its account"),
        ({"AZURE_STORAGE_SERVICE_ENDPOINT": "http://x"}, "over https only"),
        (PLAIN | {"AZURE_STORAGE_KEY": KEY, "AZURE_STORAGE_ACCOUNT": "payroll1"}, "http://10.0.0.1 is not encrypted"),
        (PLAIN | {"AZURE_STORAGE_SAS_TOKEN": SAS}, "http://10.0.0.1 is not encrypted"),
        (
            {"AZURE_STORAGE_SERVICE_ENDPOINT": "http://127.0.0.1.example:1", "AZURE_STORAGE_SAS_TOKEN": SAS},
            "http://127.0.0.1.example is not encrypted",
        ),
        (
            {
                "AZURE_STORAGE_CONNECTION_STRING": "DefaultEndpointsProtocol=http;AccountName=payroll1;"
                f"AccountKey={KEY};EndpointSuffix=core.windows.net"
            },
            "http://payroll1.blob.core.windows.net is not encrypted",
        ),
        (
            {"AZURE_STORAGE_CONNECTION_STRING": f"BlobEndpoint=http://10.0.0.1:10000/x;SharedAccessSignature={SAS}"},
            "http://10.0.0.1 is not encrypted",
        ),
        ({"AZURE_STORAGE_CONNECTION_STRING": "SECRET"}, "CONNECTION_STRING is malformed"),
        ({"AZURE_STORAGE_CONNECTION_STRING": "AccountName=a;SECRET"}, "CONNECTION_STRING is malformed"),
    ],
)
def test_bad_settings_are_refused_without_a_secret(
    environment: dict[str, str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InvalidRequest) as caught:
        open_store("az://abc")
    assert says in str(caught.value)
    assert caught.value.hint
    assert "SECRET" not in str(caught.value)
    assert caught.value.__context__ is None
