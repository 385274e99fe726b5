/*
 * room.h: room in the ring, counted in records and in sectors of payload. One word holds both counts, so that one
 * atomic operation takes or gives back both. The filter merely holds room, and passes it on as it is.
 */
#ifndef JETDR_ROOM_H
#define JETDR_ROOM_H

#include "jetdr.h"

#define JDR_ROOM_RECORD (1ull << 40)
#define JDR_ROOM_SECTORS(taken) ((taken) & (JDR_ROOM_RECORD - 1))
#define JDR_ROOM_RECORDS(taken) ((taken) >> 40)

/* Room for one record with so much payload. */
static inline struct jdr_room jdr_room_for(uint64_t payload_bytes)
{
    return (struct jdr_room){JDR_ROOM_RECORD + payload_bytes / JDR_SECTOR};
}

/* Room for so many records, with so much payload in all. */
static inline struct jdr_room jdr_room_of(uint64_t records, uint64_t payload_bytes)
{
    return (struct jdr_room){records * JDR_ROOM_RECORD + payload_bytes / JDR_SECTOR};
}

static inline bool jdr_room_is_none(struct jdr_room room)
{
    return room.taken == 0;
}

static inline struct jdr_room jdr_room_sum(struct jdr_room one, struct jdr_room other)
{
    return (struct jdr_room){one.taken + other.taken};
}

static inline struct jdr_room jdr_room_less(struct jdr_room room, struct jdr_room other)
{
    return (struct jdr_room){room.taken - other.taken};
}

/* Are there at most as many records, and as much payload, as in `limit`? */
static inline bool jdr_room_within(struct jdr_room room, struct jdr_room limit)
{
    return JDR_ROOM_RECORDS(room.taken) <= JDR_ROOM_RECORDS(limit.taken) &&
           JDR_ROOM_SECTORS(room.taken) <= JDR_ROOM_SECTORS(limit.taken);
}

#endif
