/*
 * ring.h: what filter and applier ask of a ring beyond jetdr.h. They see neither its memory nor its fields.
 */
#ifndef JETDR_RING_H
#define JETDR_RING_H

#include "jetdr.h"

bool jdr_ring_in_file(const jdr_ring *ring);
bool jdr_ring_logging(const jdr_ring *ring);
/* The most room that the writes of one disk may hold at once: half of the ring. */
struct jdr_room jdr_ring_share(const jdr_ring *ring);

#endif
