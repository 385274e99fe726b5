/*
 * tables.h: the tables of a segment's index: from byte planes back to rows, and whether their rows can be true.
 *
 * A store may hold thousands of segments with a few rows each, and segments with half a million. Both are decoded by
 * one pass over the rows. docs/formats/segment.md has the layouts, jetdr_core.segment.layout their Python form.
 *
 * Invariants: the tables are untrusted, and no row is used to reach memory before it was checked. Pure loops over the
 * caller's memory: no allocation, no state, no Python, so any thread may call them.
 */
#ifndef JETDR_TABLES_H
#define JETDR_TABLES_H

#include <stddef.h>
#include <stdint.h>

struct __attribute__((packed)) jdr_frame_row {
    uint64_t offset;
    uint32_t stored_bytes;
    uint32_t raw_bytes;
    uint64_t checksum;
    uint8_t codec;
};

struct __attribute__((packed)) jdr_entry_row {
    uint64_t lsn;
    int64_t time_ns;
    uint64_t offset;
    uint64_t length;
    uint32_t disk;
    uint32_t frame;
    uint32_t frame_offset;
    uint8_t kind;
    uint8_t flags;
};

_Static_assert(sizeof(struct jdr_frame_row) == 25, "the layout is shared with numpy");
_Static_assert(sizeof(struct jdr_entry_row) == 46, "the layout is shared with numpy");

/* What makes a table impossible. jetdr_core.segment.tables has the words, in this order. */
enum jdr_table_problem {
    JDR_TABLE_SOUND,
    JDR_FRAME_SIZE,
    JDR_FRAME_STORED,
    JDR_FRAMES_FILL,
    JDR_FRAME_CODEC,
    JDR_ENTRY_SECTORS,
    JDR_ENTRY_BEYOND,
    JDR_ENTRY_KIND,
    JDR_ENTRY_FRAME,
    JDR_ENTRY_ROOM,
    JDR_ENTRY_ORDER,
    JDR_ENTRY_PIECES,
    JDR_RECORDS_DENSE,
    JDR_RECORDS_TIMES,
};

/* Row i of a frame table is at `rows + i * row_bytes`, and begins with a struct jdr_frame_row. */
struct jdr_frame_table {
    const uint8_t *rows;
    size_t row_bytes;
    size_t count;
};

/* The range of records that a trailer names. */
struct jdr_record_range {
    uint64_t lsn_first;
    uint64_t lsn_last;
    int64_t time_first_ns;
    int64_t time_last_ns;
};

/*
 * Put one column of `count` values of `width` bytes into rows: the first bytes of all values, then the second bytes,
 * and so on, go to `rows`, a row every `row_bytes`. With `ascending` the values, of 8 bytes at most, are differences to
 * the row before.
 */
void jdr_unpack_column(const uint8_t *planes, size_t count, size_t width, int ascending, uint8_t *rows,
                       size_t row_bytes);

/* Whether the frames fill bytes [start, start + stored_bytes) of the object, each with `raw_bytes_max` at most. */
enum jdr_table_problem jdr_check_frames(const struct jdr_frame_table *frames, uint64_t start, uint64_t stored_bytes,
                                        uint32_t raw_bytes_max);

/* Whether every entry is whole sectors inside a disk and inside its frame, and the pieces of a record fit together. */
enum jdr_table_problem jdr_check_entries(const struct jdr_entry_row *entries, size_t count,
                                         const struct jdr_frame_table *frames, uint64_t disk_bytes_max);

/*
 * Whether the records of checked entries and of `control_count` control records (LSN and time of each, LSNs ascending)
 * are those of `range`, each once, with times that never decrease.
 */
enum jdr_table_problem jdr_check_records(const struct jdr_entry_row *entries, size_t count, const uint64_t *control_lsn,
                                         const int64_t *control_time_ns, size_t control_count,
                                         const struct jdr_record_range *range);

#endif
