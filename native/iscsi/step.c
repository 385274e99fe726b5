/*
 * step.c: one step of a login or logout: it is begun, it is waited for, and its answer is read.
 *
 * A step is begun with jdr_iscsi_step_begin and handed to libiscsi with one of the two callbacks here and
 * &session->step. Then it is waited for.
 *
 * Invariants: there is one step at a time. A step ends by its deadline, or as soon as the session closes. No byte
 * beyond the end of an answer is read. The SCSI task of a step lives until the next step begins or jdr_iscsi_step_end.
 * An answer that comes after its step was given up is dropped. Service thread only (before there is one, the opening
 * thread).
 */
#include <errno.h>

#include "inner.h"

void jdr_iscsi_on_step(struct iscsi_context *iscsi, int status, void *data, void *private_data)
{
    struct step *step = private_data;
    step->pending = false;
    step->status = status;
}

void jdr_iscsi_on_task(struct iscsi_context *iscsi, int status, void *data, void *private_data)
{
    struct step *step = private_data;
    if (step->pending)
        step->task = data;
    else if (data)
        scsi_free_scsi_task(data);
    jdr_iscsi_on_step(iscsi, status, data, private_data);
}

void jdr_iscsi_step_end(jdr_iscsi *session)
{
    session->step.pending = false;
    if (session->step.task)
        scsi_free_scsi_task(session->step.task);
    session->step.task = NULL;
}

void jdr_iscsi_step_begin(jdr_iscsi *session)
{
    jdr_iscsi_step_end(session);
    session->step.pending = true;
}

static bool is_closing(jdr_iscsi *session)
{
    pthread_mutex_lock(&session->mutex);
    bool closing = session->closing;
    pthread_mutex_unlock(&session->mutex);
    return closing;
}

int jdr_iscsi_step_await(jdr_iscsi *session, int64_t deadline_ns)
{
    while (session->step.pending) {
        int64_t left = deadline_ns - jdr_iscsi_now();
        if (left <= 0)
            return jdr_iscsi_fail(session, JDR_ISCSI_UNREACHABLE, "the portal does not answer");
        if (!session->leaving && is_closing(session))
            return -ESHUTDOWN;
        if (jdr_iscsi_pump(session, left) < 0 && session->step.pending)
            return jdr_iscsi_fail(session, JDR_ISCSI_UNREACHABLE, "there is no portal, or it drops the connection");
    }
    return 0;
}

int jdr_iscsi_step_await_task(jdr_iscsi *session, struct scsi_task *task, int64_t deadline_ns)
{
    if (!task)
        return jdr_iscsi_fail(session, JDR_ISCSI_UNREACHABLE, "the connection was lost");
    int result = jdr_iscsi_step_await(session, deadline_ns);
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

bool jdr_iscsi_step_is_good(const jdr_iscsi *session)
{
    return session->step.status == SCSI_STATUS_GOOD;
}

int jdr_iscsi_step_refused(jdr_iscsi *session, const char *what)
{
    const struct scsi_sense *sense = &session->step.task->sense;
    return jdr_iscsi_fail(session, JDR_ISCSI_FAILED, "%s: %s, %s", what, scsi_sense_key_str((int)sense->key),
                          scsi_sense_ascq_str(sense->ascq));
}

const uint8_t *jdr_iscsi_step_answer(const jdr_iscsi *session, size_t least, size_t *length)
{
    const struct scsi_data *data = &session->step.task->datain;
    if (!jdr_iscsi_step_is_good(session) || !data->data || data->size < 0 || (size_t)data->size < least)
        return NULL;
    *length = (size_t)data->size;
    return data->data;
}
