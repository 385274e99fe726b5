/*
 * commands.c: cuts requests into SCSI commands, reads the target's answers, and finishes the requests that are done.
 *
 * Invariants: the caller's memory belongs to libiscsi while a command of its request is in flight. A sync is done only
 * when every command sent before it has been answered and none of the answers put the target's cache in doubt. While
 * retained writes are written again, no other command is sent. An answer that puts the connection in doubt sets
 * session->lost and does no more: connection.c gives the connection up. Service thread only.
 */
#include "inner.h"

/* ASC 27h, ASCQ 07h (SPC-4): a thin LUN has run out of space. libiscsi has no name for it. */
#define ASCQ_SPACE_ALLOCATION_FAILED 0x2707

static const uint8_t zeros[ISCSI_TRANSFER_MAX];

/* ---- requests --------------------------------------------------------------------------------------------------- */

/* Wake the caller. From here on an acknowledged write is retained, and what a sync covered is not. */
static void finish(jdr_iscsi *session, struct request *request)
{
    if (request->kind == REQUEST_SYNC && !request->result)
        jdr_iscsi_retained_drop(session, request->retained_number);
    if (request->copy && !request->result)
        jdr_iscsi_retained_add(session, request->copy);
    pthread_mutex_lock(&session->mutex);
    if (request->kind == REQUEST_SYNC && !request->result)
        session->info.syncs++;
    request->finished = true;
    pthread_cond_signal(&request->wake);
    pthread_mutex_unlock(&session->mutex);
}

static uint64_t request_total(const struct request *request)
{
    return request->kind == REQUEST_SYNC ? 1 : request->length;
}

/* Has every command sent before command `number` been answered? */
static bool answered_before(const jdr_iscsi *session, uint64_t number)
{
    for (unsigned i = 0; i < ISCSI_DEPTH; i++)
        if (session->commands[i].state == COMMAND_SENT && session->commands[i].number < number)
            return false;
    return true;
}

static bool is_settled(const jdr_iscsi *session, const struct request *request)
{
    if (request->in_flight)
        return false;
    if (request->result)
        return true;
    return request->done == request_total(request) &&
           (request->kind != REQUEST_SYNC || (!session->lost && answered_before(session, request->command_number)));
}

void jdr_iscsi_settle(jdr_iscsi *session)
{
    if (session->replay_running && is_settled(session, &session->replay)) {
        session->replay_running = false;
        session->replay_failed = session->replay.result;
    }
    struct request **link = &session->active;
    while (*link) {
        struct request *request = *link;
        if (is_settled(session, request)) {
            *link = request->next;
            finish(session, request);
        } else
            link = &request->next;
    }
    session->active_end = link;
}

/*
 * A sync that the target fails breaks the session: the writes before it may be lost, and no later sync would report
 * that.
 */
static void request_failed(jdr_iscsi *session, struct request *request, int result)
{
    if (!request->result)
        request->result = result;
    if (request->kind == REQUEST_SYNC)
        jdr_iscsi_break(session, result);
}

/* ---- answers ---------------------------------------------------------------------------------------------------- */

static void again(struct command *command)
{
    command->state = COMMAND_READY;
    command->request->in_flight++;
    command->not_before_ns = jdr_iscsi_now() + ISCSI_AGAIN_NS;
}

static void answered_good(struct command *command, const struct scsi_task *task)
{
    jdr_iscsi *session = command->session;
    struct request *request = command->request;
    if (task->residual_status != SCSI_RESIDUAL_NO_RESIDUAL && request->kind != REQUEST_SYNC && !command->write_same)
        request_failed(session, request,
                       jdr_iscsi_fail(session, JDR_ISCSI_PROTOCOL,
                                      "the target transferred %zu bytes less than asked for, and called it good",
                                      task->residual));
    else if (request->kind == REQUEST_SYNC)
        request->done = 1;
    else
        request->done += command->length;
    session->progress_ns = jdr_iscsi_now();
}

static int target_reports(jdr_iscsi *session, enum jdr_iscsi_problem problem, const struct scsi_sense *sense)
{
    return jdr_iscsi_fail(session, problem, "the target reports %s, %s", scsi_sense_key_str((int)sense->key),
                          scsi_sense_ascq_str(sense->ascq));
}

static void doubt_connection(jdr_iscsi *session, enum jdr_iscsi_problem problem, const struct scsi_sense *sense)
{
    target_reports(session, problem, sense);
    session->lost = true;
}

static void answered_illegal(struct command *command, const struct scsi_sense *sense)
{
    jdr_iscsi *session = command->session;
    bool same_refused = command->write_same &&
                        (jdr_iscsi_has_code(sense, SCSI_SENSE_ASCQ_INVALID_OPERATION_CODE) ||
                         jdr_iscsi_has_code(sense, SCSI_SENSE_ASCQ_INVALID_FIELD_IN_CDB) ||
                         jdr_iscsi_has_code(sense, SCSI_SENSE_ASCQ_INVALID_FIELD_IN_PARAMETER_LIST));
    if (jdr_iscsi_has_code(sense, SCSI_SENSE_ASCQ_LOGICAL_UNIT_NOT_SUPPORTED))
        doubt_connection(session, JDR_ISCSI_NO_LUN, sense);
    else if (same_refused) {
        session->write_same = session->unmap; /* WRITE SAME once more without UNMAP, then plain writes */
        session->unmap = false;
        again(command);
    } else if (jdr_iscsi_has_code(sense, SCSI_SENSE_ASCQ_LBA_OUT_OF_RANGE))
        request_failed(session, command->request,
                       jdr_iscsi_fail(session, JDR_ISCSI_RESIZED, "the LUN ends before byte %llu now",
                                      (unsigned long long)(command->offset + command->length)));
    else
        request_failed(session, command->request,
                       jdr_iscsi_fail(session, JDR_ISCSI_FAILED, "the target refuses the command: %s",
                                      scsi_sense_ascq_str(sense->ascq)));
}

/*
 * A unit attention says that something about the LUN has changed, perhaps its cache. A new login finds out what it is,
 * and writes the retained writes again.
 */
static void answered_check(struct command *command, const struct scsi_sense *sense)
{
    jdr_iscsi *session = command->session;
    switch (sense->key) {
    case SCSI_SENSE_UNIT_ATTENTION:
        doubt_connection(session, JDR_ISCSI_FAILED, sense);
        break;
    case SCSI_SENSE_NOT_READY:
        doubt_connection(session, JDR_ISCSI_NO_LUN, sense);
        break;
    case SCSI_SENSE_COMMAND_ABORTED:
        again(command);
        break;
    case SCSI_SENSE_ILLEGAL_REQUEST:
        answered_illegal(command, sense);
        break;
    case SCSI_SENSE_DATA_PROTECTION:
        request_failed(session, command->request,
                       sense->ascq == ASCQ_SPACE_ALLOCATION_FAILED
                           ? jdr_iscsi_fail(session, JDR_ISCSI_FAILED, "the target has no space left for the LUN")
                           : jdr_iscsi_fail(session, JDR_ISCSI_READ_ONLY, "the LUN is write-protected"));
        break;
    default:
        request_failed(session, command->request, target_reports(session, JDR_ISCSI_FAILED, sense));
    }
}

static void on_answer(struct iscsi_context *iscsi, int status, void *data, void *private_data)
{
    struct command *command = private_data;
    jdr_iscsi *session = command->session;
    struct scsi_task *task = data;
    command->state = COMMAND_FREE;
    command->request->in_flight--;
    session->heard_ns = jdr_iscsi_now();
    switch (status) {
    case SCSI_STATUS_GOOD:
        answered_good(command, task);
        break;
    case SCSI_STATUS_CHECK_CONDITION:
        answered_check(command, &task->sense);
        break;
    case SCSI_STATUS_BUSY:
    case SCSI_STATUS_TASK_SET_FULL:
        again(command);
        break;
    case SCSI_STATUS_RESERVATION_CONFLICT:
        request_failed(session, command->request,
                       jdr_iscsi_fail(session, JDR_ISCSI_RESERVED, "another machine has reserved the LUN"));
        break;
    default:
        if (!session->lost)
            jdr_iscsi_fail(session, JDR_ISCSI_UNREACHABLE, "the connection was lost");
        session->lost = true;
    }
    if (task)
        scsi_free_scsi_task(task);
}

/* ---- commands --------------------------------------------------------------------------------------------------- */

/* Point the command at its part of the caller's memory. */
static void slice(struct command *command)
{
    const struct request *request = command->request;
    uint64_t skip = command->offset - request->offset, left = command->length;
    command->iov_count = 0;
    for (int i = 0; i < request->iov_count && left; i++) {
        const struct iovec *piece = &request->iov[i];
        if (skip >= piece->iov_len) {
            skip -= piece->iov_len;
            continue;
        }
        uint64_t length = piece->iov_len - skip < left ? piece->iov_len - skip : left;
        command->iov[command->iov_count++] = (struct scsi_iovec){(uint8_t *)piece->iov_base + skip, length};
        left -= length;
        skip = 0;
    }
}

static struct scsi_task *command_task(jdr_iscsi *session, struct command *command)
{
    int lun = session->options.lun, block = (int)session->info.block_bytes;
    uint64_t lba = command->offset / session->info.block_bytes;
    switch (command->request->kind) {
    case REQUEST_READ:
        return iscsi_read16_iov_task(session->iscsi, lun, lba, command->length, block, 0, 0, 0, 0, 0, on_answer,
                                     command, command->iov, command->iov_count);
    case REQUEST_WRITE:
        return iscsi_write16_iov_task(session->iscsi, lun, lba, NULL, command->length, block, 0, 0, 0, 0, 0, on_answer,
                                      command, command->iov, command->iov_count);
    case REQUEST_ZERO:
        command->write_same = session->write_same;
        if (session->write_same)
            return iscsi_writesame16_task(session->iscsi, lun, lba, (unsigned char *)zeros, (uint32_t)block,
                                          command->length / (uint32_t)block, 0, session->unmap, 0, 0, on_answer,
                                          command);
        command->iov[0] = (struct scsi_iovec){(void *)zeros, command->length};
        return iscsi_write16_iov_task(session->iscsi, lun, lba, NULL, command->length, block, 0, 0, 0, 0, 0, on_answer,
                                      command, command->iov, 1);
    default:
        return iscsi_synchronizecache16_task(session->iscsi, lun, 0, 0, 0, 0, on_answer, command);
    }
}

static void send_command(jdr_iscsi *session, struct command *command)
{
    command->state = COMMAND_SENT;
    command->number = ++session->commands_sent;
    command->write_same = false;
    if (command->request->kind == REQUEST_SYNC) {
        command->request->command_number = command->number;
        command->request->retained_number = session->retained_number;
    }
    if (!command_task(session, command)) {
        command->state = COMMAND_FREE;
        command->request->in_flight--;
        session->lost = true;
        jdr_iscsi_fail(session, JDR_ISCSI_UNREACHABLE, "the connection was lost");
    }
}

static struct command *free_command(jdr_iscsi *session)
{
    for (unsigned i = 0; i < ISCSI_DEPTH; i++)
        if (session->commands[i].state == COMMAND_FREE)
            return &session->commands[i];
    return NULL;
}

/* Does the request end within the LUN? Fails the request if the LUN has shrunk. */
static bool check_end(jdr_iscsi *session, struct request *request)
{
    uint64_t size_bytes = session->blocks * session->info.block_bytes;
    if (request->kind == REQUEST_SYNC || request->offset + request->length <= size_bytes)
        return true;
    request_failed(session, request,
                   jdr_iscsi_fail(session, JDR_ISCSI_RESIZED,
                                  "the LUN had %llu bytes when it was opened and has %llu now",
                                  (unsigned long long)session->info.size_bytes, (unsigned long long)size_bytes));
    return false;
}

/* Send as much of the request as there are free commands. False if no command is free, or the connection is lost. */
static bool send_request(jdr_iscsi *session, struct request *request)
{
    while (!session->lost && !request->result && request->dispatched < request_total(request) &&
           check_end(session, request)) {
        struct command *command = free_command(session);
        if (!command)
            return false;
        uint64_t left = request->length - request->dispatched;
        command->session = session;
        command->request = request;
        command->offset = request->offset + request->dispatched;
        command->length = (uint32_t)(left < session->transfer_bytes ? left : session->transfer_bytes);
        request->dispatched += request->kind == REQUEST_SYNC ? 1 : command->length;
        request->in_flight++;
        slice(command);
        send_command(session, command);
    }
    return !session->lost;
}

static void send_again(jdr_iscsi *session)
{
    int64_t now = jdr_iscsi_now();
    for (unsigned i = 0; i < ISCSI_DEPTH && !session->lost; i++)
        if (session->commands[i].state == COMMAND_READY && session->commands[i].not_before_ns <= now)
            send_command(session, &session->commands[i]);
}

/* Retained writes are sent one after the other, each cut into commands like any write. */
static void send_replay(jdr_iscsi *session)
{
    while (session->replaying && !session->replay_running && !session->replay_failed) {
        session->replaying = jdr_iscsi_replay_next(session);
        session->replay_running = session->replaying;
    }
    if (session->replay_running)
        send_request(session, &session->replay);
}

void jdr_iscsi_dispatch(jdr_iscsi *session)
{
    send_again(session);
    if (session->replaying)
        send_replay(session);
    for (struct request *request = session->active; request && !session->replaying; request = request->next)
        if (!send_request(session, request))
            break;
    jdr_iscsi_settle(session);
}

void jdr_iscsi_start_over(jdr_iscsi *session)
{
    for (unsigned i = 0; i < ISCSI_DEPTH; i++)
        session->commands[i].state = COMMAND_FREE;
    for (struct request *request = session->active; request; request = request->next) {
        request->in_flight = 0;
        request->dispatched = request->done = 0;
    }
}
