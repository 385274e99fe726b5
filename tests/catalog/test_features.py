"""A store with a feature that this engine does not know is refused, but nobody is shut out by a planted marker."""

from __future__ import annotations

import re

import pytest

from jetdr_core.catalog import Catalog
from jetdr_core.catalog.features import feature_object
from jetdr_core.catalog.keys import feature_key
from jetdr_core.domain_key import DomainKey
from jetdr_core.errors import ObjectUnavailable, UnsupportedVersion
from jetdr_core.store import MemoryStore, StoreWrapper
from tests.catalog.chains import DOMAIN, ChainMaker, run

KEY = DomainKey(bytes(range(32)), DOMAIN)


def store_of(key: DomainKey | None) -> MemoryStore:
    maker = ChainMaker(domain_key=key)
    maker.put(maker.begin())
    maker.add_disk()
    maker.write()
    maker.segment()
    return maker.store


def put(store: MemoryStore, key: str, data: bytes) -> None:
    run(store.put_if_absent(key, [data]))


@pytest.mark.parametrize("key", [None, KEY], ids=["no-key", "key"])
def test_a_feature_that_is_not_known_is_refused_by_name(key: DomainKey | None) -> None:
    store = store_of(key)
    put(store, *feature_object("retention", key))
    said = re.escape(f"the domain in {store.url} uses 'retention', which this engine does not know; use a newer engine")
    for reader in {key, None}:
        with pytest.raises(UnsupportedVersion, match=said):
            run(Catalog.open(store, domain_key=reader))


ANOTHER = DomainKey(bytes(32), DOMAIN)
OTHER_NAME = feature_object("packing", KEY)[1]
RIGHT = feature_object("retention", KEY)[1]


PLANTED = [
    *(b"", b"x", RIGHT[:-1], RIGHT + b"\0", RIGHT[::-1], bytes(len(RIGHT)), OTHER_NAME),
    *(feature_object("retention", None)[1], feature_object("retention", ANOTHER)[1]),
    *(bytes(byte ^ (at == nth) for nth, byte in enumerate(RIGHT)) for at in range(len(RIGHT))),
]


@pytest.mark.parametrize("nth", range(len(PLANTED)))
def test_a_planted_feature_shuts_nobody_out_who_has_the_key(nth: int, caplog: pytest.LogCaptureFixture) -> None:
    store = store_of(KEY)
    put(store, feature_key("retention"), PLANTED[nth])
    assert run(Catalog.open(store, domain_key=KEY)).lsn_last == 2
    assert "format/retention is ignored: no owner of the domain put it" in caplog.text


def test_a_feature_whose_object_cannot_be_read_may_be_an_owners() -> None:
    class Archived(StoreWrapper):
        async def get_range(self, key: str, offset: int, length: int) -> bytes:
            if key.startswith("format/"):
                raise ObjectUnavailable("get range", key, "the object is in the archive tier")
            return await self._inner.get_range(key, offset, length)

    store = store_of(KEY)
    put(store, *feature_object("retention", KEY))
    with pytest.raises(UnsupportedVersion):
        run(Catalog.open(Archived(store), domain_key=KEY))


def test_names_that_are_no_feature_are_left_alone() -> None:
    store = store_of(None)
    for key in ("format/A", "format/a/b", "format/a.b", "formats", "format/" + "a" * 65):
        put(store, key, b"x")
    assert run(Catalog.open(store)).lsn_last == 2
