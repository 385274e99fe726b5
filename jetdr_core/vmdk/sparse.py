"""The streamOptimized sparse extent: header, markers, grains, tables, footer, and their order. Pure.

Invariants: everything is whole sectors. Bytes are produced in the order of the file, so a target need not seek. Grains
ascend, and each occurs at most once. A grain that is missing reads as zeros.

Source: VMware, "Virtual Disk Format 1.1", chapters "Hosted sparse extents" and "Stream-optimized compressed sparse
extents".
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from jetdr_core.errors import InvalidRequest
from jetdr_core.limits import SECTOR_BYTES
from jetdr_core.vmdk.descriptor import descriptor_text, sectors_of

GRAIN_SECTORS = 128
GRAIN_BYTES = GRAIN_SECTORS * SECTOR_BYTES
TABLE_ENTRIES = 512
TABLE_SECTORS = TABLE_ENTRIES * 4 // SECTOR_BYTES

STREAM_BYTES_MAX = 64 << 40
"""The largest disk in a stream. Its grain directory, which is kept in memory, then has 8 MiB."""

STORED_SECTORS_MAX = 1 << 32
"""Entries are 32-bit sector numbers, so compressed grains and tables must fit into 2 TiB."""

MAGIC = 0x564D444B
VERSION = 3
FLAG_NEWLINE_TEST, FLAG_COMPRESSED, FLAG_MARKERS = 1 << 0, 1 << 16, 1 << 17
COMPRESSION_DEFLATE = 1
DIRECTORY_AT_END = 0xFFFF_FFFF_FFFF_FFFF
DESCRIPTOR_SECTOR, DESCRIPTOR_SECTORS = 1, 20
OVERHEAD_SECTORS = 128

Entries = npt.NDArray[np.uint32]
"""Sector numbers, little-endian. 0 means that nothing is there."""

_HEADER = struct.Struct("<IIIQQQQIQQQB4sH433x")
_GRAIN_MARKER = struct.Struct("<QI")
_METADATA_MARKER = struct.Struct("<QII496x")

assert _HEADER.size == SECTOR_BYTES, "the header is one sector"
assert _METADATA_MARKER.size == SECTOR_BYTES, "a metadata marker is one sector"
assert DESCRIPTOR_SECTOR + DESCRIPTOR_SECTORS <= OVERHEAD_SECTORS, "the descriptor lies before the first grain"


class Marker(enum.IntEnum):
    """What the sectors after a metadata marker are."""

    END_OF_STREAM = 0
    GRAIN_TABLE = 1
    GRAIN_DIRECTORY = 2
    FOOTER = 3


def pack_header(capacity_sectors: int, directory_sector: int) -> bytes:
    """One sector: the header, with ``directory_sector`` DIRECTORY_AT_END, or the footer, with the directory's place."""
    return _HEADER.pack(
        MAGIC,
        VERSION,
        FLAG_NEWLINE_TEST | FLAG_COMPRESSED | FLAG_MARKERS,
        capacity_sectors,
        GRAIN_SECTORS,
        DESCRIPTOR_SECTOR,
        DESCRIPTOR_SECTORS,
        TABLE_ENTRIES,
        0,  # no redundant directory
        directory_sector,
        OVERHEAD_SECTORS,
        0,  # clean
        b"\n \r\n",
        COMPRESSION_DEFLATE,
    )


def pack_marker(kind: Marker, sectors: int) -> bytes:
    """The sector that announces ``sectors`` sectors of metadata."""
    return _METADATA_MARKER.pack(sectors, 0, kind)


def pack_grain(grain: int, deflated: bytes) -> bytes:
    """Grain number ``grain`` with its marker, padded to whole sectors. ``deflated`` is the zlib stream of its bytes."""
    packed = _GRAIN_MARKER.pack(grain * GRAIN_SECTORS, len(deflated)) + deflated
    return packed + bytes(-len(packed) % SECTOR_BYTES)


def no_entries(count: int) -> Entries:
    """A grain table or directory of ``count`` entries, none of them set."""
    return np.zeros(count, "<u4")


def pack_entries(entries: Entries) -> bytes:
    """A grain table or directory, padded to whole sectors."""
    packed = entries.tobytes()
    return packed + bytes(-len(packed) % SECTOR_BYTES)


class StreamLayout:
    """Lays out one stream. Call :meth:`head`, then :meth:`add` for each grain that is not all zeros, then :meth:`tail`.

    ``sector`` is where the next bytes go. A grain table follows the grains that it lists. A table without grains is
    left out. Nothing may be added after an error.
    """

    def __init__(self, *, size_bytes: int, extent_name: str, cid: int) -> None:
        self.capacity_sectors = sectors_of(size_bytes, STREAM_BYTES_MAX)
        self.descriptor = descriptor_text("streamOptimized", extent_name=extent_name, size_bytes=size_bytes, cid=cid)
        self.grains = -(-size_bytes // GRAIN_BYTES)
        self.sector = 0
        self._directory = no_entries(-(-self.grains // TABLE_ENTRIES))
        self._table = no_entries(TABLE_ENTRIES)
        self._table_number = 0
        self._table_used = False
        self._grain_next = 0

    def head(self) -> bytes:
        """Header, descriptor, and padding up to the first grain."""
        assert self.sector == 0, "the head comes first"
        packed = pack_header(self.capacity_sectors, DIRECTORY_AT_END) + self.descriptor
        assert len(packed) <= (DESCRIPTOR_SECTOR + DESCRIPTOR_SECTORS) * SECTOR_BYTES, "extent names are bounded"
        return self._placed(packed.ljust(OVERHEAD_SECTORS * SECTOR_BYTES, b"\0"))

    def add(self, grain: int, packed: bytes) -> Iterator[bytes]:
        """The bytes that come next: the previous grain table if it ends here, then ``packed`` (:func:`pack_grain`)."""
        assert self._grain_next <= grain < self.grains, "grains ascend and lie within the disk"
        number, entry = divmod(grain, TABLE_ENTRIES)
        if number != self._table_number:
            yield from self._finish_table()
            self._table_number = number
        self._table[entry] = self.sector
        self._table_used = True
        self._grain_next = grain + 1
        yield self._placed(packed)

    def tail(self) -> Iterator[bytes]:
        """The last table, the grain directory, the footer and the end of the stream."""
        yield from self._finish_table()
        directory = pack_entries(self._directory)
        yield self._placed(pack_marker(Marker.GRAIN_DIRECTORY, len(directory) // SECTOR_BYTES))
        directory_sector = self.sector
        yield self._placed(directory)
        yield self._placed(pack_marker(Marker.FOOTER, 1))
        yield self._placed(pack_header(self.capacity_sectors, directory_sector))
        yield self._placed(pack_marker(Marker.END_OF_STREAM, 0))

    def _finish_table(self) -> Iterator[bytes]:
        if not self._table_used:
            return
        yield self._placed(pack_marker(Marker.GRAIN_TABLE, TABLE_SECTORS))
        self._directory[self._table_number] = self.sector
        yield self._placed(pack_entries(self._table))
        self._table = no_entries(TABLE_ENTRIES)
        self._table_used = False

    def _placed(self, packed: bytes) -> bytes:
        sectors, rest = divmod(len(packed), SECTOR_BYTES)
        assert rest == 0, "everything is whole sectors"
        if self.sector + sectors > STORED_SECTORS_MAX:
            raise InvalidRequest(
                f"the compressed data passes {STORED_SECTORS_MAX * SECTOR_BYTES} bytes, all that a stream VMDK holds",
                hint="recover this disk as flat or raw",
            )
        self.sector += sectors
        return packed
