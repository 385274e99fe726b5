"""An encrypted object says nothing of its content without the key, and is otherwise read as any other."""

from __future__ import annotations

import pytest

from jetdr_core.domain_key import DomainKey, KeyMode
from jetdr_core.errors import DamagedObject, Forged, UnsupportedVersion, WrongKey
from jetdr_core.segment import decode_frame, decode_index
from tests.segment.sample import DOMAIN, KEY, Records, object_bytes
from tests.segment.tampering import changed, trailer_of
from tests.segment.test_tags import NUMBER, SECRET, epoch, places, read_everything, segment

ENCRYPTING = DomainKey(SECRET, DOMAIN, mode=KeyMode.ENCRYPT)
PLAIN = DomainKey(SECRET, DOMAIN)
SEGMENT = object_bytes(segment(domain_key=ENCRYPTING))
EPOCH = object_bytes(epoch(domain_key=ENCRYPTING))


def test_frames_and_index_are_those_that_were_encrypted() -> None:
    read_everything(SEGMENT, domain_key=ENCRYPTING)
    read_everything(EPOCH, 1, domain_key=ENCRYPTING)
    plain, trailer = object_bytes(segment(domain_key=PLAIN)), trailer_of(SEGMENT)
    index = decode_index(SEGMENT[trailer.index_offset : trailer.index_end], trailer, KEY, ENCRYPTING)
    theirs = trailer_of(plain)
    expected = decode_index(plain[theirs.index_offset : theirs.index_end], theirs, KEY)
    assert (index.entries == expected.entries).all()
    assert index.control == expected.control
    for number, row in enumerate(index.frames):
        start, end = int(row["offset"]), int(row["offset"]) + int(row["stored_bytes"])
        frame = decode_frame(SEGMENT[start:end], row, KEY, number=number, content_key=index.content_key)
        assert bytes(frame) == bytes(decode_frame(plain[start:end], expected.frames[number], KEY))
        assert SEGMENT[start:end] != plain[start:end]
    assert len(SEGMENT) - len(plain) <= 64, "encryption takes no room of its own"


@pytest.mark.parametrize(("data", "number"), [(SEGMENT, NUMBER), (EPOCH, 1)], ids=["segment", "epoch"])
def test_without_the_key_nothing_can_be_read(data: bytes, number: int) -> None:
    with pytest.raises(WrongKey, match="is encrypted, and no key was given"):
        read_everything(data, number, domain_key=None)


def test_the_same_secret_in_the_other_mode_is_refused() -> None:
    """So nobody passes plain content off as encrypted, nor the other way round."""
    with pytest.raises(Forged, match="is encrypted, the mode of the key is authenticate"):
        read_everything(SEGMENT, domain_key=PLAIN)
    with pytest.raises(Forged, match="is not encrypted, the mode of the key is encrypt"):
        read_everything(object_bytes(segment(domain_key=PLAIN)), domain_key=ENCRYPTING)


@pytest.mark.parametrize(("data", "number"), [(SEGMENT, NUMBER), (EPOCH, 1)], ids=["segment", "epoch"])
def test_any_byte_that_is_changed_is_noticed(data: bytes, number: int) -> None:
    unnoticed = []
    for place in places(data):
        forged = changed(data, place)
        try:
            read_everything(forged, number, domain_key=ENCRYPTING)
        except (Forged, DamagedObject, UnsupportedVersion):
            continue
        if forged != data:
            unnoticed.append(place)
    assert unnoticed == []


def test_content_that_repeats_does_not_repeat_in_the_store() -> None:
    text = b"the same words again and again. ".ljust(512, b".") * 8

    def stored() -> bytes:
        records = Records()
        records.write(1, 0, text)
        return object_bytes(segment(domain_key=ENCRYPTING, records=records))

    first, second = stored(), stored()
    assert b"the same words" not in first + second
    assert first[64:100] != second[64:100]
