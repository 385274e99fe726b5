/* map_file.c: see map_file.h. */
#include "map_file.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "checksum.h"

/* ---- layout ----------------------------------------------------------------------------------------------------- */

static uint64_t blocks_of(uint64_t regions)
{
    return (regions + JDR_MAP_BLOCK_REGIONS - 1) / JDR_MAP_BLOCK_REGIONS;
}

static uint32_t shift_of(uint64_t size_bytes)
{
    uint32_t shift = JDR_MAP_SHIFT_MIN;
    while (shift < JDR_MAP_SHIFT && (size_bytes >> shift) >= JDR_MAP_BLOCK_REGIONS)
        shift++;
    while ((size_bytes >> shift) >= JDR_MAP_REGIONS_MAX)
        shift++;
    return shift;
}

static uint64_t regions_of(uint64_t size_bytes)
{
    uint32_t shift = shift_of(size_bytes);
    return (size_bytes + (1ull << shift) - 1) >> shift;
}

uint64_t jdr_dirty_map_file_bytes(uint64_t size_bytes)
{
    return 2 * (1 + blocks_of(regions_of(size_bytes))) * JDR_BLOCK;
}

void jdr_map_file_init(struct jdr_map_file *file, const struct jdr_device *device, uint64_t size_bytes)
{
    file->device = *device;
    file->size_bytes = size_bytes;
    file->shift = shift_of(size_bytes);
    file->regions = regions_of(size_bytes);
    file->blocks = blocks_of(file->regions);
}

/* Where a copy lies: the superblock is place 0, block n is place n + 1. */
static uint64_t offset_of(const struct jdr_map_file *file, unsigned copy, uint64_t place)
{
    return (copy * (1 + file->blocks) + place) * JDR_BLOCK;
}

/* ---- writing ---------------------------------------------------------------------------------------------------- */

static int write_copies(const struct jdr_map_file *file, uint64_t place, const void *block)
{
    struct iovec piece = {(void *)block, JDR_BLOCK};
    int result = file->device.write(&file->device, offset_of(file, 0, place), &piece, 1);
    return result ? result : file->device.write(&file->device, offset_of(file, 1, place), &piece, 1);
}

int jdr_map_file_sync(const struct jdr_map_file *file)
{
    return file->device.sync(&file->device);
}

int jdr_map_file_write_block(struct jdr_map_file *file, uint64_t number)
{
    struct jdr_map_block *block = &file->buffer;
    memcpy(block->map_id, file->super.map_id, sizeof block->map_id);
    block->number = number;
    block->sequence = ++file->super.sequence;
    block->checksum = jdr_checksum(block, offsetof(struct jdr_map_block, checksum));
    return write_copies(file, number + 1, block);
}

int jdr_map_file_write_superblock(struct jdr_map_file *file)
{
    int result = jdr_map_file_sync(file);
    if (result)
        return result;
    file->super.sequence++;
    file->super.checksum = jdr_checksum(&file->super, offsetof(struct jdr_map_superblock, checksum));
    result = write_copies(file, 0, &file->super);
    return result ? result : jdr_map_file_sync(file);
}

void jdr_map_file_invalidate(struct jdr_map_file *file)
{
    static const struct jdr_map_superblock nothing;
    const struct jdr_device *device = &file->device;
    for (unsigned copy = 0; copy < 2; copy++) { /* each by itself: one that cannot be written must not save the other */
        struct iovec piece = {(void *)&nothing, JDR_BLOCK};
        device->write(device, offset_of(file, copy, 0), &piece, 1);
    }
    device->sync(device);
    if (device->fd >= 0 && ftruncate(device->fd, 0) == 0)
        fsync(device->fd);
}

/* ---- reading ---------------------------------------------------------------------------------------------------- */

/* Read the copy of a superblock. False if that is none, or a damaged one. */
static bool read_superblock(const struct jdr_map_file *file, unsigned copy, struct jdr_map_superblock *super)
{
    return file->device.read(&file->device, offset_of(file, copy, 0), super, sizeof *super) == 0 &&
           memcmp(super->magic, JDR_MAP_MAGIC, sizeof super->magic) == 0 &&
           super->checksum == jdr_checksum(super, offsetof(struct jdr_map_superblock, checksum));
}

/* Is there anything at all at the places of the superblocks? */
static bool is_blank(const struct jdr_map_file *file)
{
    static const uint8_t zeros[JDR_BLOCK];
    uint8_t found[JDR_BLOCK];
    for (unsigned copy = 0; copy < 2; copy++)
        if (file->device.read(&file->device, offset_of(file, copy, 0), found, sizeof found) == 0 &&
            memcmp(found, zeros, sizeof found))
            return false;
    return true;
}

/* A copy of another size's map is found where that map has its first one, so the second copy is not asked for. */
static enum jdr_map_found check(const struct jdr_map_file *file, const struct jdr_map_superblock *super,
                                const struct jdr_map_identity *identity)
{
    if (super->version != JDR_MAP_VERSION)
        return super->version > JDR_MAP_VERSION ? JDR_MAP_NEWER : JDR_MAP_DAMAGED;
    if (memcmp(super->identity.domain, identity->domain, 16) || memcmp(super->identity.disk, identity->disk, 16))
        return JDR_MAP_FOREIGN;
    if (super->identity.size_bytes != identity->size_bytes || super->shift != file->shift)
        return JDR_MAP_RESIZED;
    if (super->identity.section_id != identity->section_id || super->identity.timeline != identity->timeline)
        return JDR_MAP_OTHER_LOG;
    if (super->use != JDR_MAP_IN_USE && super->use != JDR_MAP_CLOSED)
        return JDR_MAP_DAMAGED;
    return JDR_MAP_BELIEVED;
}

enum jdr_map_found jdr_map_file_read(struct jdr_map_file *file, const struct jdr_map_identity *identity)
{
    struct jdr_map_superblock copies[2];
    bool whole[2] = {read_superblock(file, 0, &copies[0]), read_superblock(file, 1, &copies[1])};
    if (!whole[0] && !whole[1])
        return is_blank(file) ? JDR_MAP_NONE : JDR_MAP_DAMAGED;
    bool second = !whole[0] || (whole[1] && copies[1].sequence > copies[0].sequence);
    file->super = copies[second];
    return check(file, &file->super, identity);
}

/* Read the copy of a block. False if it is not whole, or of another map or place. */
static bool read_block(const struct jdr_map_file *file, unsigned copy, uint64_t number, struct jdr_map_block *block)
{
    return file->device.read(&file->device, offset_of(file, copy, number + 1), block, sizeof *block) == 0 &&
           block->checksum == jdr_checksum(block, offsetof(struct jdr_map_block, checksum)) &&
           block->number == number && memcmp(block->map_id, file->super.map_id, sizeof block->map_id) == 0;
}

bool jdr_map_file_read_block(struct jdr_map_file *file, uint64_t number)
{
    struct jdr_map_block other;
    bool first = read_block(file, 0, number, &file->buffer);
    bool second = read_block(file, 1, number, first ? &other : &file->buffer);
    file->copies_differ = !first || !second || memcmp(other.bits, file->buffer.bits, sizeof other.bits) != 0;
    if (first && second && other.lsn > file->buffer.lsn)
        file->buffer.lsn = other.lsn;
    if (first && second)
        for (size_t i = 0; i < sizeof other.bits; i++)
            file->buffer.bits[i] |= other.bits[i];
    if (!first && !second)
        return false;
    if (file->super.sequence < file->buffer.sequence)
        file->super.sequence = file->buffer.sequence;
    if (file->lsn < file->buffer.lsn)
        file->lsn = file->buffer.lsn;
    return true;
}
