/*
 * tables.c: decodes and checks the tables of an index, row by row.
 */
#include "tables.h"

#include <string.h>

enum { SECTOR_BYTES = 512, CODEC_RAW = 0, CODEC_LZ4 = 1, KIND_WRITE = 1, KIND_ZERO = 2 };
static const uint32_t NO_FRAME = 0xFFFFFFFFu;

/* A column of values that fit into a word: each row is touched once. */
static void unpack_words(const uint8_t *planes, size_t count, size_t width, int ascending, uint8_t *rows,
                         size_t row_bytes)
{
    uint64_t before = 0;
    for (size_t i = 0; i < count; i++, rows += row_bytes) {
        uint64_t value = 0;
        for (size_t byte = 0; byte < width; byte++)
            value |= (uint64_t)planes[byte * count + i] << 8 * byte;
        value += ascending ? before : 0;
        memcpy(rows, &value, width);
        before = value;
    }
}

void jdr_unpack_column(const uint8_t *planes, size_t count, size_t width, int ascending, uint8_t *rows,
                       size_t row_bytes)
{
    if (width <= sizeof(uint64_t)) {
        unpack_words(planes, count, width, ascending, rows, row_bytes);
        return;
    }
    for (size_t byte = 0; byte < width; byte++, planes += count)
        for (size_t i = 0; i < count; i++)
            rows[i * row_bytes + byte] = planes[i];
}

static const struct jdr_frame_row *frame_at(const struct jdr_frame_table *frames, size_t row)
{
    return (const struct jdr_frame_row *)(frames->rows + row * frames->row_bytes);
}

enum jdr_table_problem jdr_check_frames(const struct jdr_frame_table *frames, uint64_t start, uint64_t stored_bytes,
                                        uint32_t raw_bytes_max)
{
    uint64_t end = start;
    for (size_t i = 0; i < frames->count; i++) {
        const struct jdr_frame_row *frame = frame_at(frames, i);
        if (frame->raw_bytes == 0 || frame->raw_bytes > raw_bytes_max)
            return JDR_FRAME_SIZE;
        if (frame->stored_bytes == 0 || frame->stored_bytes > frame->raw_bytes)
            return JDR_FRAME_STORED;
        if (frame->offset != end)
            return JDR_FRAMES_FILL;
        if (frame->codec > CODEC_LZ4 || (frame->codec == CODEC_RAW && frame->stored_bytes != frame->raw_bytes))
            return JDR_FRAME_CODEC;
        end += frame->stored_bytes;
    }
    return end - start == stored_bytes ? JDR_TABLE_SOUND : JDR_FRAMES_FILL;
}

static enum jdr_table_problem check_place(const struct jdr_entry_row *entry, const struct jdr_frame_table *frames,
                                          uint64_t disk_bytes_max)
{
    int is_zero = entry->frame == NO_FRAME;
    if (entry->length == 0 || (entry->offset | entry->length) % SECTOR_BYTES)
        return JDR_ENTRY_SECTORS;
    if (entry->length > disk_bytes_max || entry->offset > disk_bytes_max - entry->length)
        return JDR_ENTRY_BEYOND;
    if (entry->kind != (is_zero ? KIND_ZERO : KIND_WRITE))
        return JDR_ENTRY_KIND;
    if (is_zero)
        return JDR_TABLE_SOUND;
    if (entry->frame >= frames->count)
        return JDR_ENTRY_FRAME;
    uint32_t room = frame_at(frames, entry->frame)->raw_bytes;
    return entry->length > room || entry->frame_offset > room - entry->length ? JDR_ENTRY_ROOM : JDR_TABLE_SOUND;
}

/* The pieces of one LSN are one record: the same disk, time and flags, and consecutive offsets. */
static enum jdr_table_problem check_order(const struct jdr_entry_row *before, const struct jdr_entry_row *entry)
{
    if (entry->lsn < before->lsn)
        return JDR_ENTRY_ORDER;
    if (entry->lsn > before->lsn)
        return JDR_TABLE_SOUND;
    int is_alike = entry->disk == before->disk && entry->time_ns == before->time_ns && entry->flags == before->flags;
    return is_alike && entry->offset == before->offset + before->length ? JDR_TABLE_SOUND : JDR_ENTRY_PIECES;
}

enum jdr_table_problem jdr_check_entries(const struct jdr_entry_row *entries, size_t count,
                                         const struct jdr_frame_table *frames, uint64_t disk_bytes_max)
{
    enum jdr_table_problem problem = JDR_TABLE_SOUND;
    for (size_t i = 0; i < count && !problem; i++)
        problem = check_place(entries + i, frames, disk_bytes_max);
    for (size_t i = 1; i < count && !problem; i++)
        problem = check_order(entries + i - 1, entries + i);
    return problem;
}

enum jdr_table_problem jdr_check_records(const struct jdr_entry_row *entries, size_t count, const uint64_t *control_lsn,
                                         const int64_t *control_time_ns, size_t control_count,
                                         const struct jdr_record_range *range)
{
    uint64_t lsn = range->lsn_first;
    int64_t time_ns = range->time_first_ns, time_first_ns = 0;
    int decreases = 0;
    size_t entry = 0, control = 0;
    for (; entry < count || control < control_count; lsn++) {
        int64_t next_ns;
        if (entry < count && entries[entry].lsn == lsn) {
            next_ns = entries[entry].time_ns;
            while (entry < count && entries[entry].lsn == lsn)
                entry++;
        } else if (control < control_count && control_lsn[control] == lsn) {
            next_ns = control_time_ns[control++];
        } else {
            return JDR_RECORDS_DENSE;
        }
        time_first_ns = lsn == range->lsn_first ? next_ns : time_first_ns;
        decreases |= next_ns < time_ns;
        time_ns = next_ns;
    }
    if (lsn == range->lsn_first || lsn - 1 != range->lsn_last)
        return JDR_RECORDS_DENSE;
    int is_named = time_first_ns == range->time_first_ns && time_ns == range->time_last_ns;
    return decreases || !is_named ? JDR_RECORDS_TIMES : JDR_TABLE_SOUND;
}
