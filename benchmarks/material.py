"""Bytes to protect. They compress two to one under LZ4, as a file system of text and tables does.

Invariant: the same seed makes the same bytes.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

__all__ = ["compressible", "incompressible", "same_bytes"]

BLOCK_BYTES = 4096
_WORDS = 4096
_ROW = np.dtype(
    [
        ("id", "<u8"),
        ("time", "<u8"),
        ("kind", "<u4"),
        ("key", "<u4"),
        ("name", "S24"),
        ("value", "<f8"),
        ("spare", "V8"),
    ]
)
_UNIT_BYTES = 8 << 20
"""Made once and repeated with every block changed. LZ4's window is far smaller, so LZ4 sees no repetition."""


def compressible(length: int, seed: int = 1) -> bytearray:
    """Return ``length`` bytes: blocks of 4 KiB, text and table rows by turns, each beginning with 16 random bytes."""
    random = np.random.default_rng(seed)
    half = min(_UNIT_BYTES, length + 2 * BLOCK_BYTES) // 2 // BLOCK_BYTES * BLOCK_BYTES
    text, table = _text(random, half), _table(random, half)
    unit = np.stack([_blocks(text), _blocks(table)], axis=1).reshape(-1, BLOCK_BYTES)
    count = -(-length // BLOCK_BYTES)
    blocks = np.tile(unit, (-(-count // len(unit)), 1))[:count]
    blocks[:, :16] = random.integers(0, 256, (count, 16), np.uint8)
    return bytearray(blocks.tobytes()[:length])


def incompressible(length: int, seed: int = 1) -> bytearray:
    return bytearray(np.random.default_rng(seed).bytes(length))


def same_bytes(one: Path, other: Path) -> bool:
    """Return whether two files hold the same bytes. Their sizes must not be 0. Holes of both cost nothing."""
    with one.open("rb") as left, other.open("rb") as right:
        size = os.fstat(left.fileno()).st_size
        if size != os.fstat(right.fileno()).st_size:
            return False
        views = [np.frombuffer(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ), np.uint8) for file in (left, right)]
        extents = [extent for file in (left, right) for extent in _data(file.fileno(), size)]
        return all(np.array_equal(views[0][begin:end], views[1][begin:end]) for begin, end in extents)


def _data(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield what of a file is no hole."""
    end = 0
    with suppress(OSError):  # ENXIO: the rest is a hole
        while end < size:
            begin = os.lseek(fd, end, os.SEEK_DATA)
            end = os.lseek(fd, begin, os.SEEK_HOLE)
            yield begin, end


def _blocks(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8).reshape(-1, BLOCK_BYTES)


def _text(random: np.random.Generator, length: int) -> bytes:
    """Return words of a Zipf-distributed vocabulary."""
    vocabulary = [random.integers(97, 123, size, np.uint8).tobytes() for size in random.integers(2, 11, _WORDS)]
    weights = 1 / np.arange(1, _WORDS + 1)
    chosen = random.choice(_WORDS, length // 3, p=weights / weights.sum())
    return b" ".join([vocabulary[word] for word in chosen.tolist()])[:length]


def _table(random: np.random.Generator, length: int) -> bytes:
    rows = np.zeros(length // _ROW.itemsize, _ROW)
    count = len(rows)
    rows["id"] = np.arange(count)
    rows["time"] = 1_700_000_000_000 + np.cumsum(random.integers(0, 1000, count))
    rows["kind"] = random.integers(0, 100, count)
    rows["key"] = random.integers(0, 1 << 16, count)
    rows["name"] = np.array([f"customer-{nth:06d}" for nth in range(5000)], "S24")[random.integers(0, 5000, count)]
    rows["value"] = random.integers(0, 100_000, count) / 8
    return rows.tobytes()
