/* Writes pieces of a decompressed frame to where they live in the target.
 *
 * Invariants: every piece is checked before the first byte is written; pieces whose targets touch go out in one
 * pwritev. No allocation, no Python, no state: any thread may call it, several on one descriptor if their targets are
 * disjoint.
 */
#ifndef JETDR_SCATTER_H
#define JETDR_SCATTER_H

#include <stddef.h>
#include <stdint.h>

/* A live part of a recorded write: `length` bytes at `frame_offset` of frame `frame` belong at `offset` of `disk`.
 * Same layout as jetdr_core.extent.PIECE. */
struct jdr_piece {
    uint64_t offset;
    uint64_t lsn;
    uint32_t length;
    uint32_t frame_offset;
    uint32_t frame;
    uint32_t disk;
};

_Static_assert(sizeof(struct jdr_piece) == 32, "the layout is shared with numpy");

/* Index of the first piece that leaves the source or the range of file offsets; -1 if all are good. */
int64_t jdr_scatter_check(const struct jdr_piece *pieces, size_t count, size_t source_bytes);

/* Write all pieces of `source` to `fd`; 0, or the errno of the write that failed (any part may then be written). */
int jdr_scatter_write(int fd, const uint8_t *source, const struct jdr_piece *pieces, size_t count);

#endif
