"""streamOptimized: written in one pass, read the same by everyone."""

from __future__ import annotations

import json
import os
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jetdr_core.errors import InvalidRequest, TargetExists
from jetdr_core.vmdk import StreamReport, write_stream_optimized
from jetdr_core.vmdk.stream import PIECE_BYTES
from tests.vmdk.images import (
    KIB,
    MIB,
    SHAPES,
    TIB,
    Shape,
    assert_qemu_reads_the_same,
    dissect_bytes,
    dissect_size,
    noise,
    qemu_img,
    write_raw,
)


@contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


def stream(folder: Path, shape: Shape) -> tuple[Path, Path, StreamReport]:
    raw = write_raw(folder / "disk.raw", shape)
    vmdk = folder / "disk.vmdk"
    with opened(raw) as fd:
        report = write_stream_optimized(fd, shape.size_bytes, vmdk, cid=0xC0FFEE)
    return vmdk, raw, report


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_qemu_reads_the_bytes_of_the_source(tmp_path: Path, peer: Callable[[str], str], shape: Shape) -> None:
    vmdk, raw, report = stream(tmp_path, shape)
    assert_qemu_reads_the_same(peer("qemu-img"), vmdk, raw)
    assert report.bytes_written == vmdk.stat().st_size


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_an_independent_reader_reads_the_bytes_of_the_source(tmp_path: Path, shape: Shape) -> None:
    vmdk, raw, _ = stream(tmp_path, shape)
    assert dissect_bytes(vmdk, 0, shape.size_bytes) == raw.read_bytes()


GRAINS_MAX = 40
CONTENT = st.sampled_from(
    [None, bytes(64 * KIB), b"ab" * 32 * KIB, noise(64 * KIB), noise(512) + bytes(63 * KIB + 512)]
)


@settings(max_examples=60)
@given(grains=st.lists(CONTENT, min_size=1, max_size=GRAINS_MAX), cut=st.integers(0, 127), workers=st.integers(1, 3))
def test_any_pattern_of_grains_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, grains: list[bytes | None], cut: int, workers: int
) -> None:
    folder = tmp_path_factory.mktemp("pattern")
    size = len(grains) * 64 * KIB - cut * 512
    writes = tuple((i * 64 * KIB, data) for i, data in enumerate(grains) if data is not None)
    raw = write_raw(folder / "disk.raw", Shape(size, writes))
    os.truncate(raw, size)
    with opened(raw) as fd:
        report = write_stream_optimized(fd, size, folder / "disk.vmdk", cid=1, workers=workers)
    content = raw.read_bytes()
    assert dissect_bytes(folder / "disk.vmdk", 0, size) == content
    assert report.grains == sum(any(content[i : i + 64 * KIB]) for i in range(0, size, 64 * KIB))


def test_holes_are_not_read_and_zeros_are_not_stored(tmp_path: Path) -> None:
    _, _, report = stream(tmp_path, Shape(1 << 40, ((512 * MIB, noise(64 * KIB)), (600 * MIB, bytes(MIB)))))
    assert report.grains == 1
    assert report.bytes_read == 64 * KIB + MIB


def test_a_disk_of_three_tebibytes_is_read_at_its_far_end(tmp_path: Path, peer: Callable[[str], str]) -> None:
    size = 3 * TIB + 512
    writes = ((0, noise(512, 1)), (2 * TIB, noise(512, 2)), (size - 512, noise(512, 3)))
    vmdk, _, report = stream(tmp_path, Shape(size, writes))
    assert report.grains == 3
    assert dissect_size(vmdk) == size
    assert all(dissect_bytes(vmdk, offset, 512) == data for offset, data in writes)
    qemu_img(peer("qemu-img"), "check", "-f", "vmdk", vmdk)
    info = json.loads(qemu_img(peer("qemu-img"), "info", "--output=json", vmdk))
    assert info["virtual-size"] == size


def test_a_source_that_is_a_function_gives_the_same_file_as_a_descriptor(tmp_path: Path) -> None:
    vmdk, raw, _ = stream(tmp_path, SHAPES["written_zeros"])
    content = raw.read_bytes()

    def read_into(offset: int, target: memoryview) -> None:
        target[:] = content[offset : offset + len(target)]

    other = tmp_path / "other.vmdk"
    write_stream_optimized(read_into, len(content), other, cid=0xC0FFEE, extent_name="disk.vmdk")
    assert other.read_bytes() == vmdk.read_bytes()


def test_the_file_does_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    raw = write_raw(tmp_path / "disk.raw", SHAPES["alternating_grains"])
    written = set()
    with opened(raw) as fd:
        for workers in (1, 2, 5):
            vmdk = tmp_path / f"{workers}.vmdk"
            write_stream_optimized(fd, 8 * MIB, vmdk, cid=1, extent_name="disk.vmdk", workers=workers)
            written.add(vmdk.read_bytes())
    assert len(written) == 1


def test_progress_ascends_to_the_size_of_the_disk(tmp_path: Path) -> None:
    raw = write_raw(tmp_path / "disk.raw", SHAPES["random"])
    heard: list[int] = []
    with opened(raw) as fd:
        write_stream_optimized(fd, 5 * MIB, tmp_path / "disk.vmdk", cid=1, progress=heard.append)
    assert heard == sorted(heard)
    assert heard[-1] == 5 * MIB


def test_pieces_in_flight_stay_bounded_while_the_writer_is_behind(tmp_path: Path) -> None:
    read: list[int] = []
    ahead: list[int] = []
    lock = threading.Lock()

    def read_into(offset: int, target: memoryview) -> None:
        with lock:
            read.append(offset)

    def progress(written: int) -> None:
        with lock:
            ahead.append(len(read) - -(-written // PIECE_BYTES))

    write_stream_optimized(read_into, 64 * PIECE_BYTES, tmp_path / "disk.vmdk", cid=1, workers=2, progress=progress)
    assert max(ahead) <= 5


def test_an_error_of_the_source_surfaces_and_leaves_no_target(tmp_path: Path) -> None:
    def read_into(offset: int, target: memoryview) -> None:
        if offset >= 3 * PIECE_BYTES:
            raise OSError(5, "the platter is gone")

    with pytest.raises(OSError, match="platter"):
        write_stream_optimized(read_into, 64 * PIECE_BYTES, tmp_path / "disk.vmdk", cid=1)
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_target_surfaces_and_leaves_no_target(tmp_path: Path) -> None:
    raw = write_raw(tmp_path / "disk.raw", SHAPES["random"])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * MIB, limits[1]))
    try:
        with opened(raw) as fd, pytest.raises(OSError, match="File too large"):
            write_stream_optimized(fd, 5 * MIB, tmp_path / "disk.vmdk", cid=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == [raw]


def test_a_source_shorter_than_the_disk_is_an_error(tmp_path: Path) -> None:
    raw = write_raw(tmp_path / "disk.raw", Shape(MIB, ((0, noise(MIB)),)))
    os.truncate(raw, MIB - 512)
    with opened(raw) as fd, pytest.raises(OSError, match="source ends at byte 1048064"):
        write_stream_optimized(fd, MIB, tmp_path / "disk.vmdk", cid=1)


def test_an_existing_target_is_left_alone(tmp_path: Path) -> None:
    there = tmp_path / "disk.vmdk"
    there.write_bytes(b"mine")
    with pytest.raises(TargetExists, match=r"disk\.vmdk exists"):
        write_stream_optimized(lambda _offset, _target: None, 512, there, cid=1)
    assert there.read_bytes() == b"mine"


@pytest.mark.parametrize("size_bytes", [0, 511, (64 << 40) + 512])
def test_a_size_that_no_stream_holds_is_refused_and_nothing_written(tmp_path: Path, size_bytes: int) -> None:
    with pytest.raises(InvalidRequest, match=str(size_bytes)):
        write_stream_optimized(lambda _offset, _target: None, size_bytes, tmp_path / "disk.vmdk", cid=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("option", "value"), [("workers", 0), ("level", 10), ("level", -1), ("cid", -1)])
def test_an_option_out_of_range_is_refused_and_nothing_written(tmp_path: Path, option: str, value: int) -> None:
    options: dict[str, Any] = {"cid": 1, option: value}
    with pytest.raises(InvalidRequest):
        write_stream_optimized(lambda _offset, _target: None, 512, tmp_path / "disk.vmdk", **options)
    assert list(tmp_path.iterdir()) == []
