"""scatter_write and gather_digest: the bytes, the bounds, the errors, and the digest of what is read back."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from jetdr_core._kernels import gather_digest, scatter_write
from jetdr_core.extent import PIECE

pytestmark = pytest.mark.native


def pieces_of(rows: list[tuple[int, int, int]]) -> npt.NDArray[np.void]:
    """Rows of (target offset, source offset, length)."""
    pieces = np.zeros(len(rows), PIECE)
    for piece, (offset, frame_offset, length) in zip(pieces, rows, strict=True):
        piece["offset"], piece["frame_offset"], piece["length"] = offset, frame_offset, length
    return pieces


@given(st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 400), st.integers(0, 100)), max_size=200))
def test_pieces_land_where_they_belong(rows: list[tuple[int, int, int]]) -> None:
    source = os.urandom(500)
    expected = bytearray(2100)
    fd = os.memfd_create("target")
    try:
        os.ftruncate(fd, len(expected))
        scatter_write(fd, source, pieces_of(rows))
        for offset, frame_offset, length in rows:
            expected[offset : offset + length] = source[frame_offset : frame_offset + length]
        assert os.pread(fd, len(expected), 0) == bytes(expected)
    finally:
        os.close(fd)


def test_more_neighbours_than_one_call_takes_are_all_written(tmp_path: Path) -> None:
    source = os.urandom(512 * 300)
    order = list(range(300))[::-1]
    with (tmp_path / "target").open("w+b") as target:
        scatter_write(target.fileno(), source, pieces_of([(n * 512, at * 512, 512) for n, at in enumerate(order)]))
        assert target.read() == b"".join(source[at * 512 : at * 512 + 512] for at in order)


@pytest.mark.parametrize("row", [(0, 1, 512), (0, 2**32 - 1, 1), (2**63 - 1, 0, 1), (2**64 - 1, 0, 1)])
def test_piece_out_of_bounds_is_refused_before_anything_is_written(tmp_path: Path, row: tuple[int, int, int]) -> None:
    with (tmp_path / "target").open("w+b") as target:
        with pytest.raises(ValueError, match="piece 1"):
            scatter_write(target.fileno(), b"x" * 512, pieces_of([(0, 0, 512), row]))
        assert target.read() == b""


def test_failed_write_is_an_oserror(tmp_path: Path) -> None:
    (tmp_path / "target").touch()
    with (tmp_path / "target").open("rb") as target, pytest.raises(OSError) as raised:
        scatter_write(target.fileno(), b"x" * 512, pieces_of([(0, 0, 512)]))
    assert raised.value.errno == errno.EBADF


Frames = list[list[tuple[int, int]]]
"""For each frame the lengths of its pieces, and how much room of the target is left before each of them."""
FRAMES = st.lists(st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 700)), min_size=1, max_size=6), max_size=6)


@given(FRAMES, st.integers(1, 2**63))
def test_what_is_read_back_has_the_digest_of_what_was_written(frames: Frames, seed: int) -> None:
    rows, written, expected, place = [], 0, 0, 0
    fd = os.memfd_create("target")
    try:
        os.ftruncate(fd, 1 << 20)
        for number, lengths in enumerate(frames):
            source, at, frame = np.random.default_rng(seed).bytes(30_000), 0, []
            for length, room in lengths:
                frame.append((place + room, at, length))
                place, at = place + room + length, at + length
            pieces = pieces_of(frame)
            pieces["frame"] = number
            rows.append(pieces)
            written = scatter_write(fd, source, pieces, written)
            expected = xxhash.xxh3_64_intdigest(source[:at], expected)
        assert written == expected
        everything = np.concatenate([np.zeros(0, PIECE), *rows])
        assert gather_digest(fd, everything) == written
        if place and any(length for lengths in frames for length, _ in lengths):
            last = everything[everything["length"] > 0][-1]
            byte = os.pread(fd, 1, int(last["offset"]))
            os.pwrite(fd, bytes([byte[0] ^ 1]), int(last["offset"]))
            assert gather_digest(fd, everything) != written
    finally:
        os.close(fd)


def test_a_piece_longer_than_any_buffer_is_read_in_parts() -> None:
    data = os.urandom((1 << 20) + 5)
    fd = os.memfd_create("target")
    try:
        os.pwrite(fd, data, 7)
        assert gather_digest(fd, pieces_of([(7, 0, len(data))])) == xxhash.xxh3_64_intdigest(data)
    finally:
        os.close(fd)


def test_target_that_ends_inside_a_piece_is_an_oserror() -> None:
    fd = os.memfd_create("target")
    try:
        os.ftruncate(fd, 511)
        with pytest.raises(OSError) as raised:
            gather_digest(fd, pieces_of([(0, 0, 512)]))
        assert raised.value.errno == errno.EIO
    finally:
        os.close(fd)
