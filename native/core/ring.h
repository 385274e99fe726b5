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

/*
 * Whether a primary has no room on its file system. Its pending records hold the ring's room, and nobody knows for how
 * long. So guests wait for the ring's room with a limit, although the log is not what is slow.
 */
void jdr_ring_note_no_room(jdr_ring *ring, bool no_room);
bool jdr_ring_no_room(const jdr_ring *ring);

bool jdr_ring_is_host(const jdr_ring *ring);
/* Are writes delayed? A hint that costs nothing: jdr_ring_pressure decides. */
bool jdr_ring_delays(const jdr_ring *ring);
/* What the DRVA allows overload to cost. False if it says nothing, or no longer: nothing is then delayed. */
bool jdr_ring_pressure(const jdr_ring *ring, struct jdr_pressure *pressure);
/* Has the log no room for the next record, on the word of a consumer that lives? */
bool jdr_ring_log_full(const jdr_ring *ring);
/* Wait until `until_ns`, or until no write is delayed any more, or logging goes off, or the ring is poisoned. */
void jdr_ring_sleep(jdr_ring *ring, int64_t until_ns);
/*
 * A number that changes when records become durable in the log, when logging goes on or off, and with
 * jdr_ring_wake_moved.
 */
uint32_t jdr_ring_moved(const jdr_ring *ring);
/* Wait until the number is no longer `seen`, at most limit_ns. Spurious returns are allowed. */
void jdr_ring_wait_moved(jdr_ring *ring, uint32_t seen, int64_t limit_ns);
void jdr_ring_wake_moved(jdr_ring *ring);

#endif
