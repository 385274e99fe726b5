"""Objects that released versions wrote are read as they were meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from jetdr_core.control_bodies import EpochOwner
from jetdr_core.domain_key import KeyMode
from jetdr_core.record import Kind
from jetdr_core.segment import check_header, check_tag, decode_epoch, decode_frame, decode_index, decode_trailer
from tests.segment.golden import FOLDER, KEYS, NUMBER, WRITTEN, epoch, keyed_segment, segment
from tests.segment.sample import DOMAIN, KEY, decoded, lengths_of, pieces_of

SEGMENTS = sorted(FOLDER.glob("segment-[0-9]*.bin"))
EPOCHS = sorted(FOLDER.glob("segment-epoch-[0-9]*.bin"))


@pytest.mark.parametrize("path", SEGMENTS, ids=lambda path: path.name)
def test_released_segment_is_read(path: Path) -> None:
    data = path.read_bytes()
    trailer = decode_trailer(data, KEY)
    check_header(data, trailer, KEY)
    assert (trailer.domain_uuid, trailer.predecessor) == (DOMAIN, bytes(range(16)))
    assert (trailer.first_lsn, trailer.last_lsn, trailer.payload_bytes) == (1, 6, 10240 + 65536 + (300 << 10))
    pieces = pieces_of(data)
    for lsn, want in WRITTEN.items():
        assert b"".join(piece or b"" for at, _, _, piece in pieces if at == lsn) == want
    zeros = [
        (lsn, length) for (lsn, _, _, piece), length in zip(pieces, lengths_of(data), strict=True) if piece is None
    ]
    assert zeros == [(2, 3 << 30), (4, 64 << 10)]
    assert [(record.lsn, record.kind, record.body) for record in decoded(data).control] == [
        (3, Kind.MARK, {"name": "before upgrade"}),
        (6, Kind.VOID, {}),
    ]


@pytest.mark.parametrize("path", EPOCHS, ids=lambda path: path.name)
def test_released_epoch_object_is_read(path: Path) -> None:
    data = path.read_bytes()
    trailer = decode_trailer(data, KEY)
    check_header(data, trailer, KEY)
    owner = decode_epoch(data[trailer.index_offset : trailer.index_end], trailer, KEY)
    assert owner == EpochOwner(owner="drva", host="host", domain="payroll")


def test_there_are_golden_files() -> None:
    assert SEGMENTS
    assert EPOCHS


def test_generator_writes_what_is_read() -> None:
    assert len(pieces_of(segment())) >= 4
    assert decode_trailer(epoch(), KEY).epoch == 1


@pytest.mark.parametrize("mode", KeyMode)
def test_released_segment_with_a_key_is_read(mode: KeyMode) -> None:
    paths = sorted(FOLDER.glob(f"segment-{mode}-*.bin"))
    assert paths
    for path in paths:
        data, key = path.read_bytes(), KEYS[mode]
        trailer = decode_trailer(data, KEY)
        check_header(data, trailer, KEY)
        check_tag(trailer, NUMBER, key, KEY)
        index = decode_index(data[trailer.index_offset : trailer.index_end], trailer, KEY, key)
        text = decode_frame(
            data[64 : 64 + int(index.frames[0]["stored_bytes"])],
            index.frames[0],
            KEY,
            number=0,
            content_key=index.content_key,
        )
        assert bytes(text).startswith(WRITTEN[1])
        assert len(data) == len(keyed_segment(mode))
