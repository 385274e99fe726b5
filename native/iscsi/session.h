/*
 * session.h: a LUN of an iSCSI target as a jdr_device, over libiscsi.
 *
 * A session is one connection and one service thread, which alone touches libiscsi. Callers, from any thread, queue
 * requests and wait. A long transfer is cut into commands of the size that the target takes, many of them in flight.
 *
 * The problem is the network. Connections break. A target may also lose its write cache, with writes in it that it has
 * acknowledged and no sync has covered. Hence:
 *
 * - A lost connection is made again, and the commands that were in flight are sent again. A call that sees no progress
 *   for limit_ns fails.
 * - The session keeps a copy of every acknowledged write until a sync covers it. It writes the copies again, in order,
 *   whenever the target may have lost them: after a new connection or a unit attention.
 * - The session is broken when such writes cannot be brought back, or when the target reports that a sync failed. Every
 *   later call then fails until the LUN is opened again.
 * - After a reconnect it must be the same LUN. Nothing that a target sends is believed unchecked.
 */
#ifndef JETDR_ISCSI_SESSION_H
#define JETDR_ISCSI_SESSION_H

#include "jetdr.h"

/* Bytes of copies that a session keeps. A write that finds no room syncs first. */
#define JDR_ISCSI_RETAINED_BYTES_MAX (JDR_UNSYNCED_BYTES_MAX + JDR_RECORD_BYTES_MAX)

enum jdr_iscsi_problem {
    JDR_ISCSI_FINE,
    JDR_ISCSI_UNREACHABLE, /* EIO: there is no portal, or the connection was lost and did not come back */
    JDR_ISCSI_DENIED,      /* EACCES: user, password or initiator name */
    JDR_ISCSI_NO_TARGET,   /* ENXIO */
    JDR_ISCSI_NO_LUN,      /* ENXIO: not there, not ready, or not a disk */
    JDR_ISCSI_OTHER_LUN,   /* ENXIO: another LUN answers after a reconnect */
    JDR_ISCSI_READ_ONLY,   /* EROFS */
    JDR_ISCSI_RESIZED,     /* EIO: the LUN has shrunk, and the range ends beyond its new end */
    JDR_ISCSI_RESERVED,    /* EBUSY: by another machine */
    JDR_ISCSI_FAILED,      /* EIO: the target reports an error */
    JDR_ISCSI_PROTOCOL,    /* EPROTO: the target's answer makes no sense */
};

struct jdr_iscsi_failure {
    enum jdr_iscsi_problem problem;
    char text[256];
};

struct jdr_iscsi_options {
    const char *portal, *target, *initiator; /* host:port, two iSCSI names */
    const char *user, *password;             /* CHAP. NULL: none */
    int lun;
    bool writable;
    bool preempt;           /* take the reservation from any other machine, and keep it beyond the close */
    bool first;             /* of the machine's sessions with the LUN. Its close gives the reservation back */
    uint32_t machine;       /* its number in reservations. 0: the LUN is not reserved */
    int64_t limit_ns;       /* the longest that a call waits without progress */
    int64_t login_limit_ns; /* for one attempt to connect and log in */
};

struct jdr_iscsi_info {
    uint64_t size_bytes; /* when the LUN was opened */
    uint32_t block_bytes;
    uint64_t size_bytes_now, max_transfer_bytes, retained_bytes, reconnects, replayed_bytes, syncs;
    bool reserved, thin;              /* thin: zeroing gives space back */
    struct jdr_iscsi_failure failure; /* the last */
};

typedef struct jdr_iscsi jdr_iscsi;

/* Connect, log in, look at the LUN, reserve it. Nothing is retried. A failure is described, and its errno returned. */
int jdr_iscsi_open(jdr_iscsi **session, const struct jdr_iscsi_options *options, struct jdr_iscsi_failure *failure);
/* Refuse new calls (-ESHUTDOWN), wait for those inside unless the connection is lost, log out. Idempotent. */
void jdr_iscsi_close(jdr_iscsi *session);
/* Once no thread can call any more. Closes the session if it is open. */
void jdr_iscsi_free(jdr_iscsi *session);
/* The session as a device, valid until jdr_iscsi_free. All its functions are thread-safe. */
void jdr_iscsi_device(jdr_iscsi *session, struct jdr_device *device);
void jdr_iscsi_info(jdr_iscsi *session, struct jdr_iscsi_info *info);

#endif
