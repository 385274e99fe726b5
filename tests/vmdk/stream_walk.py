"""Walks a streamOptimized VMDK from its first byte to its last by its markers alone, as a pipe reader would."""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

SECTOR = 512


class Step(NamedTuple):
    """One thing in the stream: a grain (kind ``grain``, its first disk sector, its bytes) or metadata."""

    kind: str
    lba: int
    data: bytes


KINDS = {0: "end", 1: "table", 2: "directory", 3: "footer"}


def walk(stream: bytes) -> list[Step]:
    """All steps after the 64 KiB head; the walk ends exactly where the file does."""
    steps, at = [], 128 * SECTOR
    while at < len(stream):
        step, at = _step(stream, at)
        steps.append(step)
    assert at == len(stream)
    return steps


def _step(stream: bytes, at: int) -> tuple[Step, int]:
    value, size, kind = struct.unpack_from("<QII", stream, at)
    if size:
        end = at + 12 + size
        return Step("grain", value, zlib.decompress(stream[at + 12 : end])), -(-end // SECTOR) * SECTOR
    start = at + SECTOR
    return Step(KINDS[kind], 0, stream[start : start + value * SECTOR]), start + value * SECTOR
