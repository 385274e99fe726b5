/*
 * map_file.h: the sidecar of a dirty map: its layout, its checks, its I/O. docs/formats/dirty-map.md has the offsets.
 *
 * A power loss tears what was being written, and a disk may return other bytes than it was given. So the superblock and
 * every block of bits are there twice, in two halves of the file, each copy under a checksum. Both copies are written
 * before the flush that makes them durable. A reader takes the union of the copies that are whole. The union lacks no
 * bit that was durable once and not cleared since: of two copies, the older one lacks only bits whose flush had not
 * returned.
 *
 * Invariants: nothing read is believed before its checksum, its number and the identity of its map have been checked. A
 * block of which no copy is whole makes all of the map damaged. This file knows nothing of regions' states.
 */
#ifndef JETDR_MAP_FILE_H
#define JETDR_MAP_FILE_H

#include "jetdr.h"

#define JDR_MAP_MAGIC "JETDRMAP"
#define JDR_MAP_VERSION 1u
#define JDR_MAP_SHIFT_MIN 16u /* regions of 64 KiB where all of the map's bits fit into one block */
#define JDR_MAP_SHIFT 19u     /* regions of 512 KiB: both copies take 0.52 MiB for each TiB */
#define JDR_MAP_REGIONS_MAX (1ull << 24)
#define JDR_MAP_BITS_BYTES 4048u
#define JDR_MAP_BLOCK_REGIONS (JDR_MAP_BITS_BYTES * 8ull)

enum jdr_map_use { JDR_MAP_IN_USE = 1, JDR_MAP_CLOSED = 2 };

struct jdr_map_superblock {
    char magic[8];
    uint32_t version, shift;
    uint8_t map_id[16]; /* random: the blocks of this map, and of no other */
    struct jdr_map_identity identity;
    struct jdr_generation generation;
    uint64_t use, sequence;
    int64_t alive_ns; /* UTC: the last time at which the map was known to be kept */
    uint64_t inode;   /* of the primary's file. 0: it has none */
    int64_t ctime_ns; /* of that file when the map was closed */
    uint8_t zeros[3936];
    uint64_t checksum; /* XXH3-64 of all before it */
};
_Static_assert(sizeof(struct jdr_map_superblock) == JDR_BLOCK, "a superblock is one block");

struct jdr_map_block {
    uint8_t map_id[16];
    uint64_t number, sequence;
    uint64_t lsn; /* bits were cleared because the log had everything up to here */
    uint8_t bits[JDR_MAP_BITS_BYTES];
    uint64_t checksum;
};
_Static_assert(sizeof(struct jdr_map_block) == JDR_BLOCK, "a block of bits is one block");

struct jdr_map_file {
    struct jdr_device device;
    uint64_t size_bytes, regions, blocks;
    uint32_t shift;
    struct jdr_map_superblock super;
    uint64_t lsn;                /* that clearings rely on. The highest, when blocks are read */
    bool copies_differ;          /* of the block that was read last, or one of them is not whole */
    struct jdr_map_block buffer; /* of the only writer */
};

void jdr_map_file_init(struct jdr_map_file *file, const struct jdr_device *device, uint64_t size_bytes);
/* Read the superblock into file->super. The result says why it is not believed, or is JDR_MAP_BELIEVED. */
enum jdr_map_found jdr_map_file_read(struct jdr_map_file *file, const struct jdr_map_identity *identity);
/* Read the bits of a block into file->buffer. False if no copy of it is whole. */
bool jdr_map_file_read_block(struct jdr_map_file *file, uint64_t number);
/* Write file->buffer, its LSN and its bits, as that block. Returns 0 or -errno. Durable after jdr_map_file_sync. */
int jdr_map_file_write_block(struct jdr_map_file *file, uint64_t number);
/* Write file->super, durably, after everything that was written before. Returns 0 or -errno. */
int jdr_map_file_write_superblock(struct jdr_map_file *file);
int jdr_map_file_sync(const struct jdr_map_file *file);
/* Make sure, as far as the file can be written, that nobody believes it. */
void jdr_map_file_invalidate(struct jdr_map_file *file);

#endif
