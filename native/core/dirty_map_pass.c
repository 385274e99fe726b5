/* dirty_map_pass.c: what a pass looks at before it may clear bits: steps 1 to 5. See dirty_map.h. */
#include "dirty_map.h"

#include "ring.h"

static void grow_old(jdr_dirty_map *map)
{
    for (uint64_t block = 0; block < map->file.blocks; block++)
        for (uint64_t region = block * JDR_MAP_BLOCK_REGIONS;
             map->regions[block] && region < jdr_map_end_of(map, block); region++)
            if (jdr_map_state_of(map, region) & JDR_REGION_YOUNG)
                atomic_fetch_and(&map->states[region], (uint8_t)~JDR_REGION_YOUNG);
}

static void keep_young(jdr_dirty_map *map, struct jdr_ranges *ranges)
{
    pthread_mutex_lock(&ranges->mutex);
    for (const struct jdr_range *range = ranges->newest; range; range = range->older)
        for (uint64_t region = range->begin >> map->shift; region <= (range->end - 1) >> map->shift; region++)
            if (jdr_map_state_of(map, region) & JDR_REGION_MARKED)
                atomic_fetch_or(&map->states[region], JDR_REGION_YOUNG);
    pthread_mutex_unlock(&ranges->mutex);
}

void jdr_dirty_map_begin_pass(jdr_dirty_map *map, struct jdr_ranges *ranges, const jdr_ring *ring)
{
    struct jdr_ring_off off;
    jdr_ring_off(ring, &off);
    map->pass.begun = off.logging;
    grow_old(map);
    keep_young(map, ranges);
    map->pass.off_count = off.count;
    map->pass.lsn = jdr_ring_lsn_reserved(ring);
}

static bool has_cleared(const jdr_dirty_map *map)
{
    for (uint64_t block = 0; block < map->file.blocks; block++)
        for (uint64_t region = block * JDR_MAP_BLOCK_REGIONS;
             map->regions[block] && region < jdr_map_end_of(map, block); region++)
            if (jdr_map_state_of(map, region) == JDR_REGION_MARKED)
                return true;
    return false;
}

bool jdr_dirty_map_may_clear(const jdr_dirty_map *map, jdr_ring *ring)
{
    struct jdr_ring_off off;
    if (!map->pass.begun || !has_cleared(map))
        return false;
    if (jdr_ring_lsn_durable(ring) < map->pass.lsn) {
        jdr_ring_request_durable(ring, map->pass.lsn);
        return false;
    }
    jdr_ring_off(ring, &off); /* after the look at what is durable: a ring that was emptied meanwhile was off */
    return off.logging && off.count == map->pass.off_count;
}
