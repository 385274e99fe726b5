/*
 * reservation.c: reserves the LUN for one machine, with SCSI persistent reservations (SPC-4).
 *
 * The reservation is "write exclusive, registrants only": every machine may read, and the sessions that registered a
 * key write. Any machine could register, but registers only while no other has.
 *
 * A key is machine (32 bits), session (16), connection (16). A key of this machine is stale if it is of an earlier
 * connection of this session, or of a process that has ended. Stale keys are preempted, so that a write of theirs that
 * is still under way cannot arrive late. So are other machines' keys where the caller says so.
 *
 * Invariant: when two machines reserve at once, at most one gets the LUN. Service thread only (before there is one, the
 * opening thread).
 */
#include <errno.h>

#include "inner.h"

#define RESERVATION SCSI_PERSISTENT_RESERVE_TYPE_WRITE_EXCLUSIVE_REGISTRANTS_ONLY

enum { KEY_MACHINE_SHIFT = 32, KEY_SESSION_SHIFT = 16 };

/* The answers to PERSISTENT RESERVE IN: how many bytes follow, then the keys, or one key and its reservation. */
enum {
    LENGTH_AT = 4,
    KEYS_AT = 8,
    KEY_BYTES = 8,
    KEYS_MAX = 64,
    KEYS_ANSWER_BYTES = KEYS_AT + KEY_BYTES * KEYS_MAX,

    RESERVATION_LENGTH = 16,
    RESERVATION_TYPE_AT = 21,
    RESERVATION_TYPE_MASK = 0x0f,
    RESERVATION_BYTES = RESERVATION_TYPE_AT + 1,
    RESERVATION_BYTES_MAX = 255,
};

static uint64_t next_key(jdr_iscsi *session)
{
    uint64_t machine = session->options.machine, number = session->session_number;
    session->connection_number = (uint16_t)(session->connection_number + 1);
    if (!session->connection_number)
        session->connection_number = 1;
    return machine << KEY_MACHINE_SHIFT | number << KEY_SESSION_SHIFT | session->connection_number;
}

static bool is_foreign(const jdr_iscsi *session, uint64_t key)
{
    return key >> KEY_MACHINE_SHIFT != session->options.machine;
}

static bool is_stale(const jdr_iscsi *session, uint64_t key)
{
    bool of_session = (uint16_t)(key >> KEY_SESSION_SHIFT) == session->session_number;
    return !is_foreign(session, key) && key != session->key &&
           (of_session || (session->options.first && !session->known));
}

/* Read the registered keys to `keys`. Returns their number, or -EOPNOTSUPP where the target has no reservations. */
static int read_keys(jdr_iscsi *session, uint64_t *keys, int64_t deadline_ns)
{
    size_t length;
    jdr_iscsi_step_begin(session);
    struct scsi_task *task = iscsi_persistent_reserve_in_task(session->iscsi, session->options.lun,
                                                              SCSI_PERSISTENT_RESERVE_READ_KEYS, KEYS_ANSWER_BYTES,
                                                              jdr_iscsi_on_task, &session->step);
    int result = jdr_iscsi_step_await_task(session, task, deadline_ns);
    if (result)
        return result;
    if (session->step.status == SCSI_STATUS_CHECK_CONDITION)
        return session->step.task->sense.key == SCSI_SENSE_ILLEGAL_REQUEST
                   ? -EOPNOTSUPP
                   : jdr_iscsi_step_refused(session, "PERSISTENT RESERVE IN");
    const uint8_t *said = jdr_iscsi_step_answer(session, KEYS_AT, &length);
    if (!said)
        return jdr_iscsi_fail(session, JDR_ISCSI_PROTOCOL, "the answer to PERSISTENT RESERVE IN is not one");
    size_t end = KEYS_AT + (size_t)jdr_iscsi_be32(said + LENGTH_AT);
    int count = 0;
    for (size_t at = KEYS_AT; at + KEY_BYTES <= length && at + KEY_BYTES <= end && count < KEYS_MAX; at += KEY_BYTES)
        keys[count++] = jdr_iscsi_be64(said + at);
    return count;
}

static int reserve_out(jdr_iscsi *session, int action, uint64_t key, uint64_t action_key, int64_t deadline_ns)
{
    struct scsi_persistent_reserve_out_basic parameters = {.reservation_key = key,
                                                           .service_action_reservation_key = action_key};
    jdr_iscsi_step_begin(session);
    struct scsi_task *task = iscsi_persistent_reserve_out_task(session->iscsi, session->options.lun, action,
                                                               SCSI_PERSISTENT_RESERVE_SCOPE_LU, RESERVATION,
                                                               &parameters, jdr_iscsi_on_task, &session->step);
    return jdr_iscsi_step_await_task(session, task, deadline_ns);
}

/* Fail if a key of another machine is among them. */
static int check_foreign(jdr_iscsi *session, const uint64_t *keys, int count)
{
    for (int i = 0; i < count; i++)
        if (is_foreign(session, keys[i]))
            return jdr_iscsi_fail(session, JDR_ISCSI_RESERVED, "another machine has reserved the LUN (key %016llx)",
                                  (unsigned long long)keys[i]);
    return 0;
}

static int register_key(jdr_iscsi *session, int64_t deadline_ns)
{
    session->key = next_key(session);
    int result = reserve_out(session, SCSI_PERSISTENT_RESERVE_REGISTER_AND_IGNORE_EXISTING_KEY, 0, session->key,
                             deadline_ns);
    return !result && !jdr_iscsi_step_is_good(session) ? jdr_iscsi_step_refused(session, "registering a reservation")
                                                       : result;
}

/* For a key that is no longer registered the target answers with a conflict, which is just as good. */
static int preempt(jdr_iscsi *session, const uint64_t *keys, int count, int64_t deadline_ns)
{
    int result = 0;
    for (int i = 0; i < count && !result; i++)
        if (is_foreign(session, keys[i]) || is_stale(session, keys[i]))
            result = reserve_out(session, SCSI_PERSISTENT_RESERVE_PREEMPT, session->key, keys[i], deadline_ns);
    return result;
}

/* Does another session of this machine hold the reservation that this one wants? */
static bool is_ours(jdr_iscsi *session, int64_t deadline_ns)
{
    size_t length;
    jdr_iscsi_step_begin(session);
    struct scsi_task *task = iscsi_persistent_reserve_in_task(session->iscsi, session->options.lun,
                                                              SCSI_PERSISTENT_RESERVE_READ_RESERVATION,
                                                              RESERVATION_BYTES_MAX, jdr_iscsi_on_task, &session->step);
    if (jdr_iscsi_step_await_task(session, task, deadline_ns))
        return false;
    const uint8_t *said = jdr_iscsi_step_answer(session, RESERVATION_BYTES, &length);
    return said && jdr_iscsi_be32(said + LENGTH_AT) >= RESERVATION_LENGTH &&
           !is_foreign(session, jdr_iscsi_be64(said + KEYS_AT)) &&
           (said[RESERVATION_TYPE_AT] & RESERVATION_TYPE_MASK) == RESERVATION;
}

static int take_reservation(jdr_iscsi *session, int64_t deadline_ns)
{
    int result = reserve_out(session, SCSI_PERSISTENT_RESERVE_RESERVE, session->key, 0, deadline_ns);
    if (result || jdr_iscsi_step_is_good(session))
        return result;
    if (session->step.status != SCSI_STATUS_RESERVATION_CONFLICT)
        return jdr_iscsi_step_refused(session, "reserving the LUN");
    return is_ours(session, deadline_ns)
               ? 0
               : jdr_iscsi_fail(session, JDR_ISCSI_RESERVED, "another machine has reserved the LUN");
}

/* If two machines reserve at once, each sees the other, and both yield. */
static int check_alone(jdr_iscsi *session, int64_t deadline_ns)
{
    uint64_t keys[KEYS_MAX];
    int count = read_keys(session, keys, deadline_ns);
    int result = count < 0 ? count : check_foreign(session, keys, count);
    if (count >= 0 && result)
        reserve_out(session, SCSI_PERSISTENT_RESERVE_REGISTER, session->key, 0, deadline_ns);
    return result;
}

int jdr_iscsi_reserve(jdr_iscsi *session, int64_t deadline_ns)
{
    uint64_t keys[KEYS_MAX];
    int count = read_keys(session, keys, deadline_ns);
    if (count == -EOPNOTSUPP)
        return 0; /* only the owner that the log volume names keeps other machines away */
    bool may_preempt = session->options.preempt && !session->known; /* once */
    int result = count < 0 ? count : may_preempt ? 0 : check_foreign(session, keys, count);
    if (!result)
        result = register_key(session, deadline_ns);
    if (!result)
        result = preempt(session, keys, count, deadline_ns);
    if (!result)
        result = take_reservation(session, deadline_ns);
    if (!result)
        result = check_alone(session, deadline_ns);
    pthread_mutex_lock(&session->mutex);
    session->info.reserved = !result;
    pthread_mutex_unlock(&session->mutex);
    return result;
}

int jdr_iscsi_release(jdr_iscsi *session, int64_t deadline_ns)
{
    if (!session->info.reserved || session->options.preempt) /* the machine that was thrown out must not come back */
        return 0;
    int action = session->options.first ? SCSI_PERSISTENT_RESERVE_CLEAR : SCSI_PERSISTENT_RESERVE_REGISTER;
    return reserve_out(session, action, session->key, 0, deadline_ns);
}
