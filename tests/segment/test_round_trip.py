"""What was captured is what an object gives back, and it takes no more room than it must."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jetdr_core.control_bodies import EpochOwner
from jetdr_core.limits import FRAME_BYTES, RECORD_BYTES_MAX
from jetdr_core.record import Kind, RecordBatch
from jetdr_core.segment import (
    NO_FRAME,
    NO_PREDECESSOR,
    Codec,
    ObjectKind,
    build_body,
    check_header,
    decode_epoch,
    decode_trailer,
    object_checksum,
    seal,
    seal_epoch,
)
from tests.segment.sample import DOMAIN, KEY, Records, decoded, lengths_of, object_bytes, pieces_of, sealed

Want = list[tuple[int, int, int, bytes]]


def noise(seed: int, length: int) -> bytes:
    return random.Random(seed).randbytes(length)


@st.composite
def payloads(draw: st.DrawFn) -> bytes:
    """Runs of noise, text and zeros, whole sectors."""
    runs = st.tuples(st.integers(1, 120), st.sampled_from("nntz"), st.integers(0, 99))
    parts = []
    for sectors, what, seed in draw(st.lists(runs, min_size=1, max_size=6)):
        length = 512 * sectors
        parts.append({"n": noise(seed, length), "t": (b"%d text " % seed * length)[:length], "z": bytes(length)}[what])
    return b"".join(parts)


@st.composite
def captures(draw: st.DrawFn) -> tuple[list[RecordBatch], Want]:
    records, batches, want = Records(lsn=draw(st.integers(1, 1 << 40))), [], []
    for size in draw(st.lists(st.integers(1, 6), min_size=1, max_size=4)):
        for _ in range(size):
            disk, offset = draw(st.integers(1, 3)), 512 * draw(st.integers(0, 4000))
            what = draw(st.sampled_from("wwwwzc"))
            if what == "w":
                data = draw(payloads())
                want.append((records.write(disk, offset, data), disk, offset, data))
            elif what == "z":
                length = 512 * draw(st.integers(1, 3000))
                want.append((records.zero(disk, offset, length), disk, offset, bytes(length)))
            else:
                records.control(draw(st.sampled_from([Kind.MARK, Kind.VOID, Kind.CONFIG])), body={"name": "x" * size})
        batches.append(records.batch())
    return batches, want


def joined(data: bytes) -> Want:
    """The pieces of ``data`` put together to records again."""
    records: Want = []
    for (lsn, disk, offset, piece), length in zip(pieces_of(data), lengths_of(data), strict=True):
        content = bytes(length) if piece is None else piece
        if records and records[-1][0] == lsn:
            _, _, start, before = records.pop()
            assert offset == start + len(before)
            records.append((lsn, disk, start, before + content))
        else:
            records.append((lsn, disk, offset, content))
    return records


@settings(max_examples=150)
@given(captures())
def test_any_records_survive(capture: tuple[list[RecordBatch], Want]) -> None:
    batches, want = capture
    data = object_bytes(sealed(*batches))
    assert joined(data) == want


@settings(max_examples=40)
@given(captures())
def test_control_records_survive_with_lsn_and_time(capture: tuple[list[RecordBatch], Want]) -> None:
    batches, _ = capture
    control = decoded(object_bytes(sealed(*batches))).control
    headers = np.concatenate([batch.headers for batch in batches])
    headers = headers[~np.isin(headers["kind"], [Kind.WRITE, Kind.ZERO])]
    assert [(row.lsn, row.time_ns, row.kind) for row in control] == headers[["lsn", "time_ns", "kind"]].tolist()
    assert all(bool(row.body) == (row.kind != Kind.VOID) for row in control)


@settings(max_examples=100)
@given(captures())
def test_no_long_zero_run_is_stored(capture: tuple[list[RecordBatch], Want]) -> None:
    data = object_bytes(sealed(*capture[0]))
    for _, _, _, piece in pieces_of(data):
        assert piece is None or bytes(24 << 10) not in piece


def test_longest_record_survives() -> None:
    records = Records()
    data = noise(1, RECORD_BYTES_MAX - 1024) + bytes(512) + noise(2, 512)
    records.write(4, 512, data)
    stored = object_bytes(sealed(records.batch()))
    assert joined(stored) == [(1, 4, 512, data)]


def test_longest_record_of_zeros_takes_one_entry_and_no_frame() -> None:
    records = Records()
    records.write(4, 0, bytes(RECORD_BYTES_MAX))
    segment = sealed(records.batch())
    assert segment.trailer.frame_count == 0
    assert segment.trailer.entry_count == 1
    assert segment.trailer.payload_bytes == RECORD_BYTES_MAX
    assert segment.size_bytes < 512


def test_zero_sector_of_its_own_is_not_stored() -> None:
    records = Records()
    records.write(1, 512, bytes(512))
    assert decoded(object_bytes(sealed(records.batch()))).entries["frame"].tolist() == [NO_FRAME]


def test_zero_run_is_cut_at_blocks_of_the_disk() -> None:
    records = Records()
    records.write(1, 512, noise(1, 512) + bytes(64 << 10) + noise(2, 512))
    entries = decoded(object_bytes(sealed(records.batch()))).entries
    assert entries[["offset", "length", "kind"]].tolist() == [
        (512, 4096 - 512, Kind.WRITE),
        (4096, 60 << 10, Kind.ZERO),
        (64 << 10, 1536, Kind.WRITE),
    ]


def test_huge_discard_is_one_entry() -> None:
    records = Records()
    records.zero(1, 4096, 1 << 40, flags=2)
    entries = decoded(object_bytes(sealed(records.batch()))).entries
    assert entries[["length", "flags", "frame"]].tolist() == [(1 << 40, 2, NO_FRAME)]


def test_all_frames_but_the_last_are_full() -> None:
    records = Records()
    for number in range(100):
        records.write(1, number << 20, noise(number, 20 << 10))
    frames = decoded(object_bytes(sealed(records.batch()))).frames
    assert set(frames["raw_bytes"][:-1].tolist()) == {FRAME_BYTES}


def test_frame_that_is_one_slice_is_not_copied() -> None:
    records = Records()
    records.write(1, 0, noise(1, 2 * FRAME_BYTES))
    batch = records.batch()
    payload = np.frombuffer(batch.payload, np.uint8)
    frames = [np.frombuffer(memoryview(frame), np.uint8) for frame in build_body([batch]).frames]
    assert [np.shares_memory(frame, payload) for frame in frames] == [True, True]


def test_incompressible_frame_is_stored_raw() -> None:
    records = Records()
    records.write(1, 0, noise(1, FRAME_BYTES) + b"compressible" * (FRAME_BYTES // 12 // 512 * 512))
    frames = decoded(object_bytes(sealed(records.batch()))).frames
    assert frames["codec"].tolist() == [Codec.RAW, Codec.LZ4]


def test_small_commits_share_frames() -> None:
    records, batches = Records(), []
    for number in range(64):
        records.write(1, number * 4096, noise(number, 4096))
        batches.append(records.batch())
    assert sealed(*batches).trailer.frame_count == 1


def test_encoding_is_the_same_every_time() -> None:
    def encode() -> bytes:
        records = Records()
        records.write(1, 0, b"same" * 2048)
        records.control(Kind.MARK, body={"name": "m"})
        return object_bytes(sealed(records.batch()))

    assert encode() == encode()


def test_trailer_tells_place_ranges_and_sizes() -> None:
    records = Records(lsn=70)
    records.write(1, 0, noise(1, 8192))
    records.control(Kind.GAP_OPEN, body={"reason": "test"})
    records.zero(1, 0, 4096)
    body = build_body([records.batch()])
    segment = seal(body, domain_uuid=DOMAIN, epoch=3, timeline=2, predecessor=b"p" * 16)
    data = object_bytes(segment)
    trailer = decode_trailer(data, KEY)
    assert trailer == segment.trailer
    assert (trailer.kind, trailer.domain_uuid, trailer.epoch, trailer.timeline) == (ObjectKind.SEGMENT, DOMAIN, 3, 2)
    assert (trailer.first_lsn, trailer.last_lsn, trailer.predecessor) == (70, 72, b"p" * 16)
    assert (trailer.payload_bytes, trailer.object_bytes) == (8192, len(data))
    assert trailer.last_time_ns - trailer.first_time_ns == 2000
    assert segment.checksum == object_checksum(data[-256:])
    check_header(data, trailer, KEY)


def test_epoch_object_names_its_owner() -> None:
    owner = EpochOwner(owner="u", host="drva-1", domain="payroll")
    segment = seal_epoch(
        domain_uuid=DOMAIN, epoch=1, timeline=1, predecessor=NO_PREDECESSOR, lsn_next=1, time_ns=5, owner=owner
    )
    data = object_bytes(segment)
    trailer = decode_trailer(data, KEY)
    assert (trailer.kind, trailer.first_lsn, trailer.last_lsn) == (ObjectKind.EPOCH, 1, 0)
    assert decode_epoch(data[trailer.index_offset : trailer.index_end], trailer, KEY) == owner


def test_records_that_do_not_follow_one_another_are_refused() -> None:
    records = Records()
    records.write(1, 0, noise(1, 512))
    first = records.batch()
    records.write(1, 0, noise(1, 512))
    records.batch()
    records.write(1, 0, noise(1, 512))
    with pytest.raises(ValueError, match="consecutive"):
        build_body([first, records.batch()])


def test_batch_whose_payload_is_not_what_headers_say_is_refused() -> None:
    records = Records()
    records.write(1, 0, noise(1, 1024))
    batch = records.batch()
    with pytest.raises(ValueError, match="payload"):
        build_body([RecordBatch(batch.headers, batch.payload[:512])])
