"""Whatever bytes a decoder is given, it answers with an error that names the object, and allocates no more than it was
given.
"""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable

import lz4.block
import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from jetdr_core.control_bodies import EpochOwner
from jetdr_core.errors import DamagedObject, JetdrError, UnsupportedVersion
from jetdr_core.record import Kind
from jetdr_core.segment import (
    ENTRY,
    FRAME,
    NO_PREDECESSOR,
    TRAILER_BYTES,
    Trailer,
    check_header,
    decode_epoch,
    decode_frame,
    decode_index,
    decode_trailer,
    seal_epoch,
)
from jetdr_core.segment.columns import pack_columns, unpack_columns
from jetdr_core.segment.index import unpack_index
from jetdr_core.segment.layout import CHECKSUM_AT, CONTROL
from jetdr_core.segment.trailer import encode_trailer
from tests.segment.sample import DOMAIN, KEY, Records, object_bytes, pieces_of, sealed


def sample() -> bytes:
    records = Records(lsn=5)
    noise = random.Random(3)
    records.write(1, 0, noise.randbytes(300 << 10))
    records.control(Kind.MARK, body={"name": "before"})
    records.write(2, 4096, b"text and more text " * 512)
    records.zero(1, 8192, 1 << 30)
    records.write(1, 1 << 20, noise.randbytes(512) + bytes(64 << 10) + noise.randbytes(512))
    records.control(Kind.VOID)
    return object_bytes(sealed(records.batch()))


SAMPLE = sample()
TRAILER = decode_trailer(SAMPLE, KEY)
INDEX_RAW = unpack_index(SAMPLE[TRAILER.index_offset : TRAILER.index_end], TRAILER, KEY)
FRAMES_END = TRAILER.frame_count * FRAME.itemsize
ENTRIES_END = FRAMES_END + TRAILER.entry_count * ENTRY.itemsize


def read_everything(data: bytes) -> None:
    """What a reader does with an object: all of it decoded, all of it checked."""
    trailer = decode_trailer(data[-TRAILER_BYTES:], KEY)
    check_header(data, trailer, KEY)
    pieces_of(data)


def resigned(trailer: Trailer, index_raw: bytes = INDEX_RAW) -> bytes:
    """The sample with another index and trailer, every checksum made right again."""
    index = lz4.block.compress(index_raw, store_size=False)
    end = trailer.index_offset + len(index) + TRAILER_BYTES
    trailer = trailer._replace(
        index_stored_bytes=len(index), index_checksum=xxhash.xxh3_64_intdigest(index), object_bytes=end
    )
    return b"".join([SAMPLE[: TRAILER.index_offset], index, encode_trailer(trailer)])


def with_entries(change: Callable[[np.ndarray[tuple[int], np.dtype[np.void]]], None]) -> bytes:
    """The sample with changed entries, checksums right."""
    entries = unpack_columns(INDEX_RAW[FRAMES_END:ENTRIES_END], ENTRY, TRAILER.entry_count, ("lsn", "time_ns"))
    change(entries)
    raw = INDEX_RAW[:FRAMES_END] + pack_columns(entries, ("lsn", "time_ns")) + INDEX_RAW[ENTRIES_END:]
    return resigned(TRAILER, raw)


def with_frames(change: Callable[[np.ndarray[tuple[int], np.dtype[np.void]]], None]) -> bytes:
    frames = unpack_columns(INDEX_RAW[:FRAMES_END], FRAME, TRAILER.frame_count, ("offset",))
    change(frames)
    return resigned(TRAILER, pack_columns(frames, ("offset",)) + INDEX_RAW[FRAMES_END:])


def test_sample_is_sound() -> None:
    read_everything(SAMPLE)
    read_everything(resigned(TRAILER))


def test_every_flipped_bit_outside_padding_is_found() -> None:
    footer_start = TRAILER.index_offset
    places = [*range(64), *range(64, footer_start, 1009), *range(footer_start, len(SAMPLE))]
    for place in places:
        damaged = bytearray(SAMPLE)
        damaged[place] ^= 1 << place % 8
        with pytest.raises(JetdrError):
            read_everything(bytes(damaged))


@settings(max_examples=60)
@given(st.integers(0, len(SAMPLE) - 1))
def test_truncated_object_is_found(length: int) -> None:
    with pytest.raises(JetdrError):
        read_everything(SAMPLE[:length])


@settings(max_examples=200)
@given(st.binary(max_size=600))
def test_noise_is_no_object(data: bytes) -> None:
    with pytest.raises(DamagedObject, match=KEY):
        decode_trailer(data, KEY)


FIELDS = st.sampled_from([name for name in Trailer._fields if name != "kind" and type(getattr(TRAILER, name)) is int])
NUMBERS = st.one_of(st.integers(0, 70000), st.sampled_from([2**31 - 1, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1]))


@settings(max_examples=300)
@given(FIELDS, NUMBERS)
def test_hostile_number_in_a_signed_trailer_is_harmless(name: str, number: int) -> None:
    width = {"flags": 8, "timeline": 32, "first_time_ns": 63, "last_time_ns": 63}.get(name, 64)
    width = 32 if name.endswith("_count") or name in {"index_stored_bytes", "index_raw_bytes"} else width
    signed = encode_trailer(TRAILER._replace(**{name: number % 2**width}))
    bounded(lambda: read_everything(SAMPLE[:-TRAILER_BYTES] + signed))


@settings(max_examples=300)
@given(st.integers(0, len(INDEX_RAW) - 1), st.integers(1, 255))
def test_hostile_byte_in_a_signed_index_is_harmless(place: int, change: int) -> None:
    raw = bytearray(INDEX_RAW)
    raw[place] ^= change
    bounded(lambda: read_everything(resigned(TRAILER, bytes(raw))))


@settings(max_examples=100)
@given(st.binary(max_size=400), st.integers(0, 2**32 - 1))
def test_hostile_index_block_is_harmless(block: bytes, raw_bytes: int) -> None:
    trailer = TRAILER._replace(
        index_stored_bytes=len(block),
        index_raw_bytes=raw_bytes,
        index_checksum=xxhash.xxh3_64_intdigest(block),
        object_bytes=TRAILER.index_offset + len(block) + TRAILER_BYTES,
    )
    data = SAMPLE[: TRAILER.index_offset] + block + encode_trailer(trailer)
    bounded(lambda: read_everything(data))


def bounded(act: Callable[[], None]) -> None:
    """Run ``act``: only errors of the engine that name the object, and no more memory than a few times the object."""
    message = KEY
    tracemalloc.start()
    try:
        act()
    except JetdrError as error:
        message = str(error)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert KEY in message
    assert peak < 16 << 20


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [
        ("offset", 100, "whole sectors"),
        ("length", 0, "whole sectors"),
        ("offset", 1 << 50, "largest disk"),
        ("offset", (1 << 64) - 512, "largest disk"),
        ("length", 1 << 62, "largest disk"),
        ("frame", 7, "beyond"),
        ("frame_offset", 0xFFFFFE00, "reaches beyond"),
        ("kind", Kind.MARK, "contradict"),
        ("kind", Kind.ZERO, "contradict"),
        ("frame", 0xFFFFFFFF, "contradict"),
        ("lsn", 4, "each once"),
        ("time_ns", 5, "times"),
    ],
)
def test_entry_that_cannot_be_is_named(column: str, value: int, problem: str) -> None:
    def change(entries: np.ndarray[tuple[int], np.dtype[np.void]]) -> None:
        rows = entries["lsn"] == (5 if column in {"lsn", "time_ns"} else 7)
        entries[column][rows] = value

    with pytest.raises(DamagedObject, match=problem):
        read_everything(with_entries(change))


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [
        ("raw_bytes", (256 << 10) + 1, "longer than"),
        ("raw_bytes", 0, "empty"),
        ("offset", 0, "fill"),
        ("stored_bytes", 1, "fill"),
        ("codec", 2, "codec"),
    ],
)
def test_frame_that_cannot_be_is_named(column: str, value: int, problem: str) -> None:
    def change(frames: np.ndarray[tuple[int], np.dtype[np.void]]) -> None:
        frames[column][-1] = value

    with pytest.raises(DamagedObject, match=problem):
        read_everything(with_frames(change))


@pytest.mark.parametrize(("column", "change"), [("disk", 1), ("time_ns", 1), ("flags", 1), ("offset", 512)])
def test_pieces_of_one_record_that_do_not_fit_are_found(column: str, change: int) -> None:
    def move(entries: np.ndarray[tuple[int], np.dtype[np.void]]) -> None:
        second = np.flatnonzero(entries["lsn"] == 5)[1]
        entries[column][second] += np.array(change).astype(entries.dtype[column])

    with pytest.raises(DamagedObject, match="do not fit together"):
        read_everything(with_entries(move))


def test_entries_out_of_order_are_found() -> None:
    def swap(entries: np.ndarray[tuple[int], np.dtype[np.void]]) -> None:
        entries[:] = entries[np.argsort(entries["lsn"] == 7, kind="stable")]

    with pytest.raises(DamagedObject, match="LSNs decrease"):
        read_everything(with_entries(swap))


def test_signed_frame_that_decodes_to_less_is_found() -> None:
    block = lz4.block.compress(bytes(512), store_size=False)
    row = np.zeros(1, FRAME)[0]
    row["stored_bytes"], row["raw_bytes"], row["codec"] = len(block), 1024, 1
    row["checksum"] = xxhash.xxh3_64_intdigest(block)
    with pytest.raises(DamagedObject, match="512 bytes instead of 1024"):
        decode_frame(block, row, KEY)


def test_missing_lsn_is_found() -> None:
    def change(entries: np.ndarray[tuple[int], np.dtype[np.void]]) -> None:
        entries["lsn"][entries["lsn"] == 8] = 7

    with pytest.raises(DamagedObject):
        read_everything(with_entries(change))


def test_control_record_of_a_data_kind_is_found() -> None:
    end = ENTRIES_END + 2 * CONTROL.itemsize
    table = unpack_columns(INDEX_RAW[ENTRIES_END:end], CONTROL, 2, ("lsn", "time_ns"))
    table["kind"] = Kind.WRITE
    raw = INDEX_RAW[:ENTRIES_END] + pack_columns(table, ("lsn", "time_ns")) + INDEX_RAW[end:]
    with pytest.raises(DamagedObject, match="not all control records"):
        read_everything(resigned(TRAILER, raw))


def test_newer_format_is_refused_as_newer_not_as_damaged() -> None:
    trailer = bytearray(SAMPLE[-TRAILER_BYTES:])
    trailer[8] = 2
    trailer[CHECKSUM_AT:] = xxhash.xxh3_64_intdigest(trailer[:CHECKSUM_AT]).to_bytes(8, "little")
    with pytest.raises(UnsupportedVersion, match=f"{KEY}.*newer engine"):
        decode_trailer(trailer, KEY)


def test_damaged_frame_is_named_with_its_place() -> None:
    index = decode_index(SAMPLE[TRAILER.index_offset : TRAILER.index_end], TRAILER, KEY)
    row = index.frames[1]
    stored = bytearray(SAMPLE[row["offset"] : row["offset"] + row["stored_bytes"]])
    stored[10] ^= 1
    with pytest.raises(DamagedObject, match=f"{KEY}: frame at {row['offset']}"):
        decode_frame(stored, row, KEY)


def test_signed_frame_that_is_no_lz4_block_is_found() -> None:
    row = np.zeros(1, FRAME)[0]
    row["stored_bytes"], row["raw_bytes"], row["codec"] = 4, 1 << 18, 1
    row["checksum"] = xxhash.xxh3_64_intdigest(b"\xff" * 4)
    with pytest.raises(DamagedObject, match="LZ4"):
        decode_frame(b"\xff" * 4, row, KEY)


@settings(max_examples=60)
@given(st.binary(min_size=1, max_size=60))
def test_epoch_object_with_another_body_is_found(body: bytes) -> None:
    epoch = seal_epoch(
        domain_uuid=DOMAIN,
        epoch=1,
        timeline=1,
        predecessor=NO_PREDECESSOR,
        lsn_next=1,
        time_ns=5,
        owner=EpochOwner(owner="o"),
    )
    stored = lz4.block.compress(body, store_size=False)
    trailer = epoch.trailer._replace(
        index_stored_bytes=len(stored), index_raw_bytes=len(body), index_checksum=xxhash.xxh3_64_intdigest(stored)
    )
    with pytest.raises(DamagedObject, match=KEY):
        decode_epoch(stored, trailer, KEY)
