/*
 * inner.h: what the files of an iSCSI session share. Each calls only the files below its own:
 *
 *     session.c       callers, the queue, the service thread, open and close
 *     connection.c    making a connection, its health, giving it up
 *     login.c         one login: connect, log in, look at the LUN
 *     reservation.c   the reservation of the LUN
 *     step.c          one step of a login or logout
 *     pump.c          sleeping, and libiscsi's socket
 *     commands.c      requests cut into commands, and the target's answers
 *     retained.c      acknowledged writes that no sync has covered
 *     failure.c       what went wrong last
 */
#ifndef JETDR_ISCSI_INNER_H
#define JETDR_ISCSI_INNER_H

#include <endian.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>

#include "session.h"

#define SECOND_NS 1000000000ll
#define ISCSI_DEPTH 32u               /* commands in flight */
#define ISCSI_TRANSFER_MAX (1u << 20) /* bytes of one command, unless the target takes fewer */
#define ISCSI_IOV_MAX 16
#define ISCSI_AGAIN_NS (SECOND_NS / 20) /* until a busy target is sent the command again */

enum request_kind { REQUEST_READ, REQUEST_WRITE, REQUEST_ZERO, REQUEST_SYNC };

/* A write or zero that the target has acknowledged and no sync has covered. */
struct retained {
    struct retained *next;
    uint64_t offset, length, number;
    uint64_t cost; /* bytes of JDR_ISCSI_RETAINED_BYTES_MAX */
    bool copied;   /* under the mutex: its caller has filled `data` */
    bool dropped;  /* under the mutex: the session no longer needs it */
    uint8_t *data; /* NULL: zeros */
};

/* What a caller wants. It lives on the caller's stack and is the service thread's from submission until `finished`. */
struct request {
    struct request *next;
    enum request_kind kind;
    uint64_t offset, length;
    const struct iovec *iov;
    int iov_count;
    struct retained *copy;     /* of a write or zero. The session's after the target has acknowledged the request */
    uint64_t dispatched, done; /* bytes, or 0 or 1 of a sync */
    uint32_t in_flight;        /* commands, those to be sent again included */
    uint64_t command_number;   /* of a sync: its command */
    uint64_t retained_number;  /* of a sync: it covers the retained writes up to this number */
    int result;
    bool finished; /* under the mutex */
    pthread_cond_t wake;
};

enum command_state { COMMAND_FREE, COMMAND_READY, COMMAND_SENT }; /* ready: to be sent again */

struct command {
    jdr_iscsi *session;
    struct request *request;
    enum command_state state;
    uint64_t offset, number; /* number: in the order of sending */
    uint32_t length;
    bool write_same;
    int64_t not_before_ns;
    int iov_count;
    struct scsi_iovec iov[ISCSI_IOV_MAX];
};

/* The current step of a login: pending, or its outcome. */
struct step {
    bool pending;
    int status;
    struct scsi_task *task;
};

struct jdr_iscsi {
    /* constant once the session is open */
    struct jdr_iscsi_options options;
    char portal[256], target[256], initiator[256], user[256], password[256];
    pthread_t thread;
    bool has_thread;
    int event; /* eventfd: ends the service thread's sleep */

    /* under the mutex, save that size_bytes and block_bytes of info are constant once the session is open */
    pthread_mutex_t mutex;
    pthread_cond_t changed; /* a retained write was copied or dropped */
    struct request *submitted, **submitted_end;
    bool closing;
    int broken; /* errno with which every call fails, or 0 */
    uint64_t retained_bytes;
    struct jdr_iscsi_info info;

    /* the service thread's: the connection */
    struct iscsi_context *iscsi; /* NULL: none */
    bool lost;                   /* it is to be given up */
    bool pinged;
    int64_t progress_ns, heard_ns, retry_ns;
    struct jdr_iscsi_failure failure;

    /* the service thread's: its login */
    uint32_t isid;
    uint16_t isid_qualifier, session_number, connection_number;
    uint64_t key; /* of the reservation */
    struct step step;
    bool logging_in, leaving;
    uint16_t login_status; /* class and detail of the last login response */

    /* the service thread's: the LUN */
    bool known; /* logged in once: a later login must find the same LUN */
    uint64_t identity;
    uint64_t blocks;
    uint32_t transfer_bytes;
    bool write_same, unmap;

    /* the service thread's: requests that are not finished, and their commands */
    struct request *active, **active_end;
    struct command commands[ISCSI_DEPTH];
    uint64_t commands_sent;

    /* the service thread's: retained writes, and those of them that are being written again */
    struct retained *retained, **retained_end;
    uint64_t retained_number;
    bool replaying; /* until they are written, nothing else is sent */
    bool replay_running;
    int replay_failed; /* negative errno */
    struct retained *replay_next;
    struct request replay;
    struct iovec replay_iov;
};

static inline int64_t jdr_iscsi_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * SECOND_NS + now.tv_nsec;
}

static inline uint32_t jdr_iscsi_be32(const uint8_t *from)
{
    uint32_t value;
    memcpy(&value, from, sizeof value);
    return be32toh(value);
}

static inline uint64_t jdr_iscsi_be64(const uint8_t *from)
{
    uint64_t value;
    memcpy(&value, from, sizeof value);
    return be64toh(value);
}

/* Does the sense have this additional sense code? `ascq` is one of libiscsi's. Its qualifier does not count. */
static inline bool jdr_iscsi_has_code(const struct scsi_sense *sense, int ascq)
{
    return sense->ascq >> 8 == ascq >> 8;
}

/* ---- connection.c ----------------------------------------------------------------------------------------------- */

/* Give a lost connection up, and make one if one is wanted and it is time to try. */
void jdr_iscsi_keep_connected(jdr_iscsi *session);
/* Sleep until there is something to do, and note a connection that was lost meanwhile. */
void jdr_iscsi_listen(jdr_iscsi *session);
/* Ping a silent target, and give up what has waited too long. */
void jdr_iscsi_check_health(jdr_iscsi *session);
/* End the connection, if there is one. Its unfinished requests start over on the next one. */
void jdr_iscsi_disconnect(jdr_iscsi *session);
/* Disconnect, and fail all pending requests with `result`. Retained writes are then lost, which breaks the session. */
void jdr_iscsi_give_up(jdr_iscsi *session, int result);

/* ---- login.c ---------------------------------------------------------------------------------------------------- */

/* Try once, until `deadline_ns`. After a failure, which is recorded, the caller disconnects. */
int jdr_iscsi_login(jdr_iscsi *session, int64_t deadline_ns);
/* Release the reservation and log out, within a limit of its own. */
void jdr_iscsi_logout(jdr_iscsi *session);

/* ---- reservation.c ---------------------------------------------------------------------------------------------- */

/* Reserve the LUN for this machine. Returns 0 also where the target has no reservations. */
int jdr_iscsi_reserve(jdr_iscsi *session, int64_t deadline_ns);
/* Give the reservation back, if it is held and no machine was thrown out for it. */
int jdr_iscsi_release(jdr_iscsi *session, int64_t deadline_ns);

/* ---- step.c ----------------------------------------------------------------------------------------------------- */

/* The callbacks to give to libiscsi, with &session->step: for a step without and with a SCSI task. */
void jdr_iscsi_on_step(struct iscsi_context *iscsi, int status, void *data, void *private_data);
void jdr_iscsi_on_task(struct iscsi_context *iscsi, int status, void *data, void *private_data);
void jdr_iscsi_step_begin(jdr_iscsi *session);
/* Wait until the step has an outcome, in session->step. */
int jdr_iscsi_step_await(jdr_iscsi *session, int64_t deadline_ns);
/* The same for a step that is this task. 0: the target has answered, if perhaps with a refusal. */
int jdr_iscsi_step_await_task(jdr_iscsi *session, struct scsi_task *task, int64_t deadline_ns);
bool jdr_iscsi_step_is_good(const jdr_iscsi *session);
/* The answer's bytes, or NULL if it is no good answer or has less than `least` bytes. */
const uint8_t *jdr_iscsi_step_answer(const jdr_iscsi *session, size_t least, size_t *length);
/* Record that the target refused `what`. */
int jdr_iscsi_step_refused(jdr_iscsi *session, const char *what);
/* Free what the last step left. */
void jdr_iscsi_step_end(jdr_iscsi *session);

/* ---- pump.c ----------------------------------------------------------------------------------------------------- */

/* Wait for the socket or the eventfd, and let libiscsi work. Returns a negative number if the connection is gone. */
int jdr_iscsi_pump(jdr_iscsi *session, int64_t wait_ns);

/* ---- commands.c ------------------------------------------------------------------------------------------------- */

/* Send what can be sent: retained writes that are to be written again, then the active requests in their order. */
void jdr_iscsi_dispatch(jdr_iscsi *session);
/* Finish the requests whose outcome is known. */
void jdr_iscsi_settle(jdr_iscsi *session);
/* The connection is gone, and libiscsi has answered every command: all unfinished requests are to be sent anew. */
void jdr_iscsi_start_over(jdr_iscsi *session);

/* ---- retained.c ------------------------------------------------------------------------------------------------- */

/* Memory for a write's copy, or NULL. */
struct retained *jdr_iscsi_retained_new(uint64_t offset, uint64_t length, bool zero);
/* Fill the copy: the caller's thread, while its write is in flight. */
void jdr_iscsi_retained_fill(jdr_iscsi *session, struct retained *entry, const struct iovec *iov, int iov_count);
/* The target has acknowledged the write: the entry is the session's. */
void jdr_iscsi_retained_add(jdr_iscsi *session, struct retained *entry);
/* The writes up to `number` are durable, or given up. */
void jdr_iscsi_retained_drop(jdr_iscsi *session, uint64_t number);
/* Free an entry that never was the session's, or that the session has dropped. */
void jdr_iscsi_retained_free(struct retained *entry);
/* Make the next retained write session->replay. False if there is none left. */
bool jdr_iscsi_replay_next(jdr_iscsi *session);

/* ---- failure.c -------------------------------------------------------------------------------------------------- */

/* Record what went wrong. Returns the negative errno of `problem`. */
int jdr_iscsi_fail(jdr_iscsi *session, enum jdr_iscsi_problem problem, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* From now on every call fails with `result`, a negative errno. The first one stays. */
void jdr_iscsi_break(jdr_iscsi *session, int result);

#endif
