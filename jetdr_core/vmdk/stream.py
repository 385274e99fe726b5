"""streamOptimized on disk: reads a source once, compresses its grains in threads, and writes the stream front to back.

Invariants: holes are never read, and grains of zeros are never stored. Memory is bounded by the pieces in flight,
whatever the size of the disk.
"""

from __future__ import annotations

import errno
import os
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol, TypeAlias

from jetdr_core.errors import InvalidRequest
from jetdr_core.limits import SECTOR_BYTES
from jetdr_core.vmdk.holes import data_ranges
from jetdr_core.vmdk.sparse import GRAIN_BYTES, StreamLayout, pack_grain
from jetdr_core.vmdk.target import new_file

PIECE_BYTES = 16 * GRAIN_BYTES
"""How much one worker reads and compresses at a time."""

ReadInto: TypeAlias = Callable[[int, memoryview], None]
"""``read_into(offset, target)`` fills all of ``target``, as :meth:`BlockDevice.read_into` does. Called from threads."""


class Sink(Protocol):
    """Takes the bytes of a stream, in order."""

    def write(self, data: bytes, /) -> object: ...


_LEVELS = range(10)
_ZERO_GRAIN = bytes(GRAIN_BYTES)


class StreamReport(NamedTuple):
    """The size of a finished stream."""

    grains: int
    bytes_read: int
    bytes_written: int


class _Piece(NamedTuple):
    """Neighbouring grains, packed. Grains of zeros are left out."""

    start: int
    end: int
    grains: list[tuple[int, bytes]]


def write_stream_optimized(
    source: int | ReadInto,
    size_bytes: int,
    target: str | os.PathLike[str],
    *,
    cid: int,
    extent_name: str | None = None,
    workers: int = 2,
    level: int = 1,
    progress: Callable[[int], None] | None = None,
) -> StreamReport:
    """Create ``target`` as a streamOptimized VMDK of the first ``size_bytes`` of ``source``, and sync it.

    ``extent_name`` is the name inside the VMDK, by default the target's. Everything else is said of
    :func:`encode_stream_optimized`. On an error the target is removed. :class:`TargetExists` is raised before anything
    is written.
    """
    path = Path(target)
    encode = partial(encode_stream_optimized, cid=cid, workers=workers, level=level, progress=progress)
    _check_options(workers, level)
    StreamLayout(size_bytes=size_bytes, extent_name=extent_name or path.name, cid=cid)
    with new_file(path) as out:
        return encode(source, size_bytes, out, extent_name=extent_name or path.name)


def encode_stream_optimized(
    source: int | ReadInto,
    size_bytes: int,
    sink: Sink,
    *,
    cid: int,
    extent_name: str,
    workers: int = 2,
    level: int = 1,
    progress: Callable[[int], None] | None = None,
) -> StreamReport:
    """Write the first ``size_bytes`` of ``source`` to ``sink`` as a streamOptimized VMDK named ``extent_name``.

    ``source`` is a readable descriptor without O_DIRECT, whose file offset moves, or a :data:`ReadInto`. Only a
    descriptor can tell its holes. ``level`` is zlib's, 0 to 9. ``progress`` is called in this thread with the byte of
    the disk up to which the stream is written.

    ``workers`` threads read and compress, and this thread writes the pieces in order. At most ``2 * workers + 1``
    pieces of 1 MiB are in flight. The first error of any thread is raised here when all threads have ended.
    :class:`InvalidRequest` is raised before anything is written. Only data that compresses to more than 2 TiB is
    refused later.
    """
    _check_options(workers, level)
    layout = StreamLayout(size_bytes=size_bytes, extent_name=extent_name, cid=cid)
    read_into = partial(_read_file, source) if isinstance(source, int) else source
    ranges = data_ranges(source, size_bytes) if isinstance(source, int) else [(0, size_bytes)]
    with ThreadPoolExecutor(workers, "vmdk-stream") as pool:
        spans = piece_spans(ranges, size_bytes)
        with closing(_in_order(pool, partial(_compress, read_into, level), spans, ahead=2 * workers)) as pieces:
            report = _write(sink, layout, pieces, progress or _unheard)
        (progress or _unheard)(size_bytes)
    return report


def piece_spans(ranges: Iterable[tuple[int, int]], size_bytes: int) -> Iterator[tuple[int, int]]:
    """Cut ascending data ranges into disjoint (start, end) of at most PIECE_BYTES, aligned to grains."""
    done = 0
    for start, end in ranges:
        first = max(done, start // GRAIN_BYTES * GRAIN_BYTES)
        done = max(done, -(-end // GRAIN_BYTES) * GRAIN_BYTES)
        last = min(done, size_bytes)
        for piece in range(first, last, PIECE_BYTES):
            yield piece, min(piece + PIECE_BYTES, last)


def _in_order(
    pool: ThreadPoolExecutor,
    compress: Callable[[int, int], _Piece],
    spans: Iterator[tuple[int, int]],
    *,
    ahead: int,
) -> Generator[_Piece, None, None]:
    """The compressed pieces in the order of ``spans``. Up to ``ahead`` are in flight while the caller has one."""
    waiting: deque[Future[_Piece]] = deque()
    try:
        for start, end in spans:
            waiting.append(pool.submit(compress, start, end))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for piece in waiting:
            piece.cancel()


def _write(sink: Sink, layout: StreamLayout, pieces: Iterator[_Piece], progress: Callable[[int], None]) -> StreamReport:
    grains = bytes_read = 0
    sink.write(layout.head())
    for piece in pieces:
        for grain, packed in piece.grains:
            for data in layout.add(grain, packed):
                sink.write(data)
        grains += len(piece.grains)
        bytes_read += piece.end - piece.start
        progress(piece.end)
    for data in layout.tail():
        sink.write(data)
    return StreamReport(grains, bytes_read, layout.sector * SECTOR_BYTES)


def _compress(read_into: ReadInto, level: int, start: int, end: int) -> _Piece:
    """Runs in a worker. Reading and compressing release the GIL."""
    data = memoryview(bytearray(end - start))
    read_into(start, data)
    grains = []
    for offset in range(0, end - start, GRAIN_BYTES):
        content = bytes(data[offset : offset + GRAIN_BYTES]).ljust(GRAIN_BYTES, b"\0")
        if content != _ZERO_GRAIN:
            grain = (start + offset) // GRAIN_BYTES
            grains.append((grain, pack_grain(grain, zlib.compress(content, level))))
    return _Piece(start, end, grains)


def _read_file(fd: int, offset: int, target: memoryview) -> None:
    while target:
        count = os.preadv(fd, [target], offset)
        if count == 0:
            raise OSError(errno.EIO, f"the source ends at byte {offset}, inside the disk")
        target, offset = target[count:], offset + count


def _check_options(workers: int, level: int) -> None:
    if workers < 1:
        raise InvalidRequest(f"{workers} workers cannot compress", hint="use 1 or more")
    if level not in _LEVELS:
        raise InvalidRequest(f"there is no compression level {level}", hint="use 0 to 9")


def _unheard(_: int) -> None:
    pass
