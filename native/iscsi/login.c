/*
 * login.c: connects and logs in, looks at the LUN, reserves it; step by step, in the service thread.
 *
 * Invariants: every step ends by the login's deadline; an answer is read only as far as it reaches; a session that was
 * logged in before gets the same LUN again, or none. What is looked at, in this order: is it ready, is it a disk, which
 * one, how long, what it can do, may it be written, whose is it.
 */
#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "inner.h"

#include <xxhash.h>

#define ATTENTIONS_MAX 32 /* of one login: a target queues a few */
#define LOGOUT_NS 1000000000ll
#define PAGE_BYTES 255
#define KEYS_MAX 64
#define KEYS_BYTES (8 + 8 * KEYS_MAX)
#define RESERVATION SCSI_PERSISTENT_RESERVE_TYPE_WRITE_EXCLUSIVE_REGISTRANTS_ONLY

/* ---- steps ------------------------------------------------------------------------------------------------------ */

static void on_step(struct iscsi_context *iscsi, int status, void *data, void *private_data)
{
    struct step *step = private_data;
    step->pending = false;
    step->status = status;
}

static void on_task(struct iscsi_context *iscsi, int status, void *data, void *private_data)
{
    struct step *step = private_data;
    if (step->pending)
        step->task = data;
    else if (data)
        scsi_free_scsi_task(data);
    on_step(iscsi, status, data, private_data);
}

static void free_task(jdr_iscsi *session)
{
    if (session->step.task)
        scsi_free_scsi_task(session->step.task);
    session->step.task = NULL;
}

/* Wait until the step that was begun is done. */
static int await(jdr_iscsi *session, int64_t deadline_ns)
{
    while (session->step.pending) {
        int64_t left = deadline_ns - jdr_iscsi_now();
        if (left <= 0)
            return jdr_iscsi_fail(session, JDR_ISCSI_UNREACHABLE, "the portal does not answer");
        if (!session->leaving && jdr_iscsi_closing(session))
            return -ESHUTDOWN;
        if (jdr_iscsi_pump(session, left) < 0 && session->step.pending)
            return jdr_iscsi_fail(session, JDR_ISCSI_UNREACHABLE, "there is no portal, or it drops the connection");
    }
    return 0;
}

static void begin(jdr_iscsi *session)
{
    free_task(session);
    session->step.pending = true;
}

/* Wait for the task that was begun; its outcome is in session->step. */
static int await_task(jdr_iscsi *session, struct scsi_task *task, int64_t deadline_ns)
{
    if (!task)
        return jdr_iscsi_fail(session, JDR_ISCSI_UNREACHABLE, "the connection was lost");
    int result = await(session, deadline_ns);
    if (result)
        return result;
    switch (session->step.status) {
    case SCSI_STATUS_GOOD:
    case SCSI_STATUS_CHECK_CONDITION:
    case SCSI_STATUS_RESERVATION_CONFLICT:
        return session->step.task ? 0
                                  : jdr_iscsi_fail(session, JDR_ISCSI_PROTOCOL, "the answer came without its command");
    case SCSI_STATUS_BUSY:
    case SCSI_STATUS_TASK_SET_FULL:
        return jdr_iscsi_fail(session, JDR_ISCSI_NO_LUN, "the target is busy");
    default:
        return jdr_iscsi_fail(session, JDR_ISCSI_UNREACHABLE, "the connection was lost");
    }
}

static bool is_good(const jdr_iscsi *session)
{
    return session->step.status == SCSI_STATUS_GOOD;
}

static int refused(jdr_iscsi *session, const char *what)
{
    const struct scsi_sense *sense = &session->step.task->sense;
    return jdr_iscsi_fail(session, JDR_ISCSI_FAILED, "%s: %s, %s", what, scsi_sense_key_str((int)sense->key),
                          scsi_sense_ascq_str(sense->ascq));
}

/* The answer's bytes, at least `least` of them, or NULL. */
static const uint8_t *answer(const jdr_iscsi *session, size_t least, size_t *length)
{
    const struct scsi_data *data = &session->step.task->datain;
    if (!is_good(session) || !data->data || data->size < 0 || (size_t)data->size < least)
        return NULL;
    *length = (size_t)data->size;
    return data->data;
}

static uint32_t be32(const uint8_t *from)
{
    uint32_t value;
    memcpy(&value, from, sizeof value);
    return be32toh(value);
}

static uint64_t be64(const uint8_t *from)
{
    uint64_t value;
    memcpy(&value, from, sizeof value);
    return be64toh(value);
}

/* ---- connection ------------------------------------------------------------------------------------------------- */

static int make_context(jdr_iscsi *session)
{
    const struct jdr_iscsi_options *options = &session->options;
    session->iscsi = iscsi_create_context(options->initiator);
    if (!session->iscsi)
        return -ENOMEM;
    iscsi_set_noautoreconnect(session->iscsi, 1);
    iscsi_set_isid_random(session->iscsi, session->isid, session->isid_qualifier);
    iscsi_set_session_type(session->iscsi, ISCSI_SESSION_NORMAL);
    iscsi_set_header_digest(session->iscsi, ISCSI_HEADER_DIGEST_NONE_CRC32C);
    if (iscsi_set_targetname(session->iscsi, options->target) ||
        (options->user &&
         iscsi_set_initiator_username_pwd(session->iscsi, options->user, options->password ? options->password : "")))
        return jdr_iscsi_fail(session, JDR_ISCSI_FAILED, "%.200s", iscsi_get_error(session->iscsi));
    return 0;
}

static int connect_portal(jdr_iscsi *session, int64_t deadline_ns)
{
    begin(session);
    if (iscsi_connect_async(session->iscsi, session->options.portal, on_step, &session->step))
        return jdr_iscsi_fail(session, JDR_ISCSI_UNREACHABLE, "%.200s", iscsi_get_error(session->iscsi));
    int result = await(session, deadline_ns);
    if (!result && session->step.status)
        result = jdr_iscsi_fail(session, JDR_ISCSI_UNREACHABLE, "there is no portal, or it drops the connection");
    return result;
}

static int login_refused(jdr_iscsi *session)
{
    switch (session->login_status) {
    case 0x0201:
        return jdr_iscsi_fail(session, JDR_ISCSI_DENIED, "the target refuses this user and password");
    case 0x0202:
        return jdr_iscsi_fail(session, JDR_ISCSI_DENIED, "the target does not admit this initiator");
    case 0x0203:
    case 0x0204:
        return jdr_iscsi_fail(session, JDR_ISCSI_NO_TARGET,
                              "the portal has no such target, or none for this initiator");
    }
    if (session->login_status >> 8 == 1)
        return jdr_iscsi_fail(session, JDR_ISCSI_UNREACHABLE, "the portal sends initiators on to %.200s",
                              iscsi_get_target_address(session->iscsi));
    return jdr_iscsi_fail(session, JDR_ISCSI_UNREACHABLE, "the login failed with status %04x: %.160s",
                          session->login_status, iscsi_get_error(session->iscsi));
}

static int log_in(jdr_iscsi *session, int64_t deadline_ns)
{
    begin(session);
    session->login_status = 0;
    session->logging_in = true;
    int result = iscsi_login_async(session->iscsi, on_step, &session->step) ? -EIO : await(session, deadline_ns);
    session->logging_in = false;
    if (result && !session->login_status)
        return result;
    return result || session->step.status ? login_refused(session) : 0;
}

/* ---- the LUN ---------------------------------------------------------------------------------------------------- */

static int check_ready(jdr_iscsi *session, int64_t deadline_ns)
{
    for (int i = 0; i < ATTENTIONS_MAX; i++) {
        begin(session);
        int result = await_task(session,
                                iscsi_testunitready_task(session->iscsi, session->options.lun, on_task, &session->step),
                                deadline_ns);
        if (result || is_good(session))
            return result;
        const struct scsi_sense *sense = &session->step.task->sense;
        if (session->step.status != SCSI_STATUS_CHECK_CONDITION)
            return 0; /* a reservation: looked at later */
        if (sense->key == SCSI_SENSE_ILLEGAL_REQUEST && sense->ascq >> 8 == 0x25)
            return jdr_iscsi_fail(session, JDR_ISCSI_NO_LUN, "the target has no LUN %d", session->options.lun);
        if (sense->key != SCSI_SENSE_UNIT_ATTENTION)
            return jdr_iscsi_fail(session, JDR_ISCSI_NO_LUN, "LUN %d is not ready: %s, %s", session->options.lun,
                                  scsi_sense_key_str((int)sense->key), scsi_sense_ascq_str(sense->ascq));
    }
    return jdr_iscsi_fail(session, JDR_ISCSI_PROTOCOL, "the target reports unit attentions without end");
}

static int inquire(jdr_iscsi *session, int vital, int page, int64_t deadline_ns)
{
    begin(session);
    return await_task(session,
                      iscsi_inquiry_task(session->iscsi, session->options.lun, vital, page, PAGE_BYTES, on_task,
                                         &session->step),
                      deadline_ns);
}

static int check_disk(jdr_iscsi *session, int64_t deadline_ns)
{
    size_t length;
    int result = inquire(session, 0, 0, deadline_ns);
    if (result)
        return result;
    const uint8_t *said = answer(session, 36, &length);
    if (!said)
        return jdr_iscsi_fail(session, JDR_ISCSI_PROTOCOL, "the answer to INQUIRY is not one");
    if (said[0] >> 5 == 3 || said[0] >> 5 == 1)
        return jdr_iscsi_fail(session, JDR_ISCSI_NO_LUN, "the target has no LUN %d", session->options.lun);
    if (said[0] & 0x1f)
        return jdr_iscsi_fail(session, JDR_ISCSI_NO_LUN, "LUN %d is no disk (device type %d)", session->options.lun,
                              said[0] & 0x1f);
    return 0;
}

/* Serial number and designators (VPD pages 80h, 83h): the same LUN gives the same. */
static int check_identity(jdr_iscsi *session, int64_t deadline_ns)
{
    uint64_t identity = 0;
    for (int page = 0x80; page <= 0x83; page += 3) {
        size_t length;
        int result = inquire(session, 1, page, deadline_ns);
        if (result)
            return result;
        const uint8_t *said = answer(session, 4, &length);
        if (said)
            identity = XXH3_64bits_withSeed(said, length, identity + (uint64_t)page);
    }
    if (session->known && identity != session->identity)
        return jdr_iscsi_fail(session, JDR_ISCSI_OTHER_LUN, "another LUN than before answers there");
    session->identity = identity;
    return 0;
}

static int check_capacity(jdr_iscsi *session, int64_t deadline_ns)
{
    size_t length;
    begin(session);
    int result = await_task(session,
                            iscsi_readcapacity16_task(session->iscsi, session->options.lun, on_task, &session->step),
                            deadline_ns);
    if (result)
        return result;
    if (!is_good(session))
        return refused(session, "READ CAPACITY");
    const uint8_t *said = answer(session, 16, &length);
    uint64_t last = said ? be64(said) : 0;
    uint32_t block_bytes = said ? be32(said + 8) : 0;
    if (!said || last >= (1ull << 62) / JDR_BLOCK)
        return jdr_iscsi_fail(session, JDR_ISCSI_PROTOCOL, "the answer to READ CAPACITY makes no sense");
    if (block_bytes != JDR_SECTOR && block_bytes != JDR_BLOCK)
        return jdr_iscsi_fail(session, JDR_ISCSI_NO_LUN, "LUN %d has blocks of %u bytes; 512 and 4096 are supported",
                              session->options.lun, block_bytes);
    if (session->known && block_bytes != session->info.block_bytes)
        return jdr_iscsi_fail(session, JDR_ISCSI_OTHER_LUN, "the LUN had blocks of %u bytes and has blocks of %u now",
                              session->info.block_bytes, block_bytes);
    session->unmap = length >= 15 && (said[14] & 0xc0) == 0xc0; /* LBPME and LBPRZ: unmapped blocks read as zeros */
    session->blocks = last + 1;
    pthread_mutex_lock(&session->mutex);
    session->info.block_bytes = block_bytes;
    session->info.size_bytes_now = session->blocks * block_bytes;
    if (!session->known)
        session->info.size_bytes = session->info.size_bytes_now;
    pthread_mutex_unlock(&session->mutex);
    return 0;
}

/* Block Limits (B0h) and Logical Block Provisioning (B2h); a target without them states no limits, and promises
 * nothing. */
static int look_at_limits(jdr_iscsi *session, int64_t deadline_ns)
{
    uint32_t block_bytes = session->info.block_bytes, transfer_bytes = ISCSI_TRANSFER_MAX;
    size_t length;
    int result = inquire(session, 1, 0xb0, deadline_ns);
    if (result)
        return result;
    const uint8_t *said = answer(session, 12, &length);
    uint64_t blocks_max = said ? be32(said + 8) : 0;
    uint64_t same_max = said && length >= 44 ? be64(said + 36) : 0;
    if (blocks_max && blocks_max * block_bytes < transfer_bytes)
        transfer_bytes = (uint32_t)blocks_max * block_bytes;
    if ((result = inquire(session, 1, 0xb2, deadline_ns)) != 0)
        return result;
    said = answer(session, 6, &length);
    session->unmap = session->unmap && said && (said[5] & 0x40); /* LBPWS: by WRITE SAME (16) */
    session->write_same = !same_max || same_max >= transfer_bytes / block_bytes;
    session->unmap = session->unmap && session->write_same;
    session->transfer_bytes = transfer_bytes;
    pthread_mutex_lock(&session->mutex);
    session->info.max_transfer_bytes = transfer_bytes;
    session->info.thin = session->unmap;
    pthread_mutex_unlock(&session->mutex);
    return 0;
}

static int check_writable(jdr_iscsi *session, int64_t deadline_ns)
{
    size_t length;
    begin(session);
    int result = await_task(session,
                            iscsi_modesense6_task(session->iscsi, session->options.lun, 1, SCSI_MODESENSE_PC_CURRENT,
                                                  SCSI_MODEPAGE_RETURN_ALL_PAGES, 0, PAGE_BYTES, on_task,
                                                  &session->step),
                            deadline_ns);
    if (result)
        return result;
    const uint8_t *said = answer(session, 4, &length);
    return said && said[2] & 0x80 ? jdr_iscsi_fail(session, JDR_ISCSI_READ_ONLY, "the LUN is write-protected") : 0;
}

/* ---- reservation ------------------------------------------------------------------------------------------------ */

/*
 * A key is machine (32 bits), session (16), connection (16): whatever is registered for an earlier connection of this
 * session, or for a process of this machine that is no more, is thrown out, so that none of its writes can come late.
 */
static uint64_t next_key(jdr_iscsi *session)
{
    uint64_t own = (uint64_t)session->options.machine << 32 | (uint64_t)session->session_number << 16;
    session->connection_number = (uint16_t)(session->connection_number + 1);
    if (!session->connection_number)
        session->connection_number = 1;
    return own | session->connection_number;
}

static bool is_foreign(const jdr_iscsi *session, uint64_t key)
{
    return key >> 32 != session->options.machine;
}

static bool is_stale(const jdr_iscsi *session, uint64_t key)
{
    bool of_session = (key >> 16 & 0xffff) == session->session_number;
    return !is_foreign(session, key) && key != session->key &&
           (of_session || (session->options.first && !session->known));
}

/* Registered keys; -EOPNOTSUPP where the target has no reservations. */
static int read_keys(jdr_iscsi *session, uint64_t *keys, int64_t deadline_ns)
{
    size_t length;
    begin(session);
    int result = await_task(session,
                            iscsi_persistent_reserve_in_task(session->iscsi, session->options.lun,
                                                             SCSI_PERSISTENT_RESERVE_READ_KEYS, KEYS_BYTES, on_task,
                                                             &session->step),
                            deadline_ns);
    if (result)
        return result;
    if (session->step.status == SCSI_STATUS_CHECK_CONDITION)
        return session->step.task->sense.key == SCSI_SENSE_ILLEGAL_REQUEST ? -EOPNOTSUPP
                                                                           : refused(session, "PERSISTENT RESERVE IN");
    const uint8_t *said = answer(session, 8, &length);
    if (!said)
        return jdr_iscsi_fail(session, JDR_ISCSI_PROTOCOL, "the answer to PERSISTENT RESERVE IN is not one");
    size_t end = 8 + (size_t)be32(said + 4);
    int count = 0;
    for (size_t at = 8; at + 8 <= length && at + 8 <= end && count < KEYS_MAX; at += 8)
        keys[count++] = be64(said + at);
    return count;
}

static int reserve_out(jdr_iscsi *session, int action, uint64_t key, uint64_t action_key, int64_t deadline_ns)
{
    struct scsi_persistent_reserve_out_basic parameters = {.reservation_key = key,
                                                           .service_action_reservation_key = action_key};
    begin(session);
    return await_task(session,
                      iscsi_persistent_reserve_out_task(session->iscsi, session->options.lun, action,
                                                        SCSI_PERSISTENT_RESERVE_SCOPE_LU, RESERVATION, &parameters,
                                                        on_task, &session->step),
                      deadline_ns);
}

/* Is a key of another machine among them? */
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
    return !result && !is_good(session) ? refused(session, "registering a reservation") : result;
}

/* A key that is no longer registered makes the target answer with a conflict, which is as good. */
static int preempt(jdr_iscsi *session, const uint64_t *keys, int count, int64_t deadline_ns)
{
    int result = 0;
    for (int i = 0; i < count && !result; i++)
        if (is_foreign(session, keys[i]) || is_stale(session, keys[i]))
            result = reserve_out(session, SCSI_PERSISTENT_RESERVE_PREEMPT, session->key, keys[i], deadline_ns);
    return result;
}

/* Is the LUN reserved as we would have reserved it, by a session of this machine? */
static bool is_ours(jdr_iscsi *session, int64_t deadline_ns)
{
    size_t length;
    begin(session);
    if (await_task(session,
                   iscsi_persistent_reserve_in_task(session->iscsi, session->options.lun,
                                                    SCSI_PERSISTENT_RESERVE_READ_RESERVATION, PAGE_BYTES, on_task,
                                                    &session->step),
                   deadline_ns))
        return false;
    const uint8_t *said = answer(session, 22, &length);
    return said && be32(said + 4) >= 16 && !is_foreign(session, be64(said + 8)) && (said[21] & 0x0f) == RESERVATION;
}

static int take_reservation(jdr_iscsi *session, int64_t deadline_ns)
{
    int result = reserve_out(session, SCSI_PERSISTENT_RESERVE_RESERVE, session->key, 0, deadline_ns);
    if (result || is_good(session))
        return result;
    if (session->step.status != SCSI_STATUS_RESERVATION_CONFLICT)
        return refused(session, "reserving the LUN");
    return is_ours(session, deadline_ns)
               ? 0
               : jdr_iscsi_fail(session, JDR_ISCSI_RESERVED, "another machine has reserved the LUN");
}

/* Two machines that try at once both see the other, and both yield. */
static int check_alone(jdr_iscsi *session, int64_t deadline_ns)
{
    uint64_t keys[KEYS_MAX];
    int count = read_keys(session, keys, deadline_ns);
    int result = count < 0 ? count : check_foreign(session, keys, count);
    if (count >= 0 && result)
        reserve_out(session, SCSI_PERSISTENT_RESERVE_REGISTER, session->key, 0, deadline_ns);
    return result;
}

/*
 * "Write exclusive, registrants only": machines that did not register read only, and all sessions of this one write.
 * Any machine could register; ours does so only while no other has.
 */
static int reserve(jdr_iscsi *session, int64_t deadline_ns)
{
    uint64_t keys[KEYS_MAX];
    int count = read_keys(session, keys, deadline_ns);
    if (count == -EOPNOTSUPP)
        return 0; /* the volume's owner is all that keeps others away */
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

/* ---- the whole -------------------------------------------------------------------------------------------------- */

static int try_login(jdr_iscsi *session, int64_t deadline_ns)
{
    int (*const steps[])(jdr_iscsi *, int64_t) = {connect_portal, log_in,         check_ready,   check_disk,
                                                  check_identity, check_capacity, look_at_limits};
    int result = make_context(session);
    for (size_t i = 0; !result && i < sizeof steps / sizeof *steps; i++)
        result = steps[i](session, deadline_ns);
    if (!result && session->options.writable)
        result = check_writable(session, deadline_ns);
    if (!result && session->options.writable && session->options.machine)
        result = reserve(session, deadline_ns);
    return result ? result : check_ready(session, deadline_ns); /* our own reservation raises attentions */
}

int jdr_iscsi_login(jdr_iscsi *session, int64_t deadline_ns)
{
    int result = try_login(session, deadline_ns);
    session->step.pending = false;
    free_task(session);
    if (result)
        jdr_iscsi_disconnect(session);
    else
        session->known = true;
    return result;
}

void jdr_iscsi_logout(jdr_iscsi *session)
{
    int64_t deadline_ns = jdr_iscsi_now() + LOGOUT_NS;
    session->leaving = true;
    int action = session->options.first ? SCSI_PERSISTENT_RESERVE_CLEAR : SCSI_PERSISTENT_RESERVE_REGISTER;
    bool release = session->info.reserved && !session->options.preempt; /* who was thrown out must not come back */
    int result = release ? reserve_out(session, action, session->key, 0, deadline_ns) : 0;
    begin(session);
    if (!result && !iscsi_logout_async(session->iscsi, on_step, &session->step))
        await(session, deadline_ns);
    session->step.pending = false;
    free_task(session);
}
