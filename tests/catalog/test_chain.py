"""A reader follows checksums, not numbers: an orphan is passed over, and a break is named."""

from __future__ import annotations

import pytest
import xxhash

from jetdr_core.catalog import Catalog, ChainBreak
from jetdr_core.catalog.listing import IN_FLIGHT_MAX
from jetdr_core.control_bodies import EpochOwner
from jetdr_core.errors import ChainBroken, DamagedObject, UnsupportedVersion
from jetdr_core.record import Kind
from jetdr_core.segment import NO_PREDECESSOR, SealedSegment, seal_epoch
from jetdr_core.segment.layout import CHECKSUM_AT, TRAILER_BYTES
from jetdr_core.segment.trailer import encode_trailer
from tests.catalog.chains import DOMAIN, ChainMaker, domain, run


def lsns(catalog: Catalog) -> list[tuple[int, int]]:
    return [(int(row["first_lsn"]), int(row["last_lsn"])) for row in catalog.segments]


def kinds(catalog: Catalog) -> list[int]:
    return [int(kind) for kind in catalog.chain.links["kind"]]


def break_of(catalog: Catalog) -> ChainBreak:
    assert catalog.chain_break is not None
    return catalog.chain_break


def test_orphans_of_a_fenced_owner_are_passed_over() -> None:
    old = domain(1)
    old.write()
    lost = old.seal()  # never arrives
    old.number += 1
    new = old.fork()
    new.number, new.lsn, new.predecessor = old.number - 1, lost.first_lsn, lost.trailer.predecessor
    old.segment()
    old.segment()
    new.put(new.begin())
    new.number = old.number
    new.segment(3)
    catalog = new.open()
    assert kinds(catalog) == [2, 1, 1, 2, 0, 0, 1]
    assert lsns(catalog) == [(1, 1), (2, 2), (3, 5)]
    assert (catalog.chain.tail.epoch, catalog.chain.owner.owner, catalog.chain_break) == (2, "owner-2", None)
    assert catalog.chain.tail.number == 7


def test_object_whose_number_an_orphan_took_chains_at_a_later_one() -> None:
    maker = domain(1)
    fenced = maker.fork()
    fenced.predecessor = b"?" * 16
    fenced.write()
    orphan = fenced.seal()
    maker.put(maker.begin())
    maker.write()
    sealed = maker.seal()
    maker.put(orphan)
    maker.put(sealed)
    catalog = maker.open()
    assert (kinds(catalog)[-3:], catalog.chain_break) == ([2, 0, 1], None)


def orphaned(maker: ChainMaker) -> SealedSegment:
    """A segment of the present owner, which a newer one has fenced."""
    fenced = maker.fork()
    fenced.predecessor = b"?" * 16
    fenced.write()
    return fenced.seal()


def test_owner_that_dies_before_it_has_renumbered_its_segments_leaves_orphans_of_its_own() -> None:
    """An orphan took the number of the first of three segments in flight, and the other two were stored."""
    maker = domain(1)
    orphan = orphaned(maker)
    maker.put(maker.begin())
    before = maker.fork()
    maker.write()
    maker.seal()
    maker.put(orphan)
    maker.segment()
    maker.segment()
    catalog = maker.open()
    assert (kinds(catalog)[-4:], catalog.chain_break, catalog.lsn_last) == ([2, 0, 0, 0], None, 2)
    before.number = maker.number
    before.put(before.begin())
    before.segment(2)
    catalog = before.open()
    assert (kinds(catalog)[-2:], catalog.chain_break, catalog.lsn_last) == ([2, 1], None, 4)


def test_segment_of_its_own_epoch_that_no_orphan_explains_is_damage() -> None:
    maker = domain(1)
    orphan = orphaned(maker)
    maker.put(maker.begin())
    maker.put(orphan)
    maker.segment()  # chains, so the orphan explains nothing of what follows
    maker.predecessor = b"?" * 16
    key = maker.segment()
    assert break_of(maker.open()).key == key


def test_epoch_object_that_does_not_chain_is_damage_after_an_orphan_too() -> None:
    maker = domain(1)
    orphan = orphaned(maker)
    maker.put(maker.begin())
    maker.put(orphan)
    maker.predecessor = b"?" * 16
    key = maker.put(maker.begin())
    assert break_of(maker.open()).key == key


def test_more_segments_than_can_be_in_flight_are_damage() -> None:
    maker = domain(1)
    orphan = orphaned(maker)
    maker.put(maker.begin())
    maker.write()
    maker.seal()
    maker.put(orphan)
    keys = [maker.segment() for _ in range(IN_FLIGHT_MAX + 1)]
    assert break_of(maker.open()).key == keys[-1]


def test_marks_of_orphans_do_not_exist() -> None:
    old = domain(1)
    old.number += 1
    old.predecessor, before = b"?" * 16, old.predecessor
    old.mark("never happened")
    old.segment()
    new = old.fork()
    new.number, new.lsn, new.predecessor = old.number - 2, 3, before
    new.put(new.begin())
    assert new.open().marks == {}


def test_chain_ends_at_the_first_missing_number_and_says_so() -> None:
    maker = domain(5)
    run(maker.store.delete("chain/00000000/0000000004"))
    catalog = maker.open()
    assert break_of(catalog) == (4, "chain/00000000/0000000004", "chain/00000000/0000000004 is missing", 3, True, False)
    assert (catalog.lsn_last, catalog.chain.tail.number) == (2, 3)


def test_damaged_trailer_in_the_middle_ends_the_chain_by_name() -> None:
    maker = domain(5)
    maker.damage("chain/00000000/0000000004")
    catalog = maker.open()
    end = break_of(catalog)
    assert (end.number, end.objects_after, catalog.lsn_last) == (4, 3, 2)
    assert "0000000004: trailer: magic or checksum is wrong" in end.problem
    with pytest.raises(ChainBroken, match="0000000004: trailer"):
        run(catalog.resolve(3))
    assert run(catalog.resolve(2)).lsn == 2


def test_truncated_object_is_named() -> None:
    maker = domain(3)
    key = "chain/00000000/0000000004"
    run(maker.store.replace(key, [run(maker.store.get(key))[:-100]]))
    assert "0000000004" in break_of(maker.open()).problem


def test_damaged_index_without_control_records_leaves_every_point() -> None:
    maker = domain(3)
    maker.damage("chain/00000000/0000000004", -300)
    catalog = maker.open()
    assert (catalog.chain_break, catalog.lsn_last) == (None, 4)
    with pytest.raises(DamagedObject, match="0000000004: index"):
        run(catalog.index(4))


def test_damaged_index_with_control_records_ends_the_chain() -> None:
    maker = domain(1)
    maker.control(Kind.GAP_OPEN, reason="unknown to the reader")
    key = maker.segment()
    maker.segment()
    maker.damage(key, -300)
    catalog = maker.open()
    assert (break_of(catalog).key, catalog.lsn_last) == (key, 2)


def test_owner_that_goes_on_before_the_damage_heals_the_chain() -> None:
    maker = domain(3)
    maker.damage("chain/00000000/0000000004")
    healed = maker.fork()
    tail = maker.open().chain.tail
    healed.number, healed.lsn, healed.predecessor = tail.number + 1, tail.lsn_last + 1, tail.checksum
    healed.put(healed.begin())
    healed.segment(7)
    catalog = healed.open()
    assert (catalog.chain_break, catalog.lsn_last, kinds(catalog)) == (None, 9, [2, 1, 1, 0, 0, 2, 1])


def test_object_that_neither_chains_nor_is_an_orphan_ends_the_chain() -> None:
    maker = domain(1)
    maker.predecessor = b"?" * 16
    key = maker.segment()
    maker.segment()
    end = break_of(maker.open())
    assert (end.key, "does not continue the chain" in end.problem) == (key, True)


def test_segment_that_skips_an_lsn_ends_the_chain() -> None:
    maker = domain(1)
    maker.lsn += 1
    maker.segment()
    assert "begins with LSN 4, the chain ends with 2" in break_of(maker.open()).problem


def test_segment_of_another_domain_ends_the_chain() -> None:
    maker = domain(1)
    maker.write()
    segment = maker.seal()
    other = segment.trailer._replace(domain_uuid=NO_DOMAIN)
    maker.put(SealedSegment([*segment.parts[:-1], encode_trailer(other)], b"", other, []))
    assert break_of(maker.open()).number == 4


NO_DOMAIN = type(DOMAIN)(int=0)


def test_record_that_contradicts_the_history_ends_it_before_its_segment() -> None:
    maker = domain(2)
    maker.write()
    maker.add_disk(1, "again")
    key = maker.segment()
    maker.mark("after")
    maker.segment()
    catalog = maker.open()
    assert (break_of(catalog).key, catalog.lsn_last, catalog.chain.tail.lsn_last) == (key, 3, 3)
    assert catalog.marks == {}
    assert run(catalog.resolve("latest")).lsn == 3


def test_chain_of_a_newer_format_is_refused() -> None:
    maker = domain(1)
    maker.write()
    segment = maker.seal()
    trailer = bytearray(encode_trailer(segment.trailer))
    trailer[8] = 2
    trailer[CHECKSUM_AT:TRAILER_BYTES] = xxhash.xxh3_64_intdigest(trailer[:CHECKSUM_AT]).to_bytes(8, "little")
    maker.put(SealedSegment([*segment.parts[:-1], bytes(trailer)], b"", segment.trailer, []))
    with pytest.raises(UnsupportedVersion, match=r"0000000004.*newer engine"):
        maker.open()


def test_missing_beginning_is_named() -> None:
    maker = domain(2)
    run(maker.store.delete("chain/00000000/0000000001"))
    with pytest.raises(ChainBroken, match="chain/00000000/0000000001 is missing"):
        maker.open()


def test_damaged_beginning_is_named() -> None:
    maker = domain(2)
    maker.damage("chain/00000000/0000000001")
    with pytest.raises(DamagedObject, match="chain/00000000/0000000001"):
        maker.open()


@pytest.mark.parametrize("name", ["../x", "", 5, None])
def test_domain_with_an_impossible_name_is_refused(name: object) -> None:
    maker = ChainMaker()
    epoch = seal_epoch(
        domain_uuid=DOMAIN,
        epoch=1,
        timeline=1,
        predecessor=NO_PREDECESSOR,
        lsn_next=1,
        time_ns=1,
        owner=EpochOwner(domain=name),  # type: ignore[arg-type]
    )
    maker.put(epoch)
    with pytest.raises(DamagedObject, match=r"epoch: .*domain"):
        maker.open()


def test_segment_as_the_beginning_is_refused() -> None:
    maker = ChainMaker()
    maker.epoch = 1
    maker.segment()
    with pytest.raises(DamagedObject, match="beginning"):
        maker.open()


def test_stray_objects_are_left_alone() -> None:
    maker = domain(2)
    for key in ("chain/00000000/readme", "chain/00000000/00000000009", "chain/00000000/0000009999", "catalog/x", "etc"):
        run(maker.store.replace(key, [b"stray"]))
    assert (maker.open().chain_break, maker.open().lsn_last) == (None, 3)
