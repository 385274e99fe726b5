"""The order and place of everything in a stream, against the golden file and a reader that follows markers only."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetdr_core.errors import InvalidRequest
from jetdr_core.vmdk import write_stream_optimized
from jetdr_core.vmdk.holes import data_ranges
from jetdr_core.vmdk.sparse import GRAIN_BYTES, STORED_SECTORS_MAX, StreamLayout, pack_grain
from jetdr_core.vmdk.stream import PIECE_BYTES, piece_spans
from tests.vmdk.images import KIB, MIB, Shape, assert_qemu_reads_the_same, noise, write_raw
from tests.vmdk.stream_walk import Step, walk

GOLDEN = Path(__file__).with_name("golden") / "stream-0.1.0.vmdk"
GOLDEN_WRITES = ((64 * KIB, b"golden" * 100), (32 * MIB, b"second table"), (33 * MIB, b"end" * 99))
GOLDEN_SHAPE = Shape(33 * MIB + 512, GOLDEN_WRITES)


def written(folder: Path, shape: Shape) -> bytes:
    raw = write_raw(folder / "disk.raw", shape)
    fd = os.open(raw, os.O_RDONLY)
    try:
        write_stream_optimized(fd, shape.size_bytes, folder / "new.vmdk", cid=0x60D, extent_name=GOLDEN.name)
    finally:
        os.close(fd)
    return (folder / "new.vmdk").read_bytes()


def grains(steps: list[Step]) -> list[Step]:
    return [step for step in steps if step.kind == "grain"]


def test_the_golden_stream_is_still_read_the_same(tmp_path: Path, peer: Callable[[str], str]) -> None:
    copy = tmp_path / GOLDEN.name
    copy.write_bytes(GOLDEN.read_bytes())
    assert_qemu_reads_the_same(peer("qemu-img"), copy, write_raw(tmp_path / "disk.raw", GOLDEN_SHAPE))


def test_the_stream_written_today_is_the_golden_one(tmp_path: Path) -> None:
    """Compared grain by grain: another zlib may pack the same grain into other bytes."""
    today, golden = written(tmp_path, GOLDEN_SHAPE), GOLDEN.read_bytes()
    assert today[: 128 * 512] == golden[: 128 * 512]
    assert [step.kind for step in walk(today)] == [step.kind for step in walk(golden)]
    assert grains(walk(today)) == grains(walk(golden))


def test_a_table_follows_its_grains_and_the_footer_ends_the_stream(tmp_path: Path) -> None:
    steps = walk(written(tmp_path, GOLDEN_SHAPE))
    assert [step.kind for step in steps] == ["grain", "table", "grain", "grain", "table", "directory", "footer", "end"]
    assert [step.lba for step in grains(steps)] == [128, 65536, 67584]


def test_the_footer_is_the_header_with_the_place_of_the_directory(tmp_path: Path) -> None:
    stream = written(tmp_path, GOLDEN_SHAPE)
    header, footer = stream[:512], stream[-1024:-512]
    assert header[:56] + header[64:] == footer[:56] + footer[64:]
    (at_end,), (directory,) = struct.unpack_from("<Q", header, 56), struct.unpack_from("<Q", footer, 56)
    assert at_end == 0xFFFF_FFFF_FFFF_FFFF
    marker = struct.unpack_from("<QII", stream, (directory - 1) * 512)
    assert marker == (1, 0, 2)


def test_an_empty_disk_is_head_directory_footer_and_end(tmp_path: Path) -> None:
    steps = walk(written(tmp_path, Shape(MIB)))
    assert [step.kind for step in steps] == ["directory", "footer", "end"]
    assert not any(steps[0].data)


def test_data_beyond_two_tebibytes_compressed_is_refused_by_name() -> None:
    layout = StreamLayout(size_bytes=4 << 40, extent_name="x", cid=1)
    layout.head()
    layout.sector = STORED_SECTORS_MAX - 1
    with pytest.raises(InvalidRequest, match="flat or raw"):
        list(layout.add(0, pack_grain(0, noise(600))))


@given(st.lists(st.integers(0, 4 * MIB // 512), max_size=8), st.integers(1, 4 * MIB // 512))
def test_pieces_are_disjoint_aligned_and_cover_all_data(edges: list[int], sectors: int) -> None:
    size = sectors * 512
    places = sorted({min(edge * 512, size) for edge in edges})
    ranges = list(zip(places[::2], places[1::2], strict=False))
    spans = list(piece_spans(ranges, size))
    assert all(start % GRAIN_BYTES == 0 and 0 < end - start <= PIECE_BYTES and end <= size for start, end in spans)
    assert all(end % GRAIN_BYTES == 0 or end == size for _, end in spans)
    assert all(before[1] <= after[0] for before, after in pairwise(spans))
    covered = {g for start, end in spans for g in range(start, end, GRAIN_BYTES)}
    assert covered == {g for s, e in ranges for g in range(s // GRAIN_BYTES * GRAIN_BYTES, e, GRAIN_BYTES)}


def test_a_descriptor_that_cannot_seek_holes_counts_as_data() -> None:
    """/proc answers SEEK_DATA with EINVAL, as block devices do; /dev/zero answers it with nonsense."""
    for path in ("/proc/meminfo", "/dev/zero"):
        with Path(path).open("rb", buffering=0) as source:
            assert list(data_ranges(source.fileno(), MIB)) == [(0, MIB)]
