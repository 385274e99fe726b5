"""A history that went through its codec says what the history said, at every LSN, and folds on from there."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from uuid import UUID

import lz4.block
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from jetdr_core.catalog import DomainHistory, decode_history, encode_history
from jetdr_core.catalog import history_codec as codec
from jetdr_core.errors import DamagedObject, UnsupportedVersion
from jetdr_core.record import ControlRecord, Kind
from tests.catalog.test_history import SIZE, add, folded, histories, record

DOMAIN = UUID(int=7)
OTHER = UUID(int=8)


def through(history: DomainHistory, lsn: int) -> DomainHistory:
    block = encode_history(history.facts(lsn), DOMAIN)
    assert block is not None
    return decode_history(block, DOMAIN, "the copy")


@settings(max_examples=150, deadline=None)
@given(histories(), st.data())
def test_what_was_cut_off_at_any_lsn_folds_on_to_the_same_history(
    records: list[ControlRecord], data: st.DataObject
) -> None:
    """The block is made from the history as it is, and holds what the history was at that LSN."""
    whole, last = folded(*records), records[-1].lsn
    cut = data.draw(st.integers(0, last + 2))
    again = through(whole, cut)
    assert again.facts(cut) == folded(*(item for item in records if item.lsn <= cut)).facts(cut)
    for item in records:  # those before the cut are ignored
        again.apply(item)
    assert again.facts(last) == whole.facts(last)
    assert again.disks == whole.disks
    assert again.why_inconsistent == whole.why_inconsistent
    assert encode_history(again.facts(last), DOMAIN) == encode_history(whole.facts(last), DOMAIN)


def sample() -> DomainHistory:
    return folded(
        add(1, 1, holds_data=True),
        record(3, Kind.DISK_READY, 1),
        record(4, Kind.MARK, name="before"),
        record(5, Kind.CONFIG, name="vm.vmx", text="cpus=2"),
        record(6, Kind.GAP_OPEN, reason="the ring \ud800 is lost", since_ns=900),
        record(7, Kind.GAP_CLOSE),
        add(8, 2),
        record(9, Kind.DISK_GROW, 2, size_bytes=2 * SIZE),
        record(10, Kind.DISK_REMOVE, 1),
        record(11, Kind.GAP_OPEN, reason="again"),
    )


def test_every_damaged_byte_is_found() -> None:
    block = encode_history(sample().facts(12), DOMAIN)
    assert block is not None
    for at in range(len(block)):
        broken = bytearray(block)
        broken[at] ^= 0x41
        with pytest.raises(DamagedObject, match="the copy"):
            decode_history(broken, DOMAIN, "the copy")
    for length in range(len(block)):
        with pytest.raises(DamagedObject):
            decode_history(block[:length], DOMAIN, "the copy")


def test_the_history_of_another_domain_is_refused() -> None:
    block = encode_history(sample().facts(12), DOMAIN)
    assert block is not None
    with pytest.raises(DamagedObject, match="another domain"):
        decode_history(block, OTHER, "the copy")


def resealed(change: Callable[[Any], object], *, raw_bytes: int | None = None, version: int = 1) -> bytes:
    """The sample, changed by somebody who knows the format and its checksums."""
    block = encode_history(sample().facts(12), DOMAIN)
    assert block is not None
    parts = json.loads(lz4.block.decompress(block[codec._HEADER.size :], uncompressed_size=1 << 20))
    change(parts)
    raw = json.dumps(parts).encode()
    body = lz4.block.compress(raw, store_size=False)
    sizes = (raw_bytes or len(raw), len(body), xxhash.xxh3_64_intdigest(body))
    header = codec._HEADER.pack(b"JDRHIST\1", version, 1, DOMAIN.bytes, 12, *sizes, 0)[:-8]
    return header + xxhash.xxh3_64_intdigest(header).to_bytes(8, "little") + bytes(body)


BASELINE, DISKS, MARKS, GAPS, CONFIGS, TURNS = range(6)
CHANGES: dict[str, Callable[[Any], object]] = {
    "a part is missing": lambda parts: parts.pop(),
    "a part is no list": lambda parts: parts.__setitem__(GAPS, {"0": 1}),
    "a row is short": lambda parts: parts[GAPS][0].pop(),
    "a baseline of the future": lambda parts: parts[BASELINE].__setitem__(1, 13),
    "a disk's name leads elsewhere": lambda parts: parts[DISKS][0].__setitem__(1, "../db01"),
    "a disk's number is negative": lambda parts: parts[DISKS][0].__setitem__(0, -1),
    "a disk's number is true": lambda parts: parts[DISKS][0].__setitem__(0, True),
    "two disks with one number": lambda parts: parts[DISKS][0].__setitem__(0, 2),
    "a disk is removed before it is added": lambda parts: parts[DISKS][0].__setitem__(6, 1),
    "a disk without size": lambda parts: parts[DISKS][0].__setitem__(7, []),
    "a disk of half a sector": lambda parts: parts[DISKS][0][7][0].__setitem__(1, 256),
    "a disk that shrinks": lambda parts: parts[DISKS][1][7][1].__setitem__(1, 512),
    "a mark named latest": lambda parts: parts[MARKS][0].__setitem__(3, "latest"),
    "a mark of the future": lambda parts: parts[MARKS][0].__setitem__(1, 99),
    "a mark twice": lambda parts: parts[MARKS].append(parts[MARKS][0]),
    "gaps overlap": lambda parts: parts[GAPS][0].__setitem__(3, 12),
    "a gap without end before another": lambda parts: parts[GAPS][0].__setitem__(slice(3, 5), [None, None]),
    "a turn of the clock by less than before": lambda parts: parts.append([[3, 50, 9], [4, 60, 8]]),
    "a turn of the clock before the one before": lambda parts: parts.append([[4, 50, 8], [3, 60, 9]]),
    "a turn of the clock that is behind": lambda parts: parts.append([[4, 50, -8]]),
    "two lists of turns of the clock": lambda parts: parts.extend([[], []]),
    "a gap with half an end": lambda parts: parts[GAPS][0].__setitem__(4, None),
    "a time before 1970": lambda parts: parts[GAPS][0].__setitem__(1, -1),
    "a time beyond all time": lambda parts: parts[GAPS][0].__setitem__(1, 1 << 63),
    "a file outside the folder": lambda parts: parts[CONFIGS][0].__setitem__(1, "../vm.vmx"),
    "a text that is none": lambda parts: parts[CONFIGS][0].__setitem__(2, 5),
    "turns do not alternate": lambda parts: parts[TURNS][0].__setitem__(2, False),
    "turns go back": lambda parts: parts[TURNS][1].__setitem__(0, 1),
    "consistent before the baseline": lambda parts: parts.__setitem__(BASELINE, None),
    "a float": lambda parts: parts[TURNS][0].__setitem__(0, 3.0),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_no_engine_wrote_is_refused(change: Callable[[Any], object]) -> None:
    decode_history(resealed(lambda _: None), DOMAIN, "the copy")
    with pytest.raises(DamagedObject, match="the copy"):
        decode_history(resealed(change), DOMAIN, "the copy")


def test_sizes_that_cannot_be_are_refused_before_anything_is_allocated() -> None:
    with pytest.raises(DamagedObject, match="cannot be in"):
        decode_history(resealed(lambda _: None, raw_bytes=1 << 40), DOMAIN, "the copy")
    with pytest.raises(UnsupportedVersion, match="newer engine"):
        decode_history(resealed(lambda _: None, version=3), DOMAIN, "the copy")


def test_a_history_that_is_too_long_has_no_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "_RAW_BYTES_MAX", 100)
    assert encode_history(sample().facts(12), DOMAIN) is None
