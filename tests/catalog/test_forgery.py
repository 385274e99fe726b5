"""Whoever can write to the store, but lacks the domain's key, changes nothing in the chain unnoticed.

Every attack here makes all checksums right: that of the object, and those by which its successors name it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from uuid import UUID

import pytest

from jetdr_core.catalog import Authenticity, Catalog, ChainBreak, chain_key, heartbeat, heartbeat_key, summary_key
from jetdr_core.catalog.summary import decode_summary, encode_summary
from jetdr_core.domain_key import TAG_BYTES, DomainKey, KeyMode, TagPurpose
from jetdr_core.errors import ChainBroken, DamagedObject, Forged, UnsupportedVersion, WrongKey
from jetdr_core.segment import TRAILER_BYTES, believed_origin, object_checksum
from jetdr_core.segment.layout import CHECKSUM_AT, TAG_AT
from jetdr_core.segment.trailer import encode_trailer
from jetdr_core.store import MemoryStore
from tests.catalog.chains import DOMAIN, ChainMaker, run, time_ns
from tests.segment.tampering import changed, trailer_of, with_trailer_checksum

KEY = DomainKey(bytes(range(32)), DOMAIN)
OTHER_KEY = DomainKey(bytes(32), DOMAIN)
ENCRYPTING = DomainKey(bytes(range(32)), DOMAIN, mode=KeyMode.ENCRYPT)
OBJECTS = 8
"""Object 1 is the epoch object, object 2 adds the disk, the others have a write each, object 5 a mark."""

LSNS = 8


def keyed(domain_key: DomainKey | None = KEY) -> ChainMaker:
    maker = ChainMaker(domain_key=domain_key)
    maker.put(maker.begin())
    maker.add_disk()
    maker.segment()
    while maker.number <= OBJECTS:
        if maker.number == 5:
            maker.mark("before")
        maker.write(data=bytes([maker.number]) * 512)
        maker.segment()
    return maker


def get(store: MemoryStore, number: int) -> bytes:
    return run(store.get(chain_key(number)))


def put(store: MemoryStore, number: int, data: bytes) -> None:
    run(store.replace(chain_key(number), [data]))


def relink(store: MemoryStore, first: int = 1) -> None:
    """Let every object from ``first`` + 1 on name its predecessor again, as it is now. All checksums are right then."""
    for number in range(first, OBJECTS):
        checksum = object_checksum(get(store, number)[-TRAILER_BYTES:])
        data = get(store, number + 1)
        trailer = trailer_of(data)._replace(predecessor=checksum)
        put(store, number + 1, data[:-TRAILER_BYTES] + encode_trailer(trailer))


def change_content(store: MemoryStore) -> None:
    put(store, 4, changed(get(store, 4), 80))
    relink(store, 4)


def change_content_of_the_last(store: MemoryStore) -> None:
    put(store, OBJECTS, changed(get(store, OBJECTS), 80))


def change_the_epoch_object(store: MemoryStore) -> None:
    data = get(store, 1)
    trailer = trailer_of(data)._replace(first_time_ns=5, last_time_ns=5)
    put(store, 1, data[:-TRAILER_BYTES] + encode_trailer(trailer))
    relink(store)


def swap_two(store: MemoryStore) -> None:
    left, right = get(store, 4), get(store, 6)
    put(store, 4, right)
    put(store, 6, left)


def swap_two_and_relink(store: MemoryStore) -> None:
    """Exchange their content alone, so that LSNs and times stay as they must be."""
    left, right = get(store, 6), get(store, 7)
    places = ["first_lsn", "last_lsn", "first_time_ns", "last_time_ns", "predecessor", "number"]
    for number, data, place in ((6, right, left), (7, left, right)):
        there = {name: getattr(trailer_of(place), name) for name in places}
        put(store, number, data[:-TRAILER_BYTES] + encode_trailer(trailer_of(data)._replace(**there)))
    relink(store, 5)


def move_one(store: MemoryStore) -> None:
    """An object that was skipped makes room for another: everything from 4 on moves one number up."""
    for number in range(OBJECTS, 3, -1):
        put(store, number + 1, get(store, number))
    orphan = trailer_of(get(store, 4))._replace(epoch=1, predecessor=bytes(16))
    put(store, 4, get(store, 4)[:-TRAILER_BYTES] + encode_trailer(orphan))


def repeat_one(store: MemoryStore) -> None:
    put(store, 4, get(store, 3))
    relink(store, 3)


def leave_one_out(store: MemoryStore) -> None:
    for number in range(4, OBJECTS):
        put(store, number, get(store, number + 1))
    run(store.delete(chain_key(OBJECTS)))


def without_tags(store: MemoryStore) -> None:
    """The same chain, written by somebody without a key."""
    for number in range(1, OBJECTS + 1):
        put(store, number, get(keyed(None).store, number))


def without_a_tag_from_the_middle_on(store: MemoryStore) -> None:
    unkeyed = keyed(None).store
    for number in range(4, OBJECTS + 1):
        put(store, number, get(unkeyed, number))
    relink(store, 3)


def with_another_key(store: MemoryStore) -> None:
    theirs = keyed(OTHER_KEY).store
    for number in range(4, OBJECTS + 1):
        data = get(theirs, number)
        trailer = trailer_of(data)._replace(key_id=KEY.key_id)
        put(store, number, data[:-TRAILER_BYTES] + encode_trailer(trailer))
    relink(store, 3)


def of_another_domain_with_the_same_key(store: MemoryStore) -> None:
    """Object 4 of another domain that has, against all advice, the same key."""
    uuid = UUID(int=7)
    other = keyed(replace(KEY, domain_uuid=uuid)).store
    data = get(other, 4)
    put(store, 4, data[:-TRAILER_BYTES] + encode_trailer(trailer_of(data)._replace(domain_uuid=DOMAIN)))
    relink(store, 3)


def put_one_more(store: MemoryStore) -> None:
    """A forged object after the last."""
    data = get(store, OBJECTS)
    last = trailer_of(data)
    trailer = last._replace(
        predecessor=object_checksum(data[-TRAILER_BYTES:]),
        first_lsn=last.last_lsn + 1,
        last_lsn=last.last_lsn + 1,
        number=OBJECTS + 1,
    )
    put(store, OBJECTS + 1, data[:-TRAILER_BYTES] + encode_trailer(trailer))


def claim_a_newer_epoch(store: MemoryStore) -> None:
    forged = keyed(OTHER_KEY)
    forged.predecessor = object_checksum(get(store, OBJECTS)[-TRAILER_BYTES:])
    forged.store = store
    forged.put(forged.begin())


ATTACKS = [
    (change_content, 4),
    (change_content_of_the_last, OBJECTS),
    (swap_two, 4),
    (swap_two_and_relink, 6),
    (move_one, 4),
    (repeat_one, 4),
    (leave_one_out, 4),
    (without_a_tag_from_the_middle_on, 4),
    (with_another_key, 4),
    (of_another_domain_with_the_same_key, 4),
    (put_one_more, OBJECTS + 1),
    (claim_a_newer_epoch, OBJECTS + 1),
]


def test_a_chain_with_a_key_is_read_with_it_and_without_it(caplog: pytest.LogCaptureFixture) -> None:
    maker = keyed()
    catalog = maker.open()
    assert (catalog.lsn_last, catalog.chain_break, catalog.authenticity) == (LSNS, None, Authenticity.CHECKED)
    assert not caplog.records
    without = run(Catalog.open(maker.store))
    assert (without.lsn_last, without.authenticity) == (LSNS, Authenticity.NOT_CHECKED)
    assert without.points() == catalog.points()
    assert [record.message for record in caplog.records] == [
        f"no key was given: nothing that {maker.store.url} holds was authenticated"
    ]


def test_a_chain_without_a_key_says_so() -> None:
    assert keyed(None).open().authenticity is Authenticity.NO_KEY


@pytest.mark.parametrize(("attack", "number"), ATTACKS, ids=lambda value: getattr(value, "__name__", None))
def test_an_attack_ends_the_chain_before_it_and_is_named(attack: Callable[[MemoryStore], None], number: int) -> None:
    maker = keyed()
    whole = maker.open()
    attack(maker.store)
    catalog = maker.open()
    end = catalog.chain_break
    assert isinstance(end, ChainBreak)
    assert (end.number, end.is_forged) == (number, True), end
    assert chain_key(number) in str(end)
    assert catalog.lsn_last == int(whole.chain.links["last_lsn"][number - 2])
    with pytest.raises(Forged, match=f"{chain_key(number)}: chain: what follows LSN {catalog.lsn_last} is hidden"):
        run(catalog.resolve("latest"))
    assert run(catalog.resolve(catalog.lsn_last)).lsn == catalog.lsn_last
    if number <= OBJECTS:
        with pytest.raises(ChainBroken, match=chain_key(number)):
            run(catalog.resolve(whole.lsn_last))


@pytest.mark.parametrize("attack", [change_content, swap_two_and_relink, without_a_tag_from_the_middle_on])
def test_without_the_key_the_same_attack_is_not_seen(attack: Callable[[MemoryStore], None]) -> None:
    """What the key is for."""
    maker = keyed()
    attack(maker.store)
    assert run(Catalog.open(maker.store)).chain_break is None


@pytest.mark.parametrize("attack", [change_the_epoch_object, without_tags])
def test_a_forged_first_object_is_refused(attack: Callable[[MemoryStore], None]) -> None:
    maker = keyed()
    attack(maker.store)
    with pytest.raises(Forged, match=chain_key(1)):
        maker.open()


def test_another_key_is_refused_with_both_ids() -> None:
    maker = keyed()
    with pytest.raises(WrongKey, match=f"holds key {OTHER_KEY.key_id.hex()}; .* has key {KEY.key_id.hex()}"):
        run(Catalog.open(maker.store, domain_key=OTHER_KEY))


def test_the_key_of_another_domain_is_refused() -> None:
    with pytest.raises(WrongKey, match=str(DOMAIN)):
        run(Catalog.open(keyed().store, domain_key=replace(KEY, domain_uuid=UUID(int=7))))


def test_a_key_that_is_not_bound_yet_opens_its_domain() -> None:
    assert run(Catalog.open(keyed().store, domain_key=replace(KEY, domain_uuid=None))).lsn_last == LSNS


def test_a_replaced_container_of_another_domain_is_refused() -> None:
    """The container is exchanged for that of another domain of the same owner, with the same key."""
    other = keyed(replace(KEY, domain_uuid=UUID(int=7)))
    with pytest.raises(Forged, match=chain_key(1)):
        run(Catalog.open(other.store, domain_key=KEY))


# -- advisory objects --------------------------------------------------------------------------------------------------


def summarised(domain_key: DomainKey = KEY) -> ChainMaker:
    maker = keyed(domain_key)
    while maker.number < 1030:
        maker.segment()
    assert maker.summarise() == [0]
    return maker


def test_a_summary_with_a_right_tag_is_used() -> None:
    maker = summarised()
    assert maker.open().chain.summarised == {0}
    assert run(Catalog.open(maker.store)).chain.summarised == {0}


def test_an_encrypted_summary_is_used_with_the_key_and_refused_when_it_is_forged() -> None:
    maker = summarised(ENCRYPTING)
    catalog = maker.open()
    assert (catalog.chain.summarised, catalog.lsn_last, "before" in catalog.marks) == (
        frozenset({0}),
        1029,
        True,
    )
    data = run(maker.store.get(summary_key(0)))
    with pytest.raises(DamagedObject, match="is encrypted"):
        decode_summary(data, 0)
    run(maker.store.replace(summary_key(0), [data[:-1] + bytes([data[-1] ^ 1])]))
    assert (maker.open().chain.summarised, maker.open().lsn_last) == (frozenset(), 1029)


def test_a_forged_summary_is_ignored(caplog: pytest.LogCaptureFixture) -> None:
    maker = summarised()
    key = summary_key(0)
    summary = decode_summary(run(maker.store.get(key)), 0)
    links = summary.links.copy()
    links["payload_bytes"][3] += 512
    for forger in (None, OTHER_KEY):
        data = encode_summary(summary._replace(links=links), forger)
        assert data is not None
        run(maker.store.replace(key, [data]))
        caplog.clear()
        assert (maker.open().chain.summarised, maker.open().lsn_last) == (frozenset(), 1029)
        assert f"{key} is ignored: {key}: summary: has no right tag" in caplog.text


def test_a_forged_heartbeat_is_ignored(caplog: pytest.LogCaptureFixture) -> None:
    maker = keyed()
    caplog.set_level(logging.WARNING)
    maker.beat(LSNS, 60)
    assert maker.open().time_last_ns == time_ns(LSNS) + 60 * 10**9
    for forger in (None, OTHER_KEY):
        key, data = heartbeat(1, lsn=100, time_ns=time_ns(LSNS), domain_key=forger)
        run(maker.store.replace(key, [data]))
        caplog.clear()
        catalog = maker.open()
        assert (catalog.time_last_ns, catalog.tail_loss) == (time_ns(LSNS), None)
        assert "has no right tag" in caplog.text


def test_a_heartbeat_of_another_epoch_does_not_count(caplog: pytest.LogCaptureFixture) -> None:
    maker = keyed()
    maker.put(maker.begin())
    _, older = heartbeat(1, lsn=LSNS, time_ns=time_ns(100), domain_key=KEY)
    run(maker.store.replace(heartbeat_key(2), [older]))
    assert maker.open().time_last_ns == time_ns(LSNS)
    assert "it is of epoch 1" in caplog.text


def of_version(data: bytes, version: int, key: DomainKey | None = None) -> bytes:
    """``data`` as an engine of that version would put it: with a right checksum, and with ``key`` a right tag."""
    trailer = bytearray(data[-TRAILER_BYTES:])
    trailer[8:10] = version.to_bytes(2, "little")
    if key is not None:
        trailer[TAG_AT : TAG_AT + TAG_BYTES] = bytes(TAG_BYTES)
        trailer[TAG_AT : TAG_AT + TAG_BYTES] = key.tag(TagPurpose.TRAILER, trailer[:CHECKSUM_AT])
    return data[:-TRAILER_BYTES] + with_trailer_checksum(bytes(trailer))


@pytest.mark.parametrize("number", [1, 4, OBJECTS, OBJECTS + 1])
def test_an_object_that_claims_to_be_of_a_newer_format_shuts_nobody_out(number: int) -> None:
    """Anybody may write any version. With the key it is a forged object like any other."""
    store = keyed().store
    planted = of_version(get(store, min(number, OBJECTS)), 9)
    put(store, number, planted)
    with pytest.raises(UnsupportedVersion):
        run(Catalog.open(store))
    if number == 1:
        with pytest.raises(Forged, match="newer format, and has a wrong tag"):
            run(Catalog.open(store, domain_key=KEY))
        return
    catalog = run(Catalog.open(store, domain_key=KEY))
    end = catalog.chain_break
    assert end is not None
    assert (end.number, end.is_forged) == (number, True)
    with pytest.raises(Forged):
        believed_origin(planted[-TRAILER_BYTES:], number, KEY, "it")


@pytest.mark.parametrize("number", [1, 4, OBJECTS])
def test_an_object_that_a_newer_engine_made_is_no_forgery(number: int) -> None:
    store = keyed().store
    put(store, number, of_version(get(store, number), 9, KEY))
    with pytest.raises(UnsupportedVersion, match="use a newer engine"):
        run(Catalog.open(store, domain_key=KEY))
