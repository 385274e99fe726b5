/*
 * inner.h: what the parts of an iSCSI session share: session.c (callers, queue, commands), login.c
 * (connection, LUN, reservation), retained.c (unsynced writes).
 */
#ifndef JETDR_ISCSI_INNER_H
#define JETDR_ISCSI_INNER_H

#include <pthread.h>

#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>

#include "session.h"

#define ISCSI_DEPTH 32u               /* commands in flight */
#define ISCSI_TRANSFER_MAX (1u << 20) /* of one command, unless the target takes less */
#define ISCSI_IOV_MAX 16

enum request_kind { REQUEST_READ, REQUEST_WRITE, REQUEST_ZERO, REQUEST_SYNC };

/* A write or zero that the target has acknowledged and no sync has covered. */
struct retained {
    struct retained *next;
    uint64_t offset, length, cost, number; /* cost: of what may be retained */
    bool copied, dropped;                  /* under the mutex: its caller has filled `data`; nobody needs it any more */
    uint8_t *data;                         /* NULL: zeros */
};

struct request {
    struct request *next;
    enum request_kind kind;
    uint64_t offset, length;
    const struct iovec *iov;
    int iov_count;
    struct retained *copy;     /* of a write or zero; becomes the session's when the target has acknowledged it */
    uint64_t dispatched, done; /* bytes; of a sync: 0 or 1 */
    uint32_t in_flight;        /* commands */
    uint64_t command_number;   /* of a sync: its command */
    uint64_t retained_number;  /* of a sync: it covers the retained up to here */
    int result;
    bool finished, replay;
    pthread_cond_t wake;
};

enum command_state { COMMAND_FREE, COMMAND_READY, COMMAND_SENT };

struct command {
    jdr_iscsi *session;
    struct request *request;
    enum command_state state;
    uint64_t offset, number; /* number: in the order sent */
    uint32_t length;
    bool write_same;
    int64_t not_before_ns;
    int iov_count;
    struct scsi_iovec iov[ISCSI_IOV_MAX];
};

/* The outcome of a login's current step. */
struct step {
    bool pending;
    int status;
    struct scsi_task *task;
};

struct jdr_iscsi {
    struct jdr_iscsi_options options;
    char portal[256], target[256], initiator[256], user[256], password[256];
    pthread_t thread;
    bool has_thread;
    int event; /* eventfd: something was submitted */

    pthread_mutex_t mutex; /* guards from here ... */
    pthread_cond_t changed;
    struct request *submitted, **submitted_end;
    bool closing;
    int broken; /* errno: the session fails everything */
    uint64_t retained_bytes;
    struct jdr_iscsi_info info; /* ... to here */

    /* the service thread's own */
    struct iscsi_context *iscsi;
    uint32_t isid;
    uint16_t isid_qualifier, session_number, connection_number;
    uint64_t key;   /* of the reservation */
    bool lost;      /* the connection is to be given up */
    bool replaying; /* the retained are being written again, and nothing else is sent */
    bool replay_running;
    int replay_failed; /* negative errno */
    bool pinged, leaving;
    bool write_same, unmap;
    bool known; /* logged in once: what follows is what the LUN must be again */
    uint64_t identity;
    uint64_t blocks;
    uint32_t transfer_bytes;
    int64_t progress_ns, heard_ns, retry_ns;
    uint64_t commands_sent;
    struct request *active, **active_end; /* not finished */
    struct retained *retained, **retained_end;
    struct retained *replay_next;
    uint64_t retained_number;
    struct request replay;
    struct iovec replay_iov;
    struct step step;
    bool logging_in;
    uint16_t login_status; /* class and detail of the last answer to a login */
    struct jdr_iscsi_failure failure;
    struct command commands[ISCSI_DEPTH];
};

int64_t jdr_iscsi_now(void);
int jdr_iscsi_errno(enum jdr_iscsi_problem problem);
/* Remember what went wrong; the negative errno that it means. */
int jdr_iscsi_fail(jdr_iscsi *session, enum jdr_iscsi_problem problem, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Wait for the socket or the eventfd, and let libiscsi work; negative when the connection is gone. */
int jdr_iscsi_pump(jdr_iscsi *session, int64_t wait_ns);
bool jdr_iscsi_closing(jdr_iscsi *session);
/* Give the connection up; commands in flight are taken back first. */
void jdr_iscsi_disconnect(jdr_iscsi *session);

/* ---- login.c ---------------------------------------------------------------------------------------------------- */

/* One attempt until `deadline_ns`; on failure there is no context, and the failure is remembered. */
int jdr_iscsi_login(jdr_iscsi *session, int64_t deadline_ns);
/* The orderly end, with a limit of its own. */
void jdr_iscsi_logout(jdr_iscsi *session);

/* ---- retained.c ------------------------------------------------------------------------------------------------- */

/* Memory for a write's copy, or NULL. */
struct retained *jdr_iscsi_retained_new(uint64_t offset, uint64_t length, bool zero);
/* The caller, while its write is under way: fill the copy. */
void jdr_iscsi_retained_fill(jdr_iscsi *session, struct retained *entry, const struct iovec *iov, int iov_count);
/* Now acknowledged: the session's. */
void jdr_iscsi_retained_add(jdr_iscsi *session, struct retained *entry);
/* Durable up to that number. */
void jdr_iscsi_retained_drop(jdr_iscsi *session, uint64_t number);
/* Never acknowledged, or the caller has filled it too late. */
void jdr_iscsi_retained_free(struct retained *entry);
/* The next one to be written again as session->replay, or false when there is none. */
bool jdr_iscsi_replay_next(jdr_iscsi *session);

#endif
