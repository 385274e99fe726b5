"""An object with tags cannot be changed by somebody who lacks the key, though every checksum is made right again."""

from __future__ import annotations

import random
from uuid import UUID

import numpy as np
import pytest
import xxhash

from jetdr_core.control_bodies import EpochOwner
from jetdr_core.domain_key import DomainKey
from jetdr_core.errors import DamagedObject, Forged, UnsupportedVersion
from jetdr_core.record import Kind
from jetdr_core.segment import (
    NO_PREDECESSOR,
    TRAILER_BYTES,
    SealedSegment,
    build_body,
    check_header,
    check_tag,
    decode_epoch,
    decode_frame,
    decode_index,
    decode_trailer,
    seal,
    seal_epoch,
)
from tests.segment.sample import DOMAIN, KEY, Records, object_bytes
from tests.segment.tampering import changed, trailer_of, with_trailer_checksum

NUMBER = 7
SECRET = bytes(range(32))
DOMAIN_KEY = DomainKey(SECRET, DOMAIN)


def some_records(seed: int) -> Records:
    """Two frames, the second short, a mark and a discard."""
    noise = random.Random(seed)
    records = Records()
    records.write(1, 0, bytes(512) + noise.randbytes(512))
    records.write(1, 4096, noise.randbytes(256 << 10))
    records.control(Kind.MARK, body={"name": "before"})
    records.zero(2, 1 << 20, 1 << 20, flags=2)
    return records


def segment(
    number: int = NUMBER,
    domain_key: DomainKey | None = DOMAIN_KEY,
    seed: int = 1,
    records: Records | None = None,
) -> SealedSegment:
    records = records or some_records(seed)
    content_key = None if domain_key is None else domain_key.new_content_key()
    body = build_body([records.batch()], content_key=content_key)
    return seal(
        body, domain_uuid=DOMAIN, epoch=1, timeline=1, predecessor=b"p" * 16, number=number, domain_key=domain_key
    )


def epoch(number: int = 1, domain_key: DomainKey = DOMAIN_KEY) -> SealedSegment:
    return seal_epoch(
        domain_uuid=DOMAIN,
        epoch=1,
        timeline=1,
        predecessor=NO_PREDECESSOR,
        lsn_next=1,
        time_ns=1_700_000_000_000_000_000,
        owner=EpochOwner(owner="drva", host="host", domain="payroll"),
        number=number,
        domain_key=domain_key,
    )


SEGMENT = object_bytes(segment())
EPOCH = object_bytes(epoch())


def read_everything(data: bytes, number: int = NUMBER, domain_key: DomainKey | None = DOMAIN_KEY) -> None:
    """Read all that an object says. Raises what is wrong with it."""
    trailer = decode_trailer(data, KEY)
    if trailer.object_bytes != len(data):
        raise DamagedObject(KEY, "trailer", "size")
    check_tag(trailer, number, domain_key, KEY)
    check_header(data, trailer, KEY)
    index = data[trailer.index_offset : trailer.index_end]
    if trailer.kind == 2:
        decode_epoch(index, trailer, KEY, domain_key)
        return
    decoded = decode_index(index, trailer, KEY, domain_key)
    for nth, row in enumerate(decoded.frames):
        stored = data[int(row["offset"]) : int(row["offset"]) + int(row["stored_bytes"])]
        decode_frame(stored, row, KEY, number=nth, content_key=decoded.content_key)


def places(data: bytes) -> list[int]:
    """Every byte, but of the long frames some at random."""
    said = trailer_of(data)
    middle = range(64 + 300, max(64 + 300, said.index_offset - 300))
    sparse = random.Random(4).sample(middle, min(len(middle), 100))
    return [place for place in range(len(data)) if place not in middle] + sparse


def test_an_object_is_read_as_it_was_made_with_its_key_and_without() -> None:
    read_everything(SEGMENT)
    read_everything(SEGMENT, domain_key=None)
    read_everything(EPOCH, 1)
    read_everything(EPOCH, domain_key=None)
    assert (trailer_of(SEGMENT).is_tagged, trailer_of(SEGMENT).key_id) == (True, DOMAIN_KEY.key_id)


@pytest.mark.parametrize(("data", "number"), [(SEGMENT, NUMBER), (EPOCH, 1)], ids=["segment", "epoch"])
def test_any_byte_that_is_changed_is_noticed_though_all_checksums_are_right(data: bytes, number: int) -> None:
    unnoticed = []
    for place in places(data):
        forged = changed(data, place)
        try:
            read_everything(forged, number)
        except (Forged, DamagedObject, UnsupportedVersion):
            continue
        if forged != data:  # a checksum that was changed, and then made right again
            unnoticed.append(place)
    assert unnoticed == []


def test_without_the_key_the_same_changes_go_unnoticed() -> None:
    """What the tags are for: the checksums alone do not tell."""
    read_everything(changed(SEGMENT, 100), domain_key=None)


def test_a_frame_whose_checksum_is_forged_fails_its_tag() -> None:
    trailer = trailer_of(SEGMENT)
    index = decode_index(SEGMENT[trailer.index_offset : trailer.index_end], trailer, KEY, DOMAIN_KEY)
    row = index.frames[0].copy()
    stored = bytearray(SEGMENT[int(row["offset"]) : int(row["offset"]) + int(row["stored_bytes"])])
    stored[17] ^= 1
    row["checksum"] = xxhash.xxh3_64_intdigest(stored)
    decode_frame(bytes(stored), row, KEY)
    with pytest.raises(Forged, match=f"{KEY}: frame at 64: has a wrong tag"):
        decode_frame(bytes(stored), row, KEY, number=0, content_key=index.content_key)


def test_a_frame_in_the_place_of_another_fails_its_tag() -> None:
    trailer = trailer_of(SEGMENT)
    index = decode_index(SEGMENT[trailer.index_offset : trailer.index_end], trailer, KEY, DOMAIN_KEY)
    row = index.frames[1]
    stored = SEGMENT[int(row["offset"]) : int(row["offset"]) + int(row["stored_bytes"])]
    decode_frame(stored, row, KEY, number=1, content_key=index.content_key)
    with pytest.raises(Forged):
        decode_frame(stored, row, KEY, number=0, content_key=index.content_key)
    other = trailer_of(object_bytes(segment()))
    with pytest.raises(Forged):
        decode_frame(stored, row, KEY, number=1, content_key=DOMAIN_KEY.content_key(other.salt))


def test_an_index_whose_checksum_is_forged_fails_its_tag() -> None:
    other = object_bytes(segment(seed=2))
    theirs, ours = trailer_of(other), trailer_of(SEGMENT)
    index = other[theirs.index_offset : theirs.index_end]
    forged = ours._replace(
        index_checksum=theirs.index_checksum,
        index_stored_bytes=theirs.index_stored_bytes,
        index_raw_bytes=theirs.index_raw_bytes,
    )
    decode_index(index, forged, KEY)
    with pytest.raises(Forged, match=f"{KEY}: index: has a wrong tag"):
        decode_index(index, forged, KEY, DOMAIN_KEY)


def test_an_object_at_another_number_is_noticed() -> None:
    with pytest.raises(Forged, match=f"{KEY}: trailer: was made as object 7"):
        read_everything(SEGMENT, NUMBER + 1)


def test_an_object_that_moves_is_sealed_again() -> None:
    sealed = segment()
    moved = sealed.moved_to(NUMBER + 2, b"q" * 16)
    read_everything(object_bytes(moved), NUMBER + 2)
    assert (moved.trailer.predecessor, moved.trailer.salt) == (b"q" * 16, sealed.trailer.salt)
    assert moved.checksum != sealed.checksum
    assert object_bytes(sealed.moved_to(NUMBER, sealed.trailer.predecessor)) == object_bytes(sealed)


def test_an_object_without_tags_stays_as_it_is_when_it_moves() -> None:
    sealed = segment(domain_key=None)
    assert object_bytes(sealed.moved_to(99, b"p" * 16)) == object_bytes(sealed)


def test_an_object_without_tags_is_not_believed_in_a_domain_with_a_key() -> None:
    with pytest.raises(Forged, match=r"has no tag, but .* says that objects from 1 on have one"):
        read_everything(object_bytes(segment(domain_key=None)))


def test_an_object_without_tags_from_before_the_key_is_believed() -> None:
    late = DomainKey(SECRET, DOMAIN, number_first=NUMBER + 1)
    read_everything(object_bytes(segment(domain_key=None)), domain_key=late)
    read_everything(SEGMENT, domain_key=late)
    with pytest.raises(Forged):
        read_everything(object_bytes(segment(domain_key=None)), NUMBER + 1, domain_key=late)


def test_an_object_of_another_key_or_another_domain_is_noticed() -> None:
    with pytest.raises(Forged, match="was tagged with key"):
        read_everything(SEGMENT, domain_key=DomainKey(bytes(32), DOMAIN))
    with pytest.raises(Forged, match=f"is of domain {DOMAIN}"):
        read_everything(SEGMENT, domain_key=DomainKey(SECRET, UUID(int=5)))


def test_a_tag_does_not_fit_another_trailer() -> None:
    """Tags of two genuine objects, exchanged: the tag covers the salt, and the salt binds the content."""
    other = object_bytes(segment())
    for place, size in ((176, 16), (200, 16), (216, 16)):
        raw = bytearray(SEGMENT[-TRAILER_BYTES:])
        raw[place : place + size] = other[-TRAILER_BYTES:][place : place + size]
        with pytest.raises(Forged):
            read_everything(SEGMENT[:-TRAILER_BYTES] + with_trailer_checksum(bytes(raw)))


def test_an_older_engine_refuses_objects_with_tags_as_newer() -> None:
    """Version and flags are where older engines look for them."""
    assert np.frombuffer(SEGMENT[8:10], "<u2")[0] == np.frombuffer(SEGMENT[-248:-246], "<u2")[0] == 2
    raw = bytearray(SEGMENT[-TRAILER_BYTES:])
    raw[11] |= 4
    with pytest.raises(UnsupportedVersion, match="format 2 with flags 5"):
        decode_trailer(with_trailer_checksum(bytes(raw)), KEY)
