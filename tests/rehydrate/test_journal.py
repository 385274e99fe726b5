"""A journal reads back what was appended, and a damaged tail is as if it were not there."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetdr_core.errors import UnsupportedVersion
from jetdr_core.rehydrate.journal import (
    Applied,
    Encoded,
    RecoveryIdentity,
    decode_journal,
    encode_applied,
    encode_encoded,
    encode_header,
    encode_identity,
    journal_bytes_max,
)

IDENTITY = RecoveryIdentity("5a", 1, 77, 3, "db01", 1 << 30, "flat", "ab" * 16)
U64 = st.integers(0, 2**64 - 1)
ROWS = st.builds(Applied, U64, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), U64)
CHUNKS = st.lists(st.lists(ROWS, min_size=1, max_size=5), max_size=5)


def journal_of(chunks: list[list[Applied]]) -> tuple[bytes, list[int]]:
    """The journal, and where each chunk ends."""
    data = encode_header(IDENTITY)
    checksum = int.from_bytes(data[-8:], "little")
    ends = [len(data)]
    for rows in chunks:
        chunk, checksum = encode_applied(rows, checksum)
        data += chunk
        ends.append(len(data))
    return data, ends


@given(CHUNKS)
def test_what_was_appended_reads_back(chunks: list[list[Applied]]) -> None:
    data, ends = journal_of(chunks)
    journal = decode_journal(data, "journal")
    assert journal is not None
    assert journal.identity == IDENTITY
    assert journal.applied.tolist() == [row for rows in chunks for row in rows]
    assert journal.encoded is None
    assert journal.bytes_valid == ends[-1]
    assert journal.checksum == int.from_bytes(data[-8:], "little")


@given(CHUNKS, st.data())
def test_torn_journal_keeps_its_whole_chunks(chunks: list[list[Applied]], draw: st.DataObject) -> None:
    data, ends = journal_of(chunks)
    length = draw.draw(st.integers(0, len(data)))
    whole = sum(end <= length for end in ends) - 1
    journal = decode_journal(data[:length], "journal")
    if whole < 0:
        assert journal is None
    else:
        assert journal is not None
        assert journal.applied.tolist() == [row for rows in chunks[:whole] for row in rows]


@given(CHUNKS, st.data())
def test_damaged_journal_never_claims_what_was_not_appended(chunks: list[list[Applied]], draw: st.DataObject) -> None:
    data, ends = journal_of(chunks)
    damaged = bytearray(data)
    at = draw.draw(st.integers(10, len(data) - 1))  # before it are magic and version
    damaged[at] ^= draw.draw(st.integers(1, 255))
    journal = decode_journal(bytes(damaged), "journal")
    whole = sum(end <= at for end in ends) - 1
    if whole < 0:
        assert journal is None
    else:
        assert journal is not None
        assert journal.applied.tolist() == [row for rows in chunks[:whole] for row in rows]


@given(st.binary(max_size=300))
def test_any_bytes_are_no_journal(data: bytes) -> None:
    assert decode_journal(data, "journal") is None
    for version in (b"\1", b"\2"):
        assert decode_journal(b"JDRRCVJ\0" + version + b"\0\0\0" + data, "journal") is None


@given(CHUNKS, CHUNKS)
def test_finished_stream_reads_back_between_chunks(before: list[list[Applied]], after: list[list[Applied]]) -> None:
    data, _ = journal_of(before)
    journal = decode_journal(data, "journal")
    assert journal is not None
    chunk, checksum = encode_encoded(Encoded(1 << 40, b"d" * 16), journal.checksum)
    data += chunk
    for rows in after:
        chunk, checksum = encode_applied(rows, checksum)
        data += chunk
    journal = decode_journal(data, "journal")
    assert journal is not None
    assert journal.encoded == Encoded(1 << 40, b"d" * 16)
    assert journal.applied.tolist() == [row for rows in (*before, *after) for row in rows]


def test_a_row_a_frame_twice_over_is_read_whole() -> None:
    rows = [[Applied(1, number, number, 0)] for number in range(500)]
    assert len(journal_of(rows * 2)[0]) <= journal_bytes_max(len(rows))


def test_journal_of_a_newer_engine_is_refused() -> None:
    data = bytearray(encode_header(IDENTITY))
    data[8] = 4
    with pytest.raises(UnsupportedVersion, match="version 4"):
        decode_journal(bytes(data), "journal")


def test_journal_keeps_the_words_that_named_its_point() -> None:
    journal = decode_journal(encode_header(IDENTITY, "latest"), "journal")
    assert journal is not None
    assert (journal.identity, journal.asked) == (IDENTITY, "latest")


def test_journal_without_words_is_read() -> None:
    """Version 2, which the release before wrote."""
    journal = decode_journal(encode_identity(IDENTITY), "journal")
    assert journal is not None
    assert (journal.identity, journal.asked) == (IDENTITY, "")


def test_identities_differ_in_every_field() -> None:
    for field in dataclasses.fields(IDENTITY):
        values: dict[str, Any] = {field.name: "x" if field.type == "str" else 9}
        other = dataclasses.replace(IDENTITY, **values)
        assert encode_header(other) != encode_header(IDENTITY)
