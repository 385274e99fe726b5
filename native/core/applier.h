/*
 * applier.h: what the filter asks of the applier. The applier knows nothing of filters, only of their primaries.
 */
#ifndef JETDR_APPLIER_H
#define JETDR_APPLIER_H

#include "jetdr.h"
#include "primary.h"

/* Give the disk's records to this primary from now on: 0 or -ENOMEM. */
int jdr_applier_add(jdr_applier *applier, struct jdr_primary *primary);
/* Give it no more records. None is given once this has returned. Idempotent. */
void jdr_applier_remove(jdr_applier *applier, const struct jdr_primary *primary);
/* Flush a primary. If it fails, or has failed before, the ring is told. */
int jdr_applier_sync(const jdr_applier *applier, struct jdr_primary *primary);

/*
 * Wait while the disk's primary lags by more than it takes in JDR_PACE_NS, before a record of `weight` is logged. If
 * neither this primary works nor anything else moves, wait at most `limit_ns`: then the log hangs, or another primary.
 */
void jdr_applier_pace(jdr_applier *applier, struct jdr_primary *primary, uint64_t weight, int64_t limit_ns);

/* Logging is off, the primaries have all that was ever logged, and the bypassed file stands. */
bool jdr_applier_is_settled(const jdr_applier *applier);
/* Wait until the applier has settled. False if logging is on again. */
bool jdr_applier_wait_settled(jdr_applier *applier);
/* Wait until nothing up to `lsn` is pending. */
void jdr_applier_wait_applied(jdr_applier *applier, uint64_t lsn);

#endif
