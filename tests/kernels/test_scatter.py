"""scatter_write: the bytes, the bounds, the errors."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetdr_core._kernels import scatter_write
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
