/*
 * ring.h: what the filter and the applier ask of a ring beyond jetdr.h. They see neither its memory nor its fields.
 */
#ifndef JETDR_RING_H
#define JETDR_RING_H

#include "jetdr.h"

bool jdr_ring_in_file(const jdr_ring *ring);
bool jdr_ring_logging(const jdr_ring *ring);
/* The most room that the writes of one disk may hold at once: half of the ring. */
struct jdr_room jdr_ring_share(const jdr_ring *ring);

bool jdr_ring_is_host(const jdr_ring *ring);
/*
 * A number that changes when records become durable in the log, when logging goes on or off, and with
 * jdr_ring_wake_moved.
 */
uint32_t jdr_ring_moved(const jdr_ring *ring);
/* Wait until the number is no longer `seen`, at most limit_ns. Spurious returns are allowed. */
void jdr_ring_wait_moved(jdr_ring *ring, uint32_t seen, int64_t limit_ns);
void jdr_ring_wake_moved(jdr_ring *ring);

#endif
