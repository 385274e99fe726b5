/*
 * scatter.h: writes the pieces of a decompressed frame to their offsets in a target, and finds out later whether they
 * are still there.
 *
 * A recovery that is continued after hours must not trust what lies in its target. So each write gives a digest of the
 * bytes written, and jdr_gather_digest gives the digest of what the target holds now. The digest of a frame's pieces is
 * the XXH3-64 of their bytes, one after the other, seeded with the digest of the frame before. The first seed is 0.
 *
 * Invariants: the caller checks all pieces before the first byte is written. Pieces that follow one another in the
 * target are written by one pwritev. No state, no Python, so any thread may call it. Several may write to one
 * descriptor if their targets are disjoint.
 */
#ifndef JETDR_SCATTER_H
#define JETDR_SCATTER_H

#include <stddef.h>
#include <stdint.h>

/*
 * A part of a recorded write that a recovery needs: `length` bytes at `frame_offset` of frame `frame` belong at
 * `offset` of `disk`. The layout is that of jetdr_core.extent.PIECE.
 */
struct jdr_piece {
    uint64_t offset;
    uint64_t lsn;
    uint32_t length;
    uint32_t frame_offset;
    uint32_t frame;
    uint32_t disk;
};

_Static_assert(sizeof(struct jdr_piece) == 32, "the layout is shared with numpy");

/* The index of the first piece that ends beyond the source or the range of file offsets, or -1. */
int64_t jdr_scatter_check(const struct jdr_piece *pieces, size_t count, size_t source_bytes);

/*
 * Write all pieces of `source` to `fd`. `*digest` holds the digest of the frame before, and then that of this one.
 * Returns 0, or the errno of a failed write. Any part may then be written.
 */
int jdr_scatter_write(int fd, const uint8_t *source, const struct jdr_piece *pieces, size_t count, uint64_t *digest);

/*
 * Read the pieces of any number of frames, frame by frame, from `fd`, and set `*digest` to the digest of the last
 * frame. Takes memory for one buffer, whatever the pieces say. Returns 0, or an errno: EIO if the target ends too
 * early.
 */
int jdr_gather_digest(int fd, const struct jdr_piece *pieces, size_t count, uint64_t *digest);

#endif
