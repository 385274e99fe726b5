/*
 * session.h: a LUN of an iSCSI target as a jdr_device, over libiscsi.
 *
 * One session is one connection and one thread, which alone touches libiscsi. Callers, from any thread, queue what they
 * want and wait; a long transfer is cut into commands of what the target takes, many of them in flight.
 *
 * A lost connection is made again and what was in flight is sent again, for at most limit_ns without any progress; then
 * the calls inside fail. A write that was acknowledged and not yet synced may die with the target's cache: the session
 * keeps a copy of each, and writes them again, in order, whenever the target may have lost them (a new connection, a
 * unit attention). When they cannot be brought back, or a sync fails, the session is broken: every later call fails
 * until the LUN is opened again. Nothing a target sends is believed unchecked, and it must be the same LUN after a
 * reconnect.
 */
#ifndef JETDR_ISCSI_SESSION_H
#define JETDR_ISCSI_SESSION_H

#include "jetdr.h"

#define JDR_ISCSI_RETAINED_BYTES_MAX (JDR_UNSYNCED_BYTES_MAX + JDR_RECORD_BYTES_MAX) /* then a write syncs first */

enum jdr_iscsi_problem {
    JDR_ISCSI_FINE,
    JDR_ISCSI_UNREACHABLE, /* EIO: no portal there, or the connection was lost and did not come back */
    JDR_ISCSI_DENIED,      /* EACCES: user, password or initiator name */
    JDR_ISCSI_NO_TARGET,   /* ENXIO */
    JDR_ISCSI_NO_LUN,      /* ENXIO: not there, not ready, or not a disk */
    JDR_ISCSI_OTHER_LUN,   /* ENXIO: after a reconnect another one answers */
    JDR_ISCSI_READ_ONLY,   /* EROFS */
    JDR_ISCSI_RESIZED,     /* EIO: the range lies beyond its new end */
    JDR_ISCSI_RESERVED,    /* EBUSY: another machine has it */
    JDR_ISCSI_FAILED,      /* EIO: the target reports an error */
    JDR_ISCSI_PROTOCOL,    /* EPROTO: the target's answer makes no sense */
};

struct jdr_iscsi_failure {
    enum jdr_iscsi_problem problem;
    char text[256];
};

struct jdr_iscsi_options {
    const char *portal, *target, *initiator; /* host:port, two iSCSI names */
    const char *user, *password;             /* CHAP; NULL: none */
    int lun;
    bool writable;
    bool preempt; /* take the reservation from whoever has it, and keep it beyond the close */
    bool first;   /* the machine's only process with the LUN, its first session: its close gives the reservation back */
    uint32_t machine;       /* its number in reservations; 0: the LUN is not reserved */
    int64_t limit_ns;       /* that a call waits without any progress */
    int64_t login_limit_ns; /* for one attempt to connect and log in */
};

struct jdr_iscsi_info {
    uint64_t size_bytes; /* when it was opened */
    uint32_t block_bytes;
    uint64_t size_bytes_now, max_transfer_bytes, retained_bytes, reconnects, replayed_bytes, syncs;
    bool reserved, thin;              /* thin: zeroing gives space back */
    struct jdr_iscsi_failure failure; /* the last */
};

typedef struct jdr_iscsi jdr_iscsi;

/* Connect, log in, look at the LUN, reserve it. A failure is described, with its errno returned; nothing is retried. */
int jdr_iscsi_open(jdr_iscsi **session, const struct jdr_iscsi_options *options, struct jdr_iscsi_failure *failure);
/* Refuse new calls (-ESHUTDOWN), wait for those inside unless the connection is lost, log out. Twice is harmless. */
void jdr_iscsi_close(jdr_iscsi *session);
/* After jdr_iscsi_close, and when no thread can call any more. */
void jdr_iscsi_free(jdr_iscsi *session);
/* The session as a device: valid until jdr_iscsi_free; all its functions are thread-safe. */
void jdr_iscsi_device(jdr_iscsi *session, struct jdr_device *device);
void jdr_iscsi_info(jdr_iscsi *session, struct jdr_iscsi_info *info);

#endif
