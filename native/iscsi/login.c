/*
 * login.c: one login: connects, logs in, and looks at the LUN.
 *
 * In this order it finds out whether the LUN is ready and a disk, which LUN it is, its size, its abilities, whether it
 * may be written, and which machine has reserved it (reservation.c).
 *
 * Invariants: nothing that the target says is believed unchecked. A session that was logged in before gets the same LUN
 * again, or none. A failed login leaves no step pending. Service thread only (before there is one, the opening thread).
 */
#include <errno.h>

#include "inner.h"

#include <xxhash.h>

#define ATTENTIONS_MAX 32 /* of one login: a target queues a few */
#define LOGOUT_NS SECOND_NS

/* Status of a login response, class and detail (RFC 7143, 11.13.5). */
enum {
    LOGIN_AUTHENTICATION_FAILED = 0x0201,
    LOGIN_AUTHORIZATION_FAILED = 0x0202,
    LOGIN_TARGET_NOT_FOUND = 0x0203,
    LOGIN_TARGET_REMOVED = 0x0204,
    LOGIN_CLASS_REDIRECTION = 1,
};

/*
 * What is read from the answers: the bytes that must be there, fields by offset, and bits of fields (SPC-4 for INQUIRY,
 * its vital product data and MODE SENSE, SBC-3 for the rest).
 */
enum {
    ANSWER_BYTES_MAX = 255,

    INQUIRY_BYTES = 36,
    INQUIRY_DEVICE_AT = 0, /* qualifier and type of the device */
    INQUIRY_QUALIFIER_SHIFT = 5,
    INQUIRY_TYPE_MASK = 0x1f,

    VITAL_BYTES = 4,

    CAPACITY_BYTES = 16,
    CAPACITY_LAST_BLOCK_AT = 0,
    CAPACITY_BLOCK_BYTES_AT = 8,
    CAPACITY_THIN_AT = 14,
    CAPACITY_LBPME = 0x80, /* blocks can be unmapped ... */
    CAPACITY_LBPRZ = 0x40, /* ... and read as zeros then */

    LIMITS_BYTES = 12,
    LIMITS_TRANSFER_BLOCKS_AT = 8,
    LIMITS_SAME_BLOCKS_AT = 36, /* in longer answers only */
    LIMITS_SAME_BYTES = LIMITS_SAME_BLOCKS_AT + 8,

    PROVISIONING_BYTES = 6,
    PROVISIONING_METHODS_AT = 5,
    PROVISIONING_LBPWS = 0x40, /* WRITE SAME (16) unmaps */

    MODE_BYTES = 4,
    MODE_DEVICE_AT = 2,
    MODE_WRITE_PROTECTED = 0x80,
    MODE_NO_DESCRIPTORS = 1,
};

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
    jdr_iscsi_step_begin(session);
    if (iscsi_connect_async(session->iscsi, session->options.portal, jdr_iscsi_on_step, &session->step))
        return jdr_iscsi_fail(session, JDR_ISCSI_UNREACHABLE, "%.200s", iscsi_get_error(session->iscsi));
    int result = jdr_iscsi_step_await(session, deadline_ns);
    if (!result && session->step.status)
        result = jdr_iscsi_fail(session, JDR_ISCSI_UNREACHABLE, "there is no portal, or it drops the connection");
    return result;
}

static int login_refused(jdr_iscsi *session)
{
    switch (session->login_status) {
    case LOGIN_AUTHENTICATION_FAILED:
        return jdr_iscsi_fail(session, JDR_ISCSI_DENIED, "the target refuses this user and password");
    case LOGIN_AUTHORIZATION_FAILED:
        return jdr_iscsi_fail(session, JDR_ISCSI_DENIED, "the target does not admit this initiator");
    case LOGIN_TARGET_NOT_FOUND:
    case LOGIN_TARGET_REMOVED:
        return jdr_iscsi_fail(session, JDR_ISCSI_NO_TARGET,
                              "the portal has no such target, or none for this initiator");
    }
    if (session->login_status >> 8 == LOGIN_CLASS_REDIRECTION)
        return jdr_iscsi_fail(session, JDR_ISCSI_UNREACHABLE, "the portal redirects initiators to %.200s",
                              iscsi_get_target_address(session->iscsi));
    return jdr_iscsi_fail(session, JDR_ISCSI_UNREACHABLE, "the login failed with status %04x: %.160s",
                          session->login_status, iscsi_get_error(session->iscsi));
}

static int log_in(jdr_iscsi *session, int64_t deadline_ns)
{
    jdr_iscsi_step_begin(session);
    session->login_status = 0;
    session->logging_in = true;
    int result = iscsi_login_async(session->iscsi, jdr_iscsi_on_step, &session->step)
                     ? -EIO
                     : jdr_iscsi_step_await(session, deadline_ns);
    session->logging_in = false;
    if (result && !session->login_status)
        return result;
    return result || session->step.status ? login_refused(session) : 0;
}

/* ---- the LUN ---------------------------------------------------------------------------------------------------- */

static int check_ready(jdr_iscsi *session, int64_t deadline_ns)
{
    for (int i = 0; i < ATTENTIONS_MAX; i++) {
        jdr_iscsi_step_begin(session);
        struct scsi_task *task = iscsi_testunitready_task(session->iscsi, session->options.lun, jdr_iscsi_on_task,
                                                          &session->step);
        int result = jdr_iscsi_step_await_task(session, task, deadline_ns);
        if (result || jdr_iscsi_step_is_good(session))
            return result;
        const struct scsi_sense *sense = &session->step.task->sense;
        if (session->step.status != SCSI_STATUS_CHECK_CONDITION)
            return 0; /* a reservation conflict: looked at later */
        if (sense->key == SCSI_SENSE_ILLEGAL_REQUEST &&
            jdr_iscsi_has_code(sense, SCSI_SENSE_ASCQ_LOGICAL_UNIT_NOT_SUPPORTED))
            return jdr_iscsi_fail(session, JDR_ISCSI_NO_LUN, "the target has no LUN %d", session->options.lun);
        if (sense->key != SCSI_SENSE_UNIT_ATTENTION)
            return jdr_iscsi_fail(session, JDR_ISCSI_NO_LUN, "LUN %d is not ready: %s, %s", session->options.lun,
                                  scsi_sense_key_str((int)sense->key), scsi_sense_ascq_str(sense->ascq));
    }
    return jdr_iscsi_fail(session, JDR_ISCSI_PROTOCOL, "the target reports unit attentions without end");
}

static int inquire(jdr_iscsi *session, bool vital, int page, int64_t deadline_ns)
{
    jdr_iscsi_step_begin(session);
    struct scsi_task *task = iscsi_inquiry_task(session->iscsi, session->options.lun, vital, page, ANSWER_BYTES_MAX,
                                                jdr_iscsi_on_task, &session->step);
    return jdr_iscsi_step_await_task(session, task, deadline_ns);
}

static int check_disk(jdr_iscsi *session, int64_t deadline_ns)
{
    size_t length;
    int result = inquire(session, false, 0, deadline_ns);
    if (result)
        return result;
    const uint8_t *said = jdr_iscsi_step_answer(session, INQUIRY_BYTES, &length);
    if (!said)
        return jdr_iscsi_fail(session, JDR_ISCSI_PROTOCOL, "the answer to INQUIRY is not one");
    int qualifier = said[INQUIRY_DEVICE_AT] >> INQUIRY_QUALIFIER_SHIFT;
    int type = said[INQUIRY_DEVICE_AT] & INQUIRY_TYPE_MASK;
    if (qualifier == SCSI_INQUIRY_PERIPHERAL_QUALIFIER_NOT_SUPPORTED ||
        qualifier == SCSI_INQUIRY_PERIPHERAL_QUALIFIER_DISCONNECTED)
        return jdr_iscsi_fail(session, JDR_ISCSI_NO_LUN, "the target has no LUN %d", session->options.lun);
    if (type != SCSI_INQUIRY_PERIPHERAL_DEVICE_TYPE_DIRECT_ACCESS)
        return jdr_iscsi_fail(session, JDR_ISCSI_NO_LUN, "LUN %d is no disk (device type %d)", session->options.lun,
                              type);
    return 0;
}

/* A LUN is recognised by its serial number and designators. One that has neither is taken for the same. */
static int check_identity(jdr_iscsi *session, int64_t deadline_ns)
{
    uint64_t identity = 0;
    static const int pages[] = {SCSI_INQUIRY_PAGECODE_UNIT_SERIAL_NUMBER, SCSI_INQUIRY_PAGECODE_DEVICE_IDENTIFICATION};
    for (size_t i = 0; i < sizeof pages / sizeof *pages; i++) {
        size_t length;
        int result = inquire(session, true, pages[i], deadline_ns);
        if (result)
            return result;
        const uint8_t *said = jdr_iscsi_step_answer(session, VITAL_BYTES, &length);
        if (said)
            identity = XXH3_64bits_withSeed(said, length, identity + (uint64_t)pages[i]);
    }
    if (session->known && identity != session->identity)
        return jdr_iscsi_fail(session, JDR_ISCSI_OTHER_LUN, "another LUN than before answers there");
    session->identity = identity;
    return 0;
}

static int check_capacity(jdr_iscsi *session, int64_t deadline_ns)
{
    size_t length;
    jdr_iscsi_step_begin(session);
    struct scsi_task *task = iscsi_readcapacity16_task(session->iscsi, session->options.lun, jdr_iscsi_on_task,
                                                       &session->step);
    int result = jdr_iscsi_step_await_task(session, task, deadline_ns);
    if (result)
        return result;
    if (!jdr_iscsi_step_is_good(session))
        return jdr_iscsi_step_refused(session, "READ CAPACITY");
    const uint8_t *said = jdr_iscsi_step_answer(session, CAPACITY_BYTES, &length);
    uint64_t last = said ? jdr_iscsi_be64(said + CAPACITY_LAST_BLOCK_AT) : 0;
    uint32_t block_bytes = said ? jdr_iscsi_be32(said + CAPACITY_BLOCK_BYTES_AT) : 0;
    if (!said || last >= (1ull << 62) / JDR_BLOCK)
        return jdr_iscsi_fail(session, JDR_ISCSI_PROTOCOL, "the answer to READ CAPACITY makes no sense");
    if (block_bytes != JDR_SECTOR && block_bytes != JDR_BLOCK)
        return jdr_iscsi_fail(session, JDR_ISCSI_NO_LUN, "LUN %d has blocks of %u bytes; 512 and 4096 are supported",
                              session->options.lun, block_bytes);
    if (session->known && block_bytes != session->info.block_bytes)
        return jdr_iscsi_fail(session, JDR_ISCSI_OTHER_LUN, "the LUN had blocks of %u bytes and has blocks of %u now",
                              session->info.block_bytes, block_bytes);
    session->unmap = (said[CAPACITY_THIN_AT] & CAPACITY_LBPME) && (said[CAPACITY_THIN_AT] & CAPACITY_LBPRZ);
    session->blocks = last + 1;
    pthread_mutex_lock(&session->mutex);
    session->info.size_bytes_now = session->blocks * block_bytes;
    if (!session->known) {
        session->info.block_bytes = block_bytes;
        session->info.size_bytes = session->info.size_bytes_now;
    }
    pthread_mutex_unlock(&session->mutex);
    return 0;
}

/* A target without these pages states no limits, and does not promise to unmap. */
static int look_at_limits(jdr_iscsi *session, int64_t deadline_ns)
{
    uint32_t block_bytes = session->info.block_bytes, transfer_bytes = ISCSI_TRANSFER_MAX;
    size_t length;
    int result = inquire(session, true, SCSI_INQUIRY_PAGECODE_BLOCK_LIMITS, deadline_ns);
    if (result)
        return result;
    const uint8_t *said = jdr_iscsi_step_answer(session, LIMITS_BYTES, &length);
    uint64_t blocks_max = said ? jdr_iscsi_be32(said + LIMITS_TRANSFER_BLOCKS_AT) : 0;
    uint64_t same_max = said && length >= LIMITS_SAME_BYTES ? jdr_iscsi_be64(said + LIMITS_SAME_BLOCKS_AT) : 0;
    if (blocks_max && blocks_max * block_bytes < transfer_bytes)
        transfer_bytes = (uint32_t)blocks_max * block_bytes;
    if ((result = inquire(session, true, SCSI_INQUIRY_PAGECODE_LOGICAL_BLOCK_PROVISIONING, deadline_ns)) != 0)
        return result;
    said = jdr_iscsi_step_answer(session, PROVISIONING_BYTES, &length);
    session->unmap = session->unmap && said && (said[PROVISIONING_METHODS_AT] & PROVISIONING_LBPWS);
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
    jdr_iscsi_step_begin(session);
    struct scsi_task *task = iscsi_modesense6_task(session->iscsi, session->options.lun, MODE_NO_DESCRIPTORS,
                                                   SCSI_MODESENSE_PC_CURRENT, SCSI_MODEPAGE_RETURN_ALL_PAGES, 0,
                                                   ANSWER_BYTES_MAX, jdr_iscsi_on_task, &session->step);
    int result = jdr_iscsi_step_await_task(session, task, deadline_ns);
    if (result)
        return result;
    const uint8_t *said = jdr_iscsi_step_answer(session, MODE_BYTES, &length);
    if (said && said[MODE_DEVICE_AT] & MODE_WRITE_PROTECTED)
        return jdr_iscsi_fail(session, JDR_ISCSI_READ_ONLY, "the LUN is write-protected");
    return 0;
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
        result = jdr_iscsi_reserve(session, deadline_ns);
    return result ? result : check_ready(session, deadline_ns); /* our own reservation raises unit attentions */
}

int jdr_iscsi_login(jdr_iscsi *session, int64_t deadline_ns)
{
    int result = try_login(session, deadline_ns);
    jdr_iscsi_step_end(session);
    session->known = session->known || !result;
    return result;
}

void jdr_iscsi_logout(jdr_iscsi *session)
{
    int64_t deadline_ns = jdr_iscsi_now() + LOGOUT_NS;
    session->leaving = true;
    int result = jdr_iscsi_release(session, deadline_ns);
    jdr_iscsi_step_begin(session);
    if (!result && !iscsi_logout_async(session->iscsi, jdr_iscsi_on_step, &session->step))
        jdr_iscsi_step_await(session, deadline_ns);
    jdr_iscsi_step_end(session);
}
