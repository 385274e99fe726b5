/* dirty_map_look.c: what a map says: what is owed a copy, and how it stands. See dirty_map.h. */
#include "dirty_map.h"

#include <errno.h>
#include <unistd.h>

/* The first region from `region` on that is owed, or not owed. The number of regions if there is none. */
static uint64_t find(const jdr_dirty_map *map, uint64_t region, bool owed)
{
    while (region < map->file.regions) {
        if (atomic_load(&map->regions[jdr_map_block(region)]) == 0) {
            if (!owed)
                return region;
            region = jdr_map_end_of(map, jdr_map_block(region));
        } else if (((jdr_map_state_of(map, region) & JDR_REGION_OWED) != 0) == owed) {
            return region;
        } else {
            region++;
        }
    }
    return region;
}

bool jdr_dirty_map_next_owed(const jdr_dirty_map *map, uint64_t offset, uint64_t *begin, uint64_t *length)
{
    uint64_t first = offset < map->file.size_bytes ? find(map, offset >> map->shift, true) : map->file.regions;
    if (first >= map->file.regions)
        return false;
    uint64_t end = find(map, first, false) << map->shift;
    *begin = first << map->shift > offset ? first << map->shift : offset;
    *length = (end < map->file.size_bytes ? end : map->file.size_bytes) - *begin;
    return true;
}

void jdr_dirty_map_state(jdr_dirty_map *map, struct jdr_map_state *state)
{
    uint64_t marked = 0, owed = 0;
    for (uint64_t block = 0; block < map->file.blocks; block++) {
        uint32_t there = atomic_load(&map->regions[block]);
        marked += there;
        for (uint64_t region = block * JDR_MAP_BLOCK_REGIONS; there && region < jdr_map_end_of(map, block); region++)
            owed += (jdr_map_state_of(map, region) & JDR_REGION_OWED) != 0;
    }
    pthread_mutex_lock(&map->mutex);
    *state = (struct jdr_map_state){
        .region_bytes = 1ull << map->shift,
        .marked_bytes = marked << map->shift,
        .owed_bytes = owed << map->shift,
        .intents = map->intents,
        .failed = map->failed,
        .failed_since_ns = map->failed_since_ns,
    };
    pthread_mutex_unlock(&map->mutex);
}

bool jdr_dirty_map_has_data(const jdr_dirty_map *map, uint64_t begin, uint64_t end)
{
    off_t data = map->primary_fd < 0 ? (off_t)begin : lseek(map->primary_fd, (off_t)begin, SEEK_DATA);
    return data < 0 ? errno != ENXIO : (uint64_t)data < end;
}
