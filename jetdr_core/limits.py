"""Sizes and bounds of the engine, with the relations between them asserted and explained."""

from __future__ import annotations

SECTOR_BYTES = 512
"""Granularity of every captured extent."""

BLOCK_BYTES = 4096
"""Granularity of everything on the log volume."""

WRITE_BYTES_MAX = 32 << 20
"""Longest captured write; a longer one is refused."""

CONTROL_BYTES_MAX = 1 << 20
"""Longest payload of a control record (mark, disk, configuration)."""

DISK_BYTES_MAX = 1 << 50
DISKS_MAX = 500
SECTIONS_MAX = 500

RING_BYTES_DEFAULT = 128 << 20
RING_SLOTS_DEFAULT = 1 << 15

BATCH_RECORDS_MAX = 4096
BATCH_BYTES_DEFAULT = 8 << 20
"""A commit takes no more payload than this, unless one record alone is longer."""

UNSYNCED_BYTES_MAX = 64 << 20
"""The log writer flushes at the latest after this much: bounds the scan that tells a torn tail from damage."""

VOLUME_SUPERBLOCK_AREA_BYTES = 1 << 20
SECTION_SUPERBLOCK_AREA_BYTES = 64 << 10
SECTION_BYTES_DEFAULT = 64 << 30
SECTION_BYTES_MIN = 1 << 20
SECTION_ALIGN_BYTES = 1 << 20

SEGMENT_BYTES_DEFAULT = 16 << 20
SEGMENT_BYTES_MAX = 256 << 20
SEGMENT_AGE_S_DEFAULT = 1.0
SEGMENT_RECORDS_MAX = 1 << 19
"""Records of one segment at most, whatever their payload: bounds the index that a reader has to decode."""
FRAME_BYTES = 256 << 10
"""Raw payload of one frame at most."""

CHAIN_GROUP = 1024
"""Chain objects per key group and per catalog summary."""

STALL_LIMIT_S_DEFAULT = 2.0
MARK_NAME_CHARS_MAX = 200
CONFIG_NAME_BYTES_MAX = 200
"""Recovery writes a file under a name that is 9 bytes longer first, and file systems take 255."""

NAME_CHARS_MAX = 64

assert WRITE_BYTES_MAX % BLOCK_BYTES == 0, "a record's payload is block aligned when its write is"
assert RING_BYTES_DEFAULT >= 2 * WRITE_BYTES_MAX, "one longest write must not stop all other producers"
assert SEGMENT_BYTES_MAX >= 2 * WRITE_BYTES_MAX, "any record fits into one segment"
assert SEGMENT_RECORDS_MAX >= SEGMENT_BYTES_MAX // SECTOR_BYTES, "a segment of single sectors is sealed by its size"
assert UNSYNCED_BYTES_MAX >= WRITE_BYTES_MAX, "a flush is never owed in the middle of a batch"
assert SECTION_BYTES_MIN >= 4 * SECTION_SUPERBLOCK_AREA_BYTES, "a section has room for data"


def write_bytes_max(section_bytes: int) -> int:
    """Longest write that a log section of ``section_bytes`` accepts: a quarter of its data area, at most 32 MiB.

    A quarter lets one batch be written while another waits for upload, wherever the wrap falls.
    """
    quarter = (section_bytes - SECTION_SUPERBLOCK_AREA_BYTES) // 4
    return min(WRITE_BYTES_MAX, quarter // BLOCK_BYTES * BLOCK_BYTES)
