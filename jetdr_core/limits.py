"""Sizes and limits of the engine, with the relations between them asserted and explained.

The native core has its own copies of the first five, in ``native/jetdr.h``. ``replication_log/log.py`` asserts that
they are equal.
"""

from __future__ import annotations

SECTOR_BYTES = 512
"""Granularity of every captured write."""

BLOCK_BYTES = 4096
"""Granularity of everything on the log volume."""

RECORD_BYTES_MAX = 32 << 20
"""The most payload that one record holds. A longer request becomes several writes."""

BATCH_RECORDS_MAX = 4096

UNSYNCED_BYTES_MAX = 64 << 20
"""The log writer flushes after this much at the latest. That bounds the scan that tells a torn tail from damage."""

BATCH_BYTES_DEFAULT = 8 << 20
"""A commit takes no more payload than this, unless one record alone has more."""

CONTROL_BYTES_MAX = 1 << 20
"""The most payload of a control record (mark, disk, configuration file)."""

DISK_BYTES_MAX = 1 << 50
DISKS_MAX = 500
SECTIONS_MAX = 500

RING_BYTES_DEFAULT = 128 << 20
RING_SLOTS_DEFAULT = 1 << 15

VOLUME_SUPERBLOCK_AREA_BYTES = 1 << 20
SECTION_SUPERBLOCK_AREA_BYTES = 64 << 10
SECTION_BYTES_DEFAULT = 64 << 30
SECTION_BYTES_MIN = 1 << 20
SECTION_ALIGN_BYTES = 1 << 20

SEGMENT_BYTES_DEFAULT = 16 << 20
SEGMENT_BYTES_MAX = 256 << 20
SEGMENT_AGE_S_DEFAULT = 1.0

SEGMENT_RECORDS_MAX = 1 << 19
"""The most records of one segment, whatever their payload. That bounds the index that a reader has to decode."""

FRAME_BYTES = 256 << 10
"""The most raw payload of one frame."""

CHAIN_GROUP = 1024
"""Chain objects per key group and per catalog summary."""

STALL_LIMIT_S_DEFAULT = 2.0

DIGEST_BYTES_MAX = 1 << 20
"""The longest extent that the self-check digests at once. Its range is held meanwhile."""

NAME_CHARS_MAX = 64
MARK_NAME_CHARS_MAX = 200
CONFIG_NAME_BYTES_MAX = 200

FILE_NAME_BYTES_MAX = 255
"""The longest name that common file systems take."""

assert BLOCK_BYTES % SECTOR_BYTES == 0, "a block holds whole sectors"
assert DISK_BYTES_MAX % SECTOR_BYTES == 0, "the largest disk has whole sectors"
assert RECORD_BYTES_MAX % BLOCK_BYTES == 0, "a record's payload is block aligned if its write is"
assert RECORD_BYTES_MAX >= CONTROL_BYTES_MAX, "any control record fits into one record"
assert UNSYNCED_BYTES_MAX >= RECORD_BYTES_MAX, "a flush is never owed in the middle of a batch"
assert UNSYNCED_BYTES_MAX >= BATCH_BYTES_DEFAULT, "nor does a batch of usual size exceed what may be unsynced"
assert RING_BYTES_DEFAULT >= 2 * RECORD_BYTES_MAX, "one longest write must not stop all other producers"
assert RING_SLOTS_DEFAULT >= 2 * BATCH_RECORDS_MAX, "producers go on while the writer commits a whole batch"
assert RING_BYTES_DEFAULT.bit_count() == RING_SLOTS_DEFAULT.bit_count() == 1, "places in the ring are found by a mask"
assert VOLUME_SUPERBLOCK_AREA_BYTES % SECTION_ALIGN_BYTES == 0, "the first section begins aligned"
assert SECTION_SUPERBLOCK_AREA_BYTES % BLOCK_BYTES == 0, "a data area begins at a block"
assert SECTION_ALIGN_BYTES % BLOCK_BYTES == 0, "a data area ends at a block"
assert SECTION_BYTES_MIN % SECTION_ALIGN_BYTES == SECTION_BYTES_DEFAULT % SECTION_ALIGN_BYTES == 0, (
    "sections are aligned"
)
assert SECTION_BYTES_MIN >= 4 * SECTION_SUPERBLOCK_AREA_BYTES, "a section has room for data"
assert SEGMENT_BYTES_DEFAULT >= FRAME_BYTES, "a segment of usual size fills its frames"
assert SEGMENT_BYTES_MAX >= SEGMENT_BYTES_DEFAULT + 2 * RECORD_BYTES_MAX, "any record fits into a segment that is due"
assert SEGMENT_RECORDS_MAX >= SEGMENT_BYTES_MAX // SECTOR_BYTES, "a segment of single sectors is sealed by its size"
assert SEGMENT_RECORDS_MAX >= 2 * BATCH_RECORDS_MAX, "a segment takes several batches"
assert CONFIG_NAME_BYTES_MAX + len("..partial") <= FILE_NAME_BYTES_MAX, "recovery first writes a file of a longer name"


def record_bytes_max(section_bytes: int) -> int:
    """Return the most payload of a record that a section of ``section_bytes`` takes.

    It is a quarter of the data area, so that one batch can be written while another waits for its upload, wherever the
    wrap falls.
    """
    quarter = (section_bytes - SECTION_SUPERBLOCK_AREA_BYTES) // 4
    return min(RECORD_BYTES_MAX, quarter // BLOCK_BYTES * BLOCK_BYTES)
