"""How a URL becomes a store with its wrappers, and that one table of schemes is all there is."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from jetdr_core.child_environment import child_environment
from jetdr_core.cli.shared_options import Url
from jetdr_core.errors import InvalidRequest, StoreError
from jetdr_core.store import MemoryStore, ObjectStore, RetryPolicy, connect, connected, is_lasting_url, open_store
from jetdr_core.store.connect import SCHEMES, Scheme, StoreOpening
from jetdr_core.store.redaction import redacted
from jetdr_core.store.url import StoreUrl
from tests.faults.store import Fault, FaultyStore, on

DOCS = Path(__file__).parents[2] / "docs"


def is_open(store: ObjectStore) -> bool:
    async def used() -> bool:
        try:
            await store.put_if_absent("k", [b"x"])
        except StoreError as error:
            return "closed" not in str(error)
        return True

    return asyncio.run(used())


def test_a_store_that_was_opened_here_is_closed_at_the_end(tmp_path: Path) -> None:
    async def scenario() -> ObjectStore:
        async with connected((tmp_path / "c").as_uri(), create=True) as store:
            await store.put_if_absent("before", [b"x"])
            return store

    assert not is_open(asyncio.run(scenario()))


def test_a_store_that_was_opened_here_is_closed_after_an_error(tmp_path: Path) -> None:
    opened: list[ObjectStore] = []

    async def scenario() -> None:
        async with connected((tmp_path / "c").as_uri(), create=True) as store:
            opened.append(store)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(scenario())
    assert not is_open(opened[0])


def test_an_open_store_stays_open() -> None:
    inner = MemoryStore()

    async def scenario() -> None:
        async with connected(inner) as store:
            assert store.url == inner.url

    asyncio.run(scenario())
    assert is_open(inner)


def test_transient_failures_are_retried_as_the_policy_says() -> None:
    async def scenario(attempts_max: int) -> int:
        store = FaultyStore(MemoryStore(), on("put", Fault.FAIL, times=2))
        async with connected(store, retry=RetryPolicy(attempts_max=attempts_max, delay_base_s=0.0)) as patient:
            await patient.put_if_absent("k", [b"x"])
            return sum(patient.retries.values())

    assert asyncio.run(scenario(3)) == 2
    with pytest.raises(StoreError):
        asyncio.run(scenario(2))


def test_the_bandwidth_is_limited_inside_the_retries() -> None:
    async def scenario(rate: float | None) -> str:
        async with connected(MemoryStore("limited"), bandwidth_bytes_per_s=rate) as store:
            return repr(store)

    assert asyncio.run(scenario(1e6)) == "RetryingStore(BandwidthLimitedStore(MemoryStore('memory://limited')))"
    assert asyncio.run(scenario(None)) == "RetryingStore(MemoryStore('memory://limited'))"


def test_a_missing_container_is_created_only_if_asked_for(tmp_path: Path) -> None:
    async def scenario(*, create: bool) -> None:
        async with connected((tmp_path / "c").as_uri(), create=create):
            pass

    with pytest.raises(InvalidRequest, match="does not exist"):
        asyncio.run(scenario(create=False))
    asyncio.run(scenario(create=True))
    assert (tmp_path / "c").is_dir()


def test_a_third_kind_of_store_is_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def open_tape(url: StoreUrl, _opening: StoreOpening) -> ObjectStore:
        return MemoryStore(url.host)

    assert not is_lasting_url("tape://vault")
    monkeypatch.setattr(connect, "SCHEMES", (*SCHEMES, Scheme("tape://LIBRARY/SHELF", open_tape)))
    assert open_store("tape://vault").url == "memory://vault"
    assert is_lasting_url("tape://vault")
    with pytest.raises(InvalidRequest, match=r"memory://NAME or tape://LIBRARY/SHELF$"):
        open_store("ftp://vault")


def test_the_secrets_of_a_new_row_are_hidden_and_withheld_from_children(monkeypatch: pytest.MonkeyPatch) -> None:
    row = Scheme(
        "tape://LIBRARY/SHELF",
        lambda url, _opening: MemoryStore(url.host),
        secret_variables=("TAPE_TOKEN",),
        secret_fields=("robot.key",),
    )
    said = "tape://v?robot.key=abc&x=1 TAPE_TOKEN=def"
    assert redacted(said) == said
    monkeypatch.setattr(connect, "SCHEMES", (*SCHEMES, row))
    assert redacted(said) == "tape://v?robot.key=[hidden]&x=1 TAPE_TOKEN=[hidden]"
    for name in connect.secret_variables():
        monkeypatch.setenv(name, "secret")
    assert "TAPE_TOKEN" in connect.secret_variables()
    assert not connect.secret_variables() & child_environment().keys()


def test_every_row_is_told_in_the_help_and_in_the_documents() -> None:
    help_text = Url.__metadata__[0].help  # type: ignore[attr-defined]
    for scheme in SCHEMES:
        assert f"| `{scheme.form}" in (DOCS / "formats" / "store.md").read_text()
        assert (scheme.form in help_text) == scheme.is_lasting


@pytest.mark.parametrize(
    ("url", "lasting"),
    [
        *(("file:///srv/dr", True), ("az://payroll", True), ("https://a.blob.core.windows.net/c", True)),
        *(("memory://x", False), ("file://srv", False), ("/srv/dr", False), ("http://host/c", False), ("", False)),
    ],
)
def test_only_a_store_that_outlives_the_process_is_lasting(url: str, lasting: bool) -> None:
    assert is_lasting_url(url) is lasting


def test_a_url_shows_no_secret() -> None:
    url = StoreUrl.of("https://user:SECRET@host/c/prefix?sig=SECRET#SECRET")
    assert str(url) == "https://host/c/prefix"
    assert "SECRET" not in repr(url)
