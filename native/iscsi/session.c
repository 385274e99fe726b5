/*
 * session.c: callers, their requests, and the service thread that turns requests into commands.
 *
 * Invariants: the service thread alone calls libiscsi and touches what jdr_iscsi keeps behind the mutex's part; a
 * caller's memory is libiscsi's until no command of its request is in flight; a sync is finished only when every
 * command sent before it has been answered and none of the answers cast doubt on the target's cache; when a connection
 * is given up, every unfinished request starts over on the next one, behind the retained writes.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "inner.h"

#define SECOND_NS 1000000000ll
#define PING_BUSY_NS (2 * SECOND_NS) /* commands wait and nothing was heard: ask */
#define PING_IDLE_NS (15 * SECOND_NS)
#define SILENCE_NS (5 * SECOND_NS) /* asked, and nothing was heard: the connection is dead */
#define AGAIN_NS (SECOND_NS / 20)  /* a busy target is asked again */
#define RECONNECT_NS (SECOND_NS / 5)
#define RECONNECT_IDLE_NS (2 * SECOND_NS)

static const uint8_t zeros[ISCSI_TRANSFER_MAX];

int64_t jdr_iscsi_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * SECOND_NS + now.tv_nsec;
}

int jdr_iscsi_errno(enum jdr_iscsi_problem problem)
{
    switch (problem) {
    case JDR_ISCSI_FINE:
        return 0;
    case JDR_ISCSI_DENIED:
        return EACCES;
    case JDR_ISCSI_NO_TARGET:
    case JDR_ISCSI_NO_LUN:
    case JDR_ISCSI_OTHER_LUN:
        return ENXIO;
    case JDR_ISCSI_READ_ONLY:
        return EROFS;
    case JDR_ISCSI_RESERVED:
        return EBUSY;
    case JDR_ISCSI_PROTOCOL:
        return EPROTO;
    default:
        return EIO;
    }
}

int jdr_iscsi_fail(jdr_iscsi *session, enum jdr_iscsi_problem problem, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    session->failure.problem = problem;
    vsnprintf(session->failure.text, sizeof session->failure.text, format, arguments);
    va_end(arguments);
    for (char *c = session->failure.text; *c; c++)
        *c = *c < ' ' || *c > '~' ? ' ' : *c; /* some of it came from the target */
    pthread_mutex_lock(&session->mutex);
    session->info.failure = session->failure;
    pthread_mutex_unlock(&session->mutex);
    return -jdr_iscsi_errno(problem);
}

bool jdr_iscsi_closing(jdr_iscsi *session)
{
    pthread_mutex_lock(&session->mutex);
    bool closing = session->closing;
    pthread_mutex_unlock(&session->mutex);
    return closing;
}

/* ---- requests --------------------------------------------------------------------------------------------------- */

/* Tell the caller. A write that was acknowledged is retained from here on. */
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

/* Was everything that was sent before command `number` answered? */
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

/* Take the settled ones off the list. */
static void settle(jdr_iscsi *session)
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

/* A sync that failed: what it was about may be lost, and no later one brings it back. */
static void request_failed(jdr_iscsi *session, struct request *request, int result)
{
    if (!request->result)
        request->result = result;
    if (request->kind != REQUEST_SYNC)
        return;
    pthread_mutex_lock(&session->mutex);
    if (!session->broken)
        session->broken = -result;
    pthread_mutex_unlock(&session->mutex);
}

/* ---- answers ---------------------------------------------------------------------------------------------------- */

static void again(struct command *command)
{
    command->state = COMMAND_READY;
    command->request->in_flight++;
    command->not_before_ns = jdr_iscsi_now() + AGAIN_NS;
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

static void give_up_connection(jdr_iscsi *session, enum jdr_iscsi_problem problem, const struct scsi_sense *sense)
{
    jdr_iscsi_fail(session, problem, "the target reports %s, %s", scsi_sense_key_str((int)sense->key),
                   scsi_sense_ascq_str(sense->ascq));
    session->lost = true;
}

static void answered_illegal(struct command *command, const struct scsi_sense *sense)
{
    jdr_iscsi *session = command->session;
    int what = sense->ascq >> 8;
    if (what == 0x25)
        give_up_connection(session, JDR_ISCSI_NO_LUN, sense);
    else if (command->write_same && (what == 0x20 || what == 0x24 || what == 0x26)) {
        session->write_same = session->unmap; /* first without giving space back, then as plain writes */
        session->unmap = false;
        again(command);
    } else if (what == 0x21)
        request_failed(session, command->request,
                       jdr_iscsi_fail(session, JDR_ISCSI_RESIZED, "the LUN ends before byte %llu now",
                                      (unsigned long long)(command->offset + command->length)));
    else
        request_failed(session, command->request,
                       jdr_iscsi_fail(session, JDR_ISCSI_FAILED, "the target refuses the command: %s",
                                      scsi_sense_ascq_str(sense->ascq)));
}

/* What a unit attention is about is found out by logging in again, which also takes what was lost into account. */
static void answered_check(struct command *command, const struct scsi_sense *sense)
{
    jdr_iscsi *session = command->session;
    switch (sense->key) {
    case SCSI_SENSE_UNIT_ATTENTION:
        give_up_connection(session, JDR_ISCSI_FAILED, sense);
        break;
    case SCSI_SENSE_NOT_READY:
        give_up_connection(session, JDR_ISCSI_NO_LUN, sense);
        break;
    case SCSI_SENSE_COMMAND_ABORTED:
        again(command);
        break;
    case SCSI_SENSE_ILLEGAL_REQUEST:
        answered_illegal(command, sense);
        break;
    case SCSI_SENSE_DATA_PROTECTION:
        request_failed(session, command->request,
                       sense->ascq == 0x2707
                           ? jdr_iscsi_fail(session, JDR_ISCSI_FAILED, "the target has no space left behind the LUN")
                           : jdr_iscsi_fail(session, JDR_ISCSI_READ_ONLY, "the LUN is write-protected"));
        break;
    default:
        request_failed(session, command->request,
                       jdr_iscsi_fail(session, JDR_ISCSI_FAILED, "the target reports %s, %s",
                                      scsi_sense_key_str((int)sense->key), scsi_sense_ascq_str(sense->ascq)));
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

/* The pieces of the caller's memory that the command is about. */
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

/* Does the LUN still reach as far? */
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

/* Cut off and send as much of the request as there are free commands; false when there are none left. */
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

/* One retained write after the other; each is cut into commands like any other. */
static void send_replay(jdr_iscsi *session)
{
    while (session->replaying && !session->replay_running && !session->replay_failed) {
        session->replaying = jdr_iscsi_replay_next(session);
        session->replay_running = session->replaying;
    }
    if (session->replay_running)
        send_request(session, &session->replay);
}

static void dispatch(jdr_iscsi *session)
{
    send_again(session);
    if (session->replaying)
        send_replay(session);
    for (struct request *request = session->active; request && !session->replaying; request = request->next)
        if (!send_request(session, request))
            break;
    settle(session);
}

/* ---- connection ------------------------------------------------------------------------------------------------- */

static bool has_work(const jdr_iscsi *session)
{
    return session->active || session->retained;
}

/* Also an idle session that reserved the LUN comes back: the target may have forgotten it. */
static bool wants_connection(const jdr_iscsi *session)
{
    return has_work(session) || session->options.machine;
}

void jdr_iscsi_disconnect(jdr_iscsi *session)
{
    session->lost = true;
    if (session->iscsi)
        iscsi_destroy_context(session->iscsi); /* answers every command as cancelled */
    session->iscsi = NULL;
    session->lost = session->pinged = session->replaying = session->replay_running = false;
    for (unsigned i = 0; i < ISCSI_DEPTH; i++)
        session->commands[i].state = COMMAND_FREE;
    for (struct request *request = session->active; request; request = request->next) {
        request->in_flight = 0;
        request->dispatched = request->done = 0;
    }
    if (!session->active)
        session->progress_ns = jdr_iscsi_now();
    settle(session); /* the failed ones */
}

/* Fail all that is pending. Acknowledged writes that cannot be made durable any more break the session. */
static void give_up(jdr_iscsi *session, int result)
{
    jdr_iscsi_disconnect(session);
    for (struct request *request = session->active; request; request = request->next)
        request->result = request->result ? request->result : result;
    pthread_mutex_lock(&session->mutex);
    if (session->retained && !session->broken)
        session->broken = -result;
    pthread_mutex_unlock(&session->mutex);
    jdr_iscsi_retained_drop(session, session->retained_number);
    session->replay_failed = 0;
    settle(session);
}

static bool is_final(enum jdr_iscsi_problem problem)
{
    return problem == JDR_ISCSI_RESERVED || problem == JDR_ISCSI_OTHER_LUN || problem == JDR_ISCSI_READ_ONLY;
}

static void reconnect(jdr_iscsi *session)
{
    int64_t now = jdr_iscsi_now(),
            end = has_work(session) ? session->progress_ns + session->options.limit_ns : INT64_MAX;
    if (now < session->retry_ns)
        return;
    int64_t deadline = now + session->options.login_limit_ns;
    struct jdr_iscsi_failure before = session->failure;
    int result = jdr_iscsi_login(session, deadline < end ? deadline : end);
    now = jdr_iscsi_now();
    if (result && now >= end && deadline > end && before.problem) /* cut short: tells less than the one before */
        result = jdr_iscsi_fail(session, before.problem, "%s", before.text);
    session->retry_ns = now + (has_work(session) ? RECONNECT_NS : RECONNECT_IDLE_NS);
    if (!result) {
        session->replay_next = session->retained;
        session->replaying = session->retained != NULL;
        session->heard_ns = now;
        pthread_mutex_lock(&session->mutex);
        session->info.reconnects++;
        pthread_mutex_unlock(&session->mutex);
    } else if (now >= end || is_final(session->failure.problem))
        give_up(session, result);
}

static void on_pong(struct iscsi_context *iscsi, int status, void *data, void *private_data)
{
    jdr_iscsi *session = private_data;
    session->pinged = false;
    if (status == SCSI_STATUS_GOOD)
        session->heard_ns = jdr_iscsi_now();
    else
        session->lost = true;
}

static void check_health(jdr_iscsi *session)
{
    int64_t now = jdr_iscsi_now(), silence = now - session->heard_ns;
    if (session->replay_failed)
        give_up(session, session->replay_failed);
    else if (session->iscsi && (session->active || session->replaying) &&
             now - session->progress_ns > session->options.limit_ns)
        give_up(session, jdr_iscsi_fail(session, JDR_ISCSI_UNREACHABLE, "no command was answered for %.1f s",
                                        (double)session->options.limit_ns / 1e9));
    if (!session->iscsi || session->lost)
        return;
    if (session->pinged && silence > SILENCE_NS) {
        jdr_iscsi_fail(session, JDR_ISCSI_UNREACHABLE, "the target does not answer");
        session->lost = true;
    } else if (!session->pinged && silence > (session->active ? PING_BUSY_NS : PING_IDLE_NS)) {
        session->pinged = true;
        if (iscsi_nop_out_async(session->iscsi, on_pong, NULL, 0, session))
            session->lost = true;
    }
}

/*
 * The status of a login (RFC 7143, 11.13.5), looked at before libiscsi reads it: of an answer that the target's end of
 * the connection follows at once, libiscsi tells nothing.
 */
static void peek_login_status(jdr_iscsi *session, int fd)
{
    uint8_t header[48];
    ssize_t length = recv(fd, header, sizeof header, MSG_PEEK | MSG_DONTWAIT);
    if (length == sizeof header && (header[0] & 0x3f) == 0x23)
        session->login_status = (uint16_t)(header[36] << 8 | header[37]);
}

int jdr_iscsi_pump(jdr_iscsi *session, int64_t wait_ns)
{
    struct pollfd polled[2] = {{.fd = session->event, .events = POLLIN}, {.fd = -1}};
    if (session->iscsi) {
        polled[1].fd = iscsi_get_fd(session->iscsi);
        polled[1].events = (short)iscsi_which_events(session->iscsi);
        if (polled[1].fd < 0)
            return -1;
        if (!polled[1].events)
            wait_ns = SECOND_NS / 10;
    }
    int count = poll(polled, 2, (int)((wait_ns + 999999) / 1000000));
    uint64_t seen;
    if (polled[0].revents & POLLIN && read(session->event, &seen, sizeof seen) < 0 && errno != EAGAIN)
        abort(); /* an eventfd cannot fail otherwise */
    if (count <= 0 || !session->iscsi || !polled[1].revents)
        return 0;
    int events = polled[1].revents;
    if (events & POLLIN)
        events &= ~(POLLHUP | POLLERR); /* libiscsi would not read what was said before the end */
    if (session->logging_in)
        peek_login_status(session, polled[1].fd);
    if (iscsi_service(session->iscsi, events) < 0)
        return -1;
    return events & (POLLHUP | POLLERR) ? -1 : 0;
}

/* ---- the service thread ----------------------------------------------------------------------------------------- */

static void take_submitted(jdr_iscsi *session)
{
    pthread_mutex_lock(&session->mutex);
    struct request *request = session->submitted;
    session->submitted = NULL;
    session->submitted_end = &session->submitted;
    pthread_mutex_unlock(&session->mutex);
    if (request && !session->active) {
        session->progress_ns = jdr_iscsi_now();
        session->retry_ns = 0;
    }
    *session->active_end = request;
    while (*session->active_end)
        session->active_end = &(*session->active_end)->next;
}

/* Closing, and nothing left to do, or nothing left that it could be done with. */
static bool is_over(jdr_iscsi *session)
{
    pthread_mutex_lock(&session->mutex);
    bool over = session->closing && !session->submitted && (!session->active || !session->iscsi);
    pthread_mutex_unlock(&session->mutex);
    return over;
}

static int64_t wait_time(const jdr_iscsi *session)
{
    if (session->lost || session->replay_failed || (session->replaying && !session->replay_running))
        return 0;
    if (session->iscsi)
        return session->active || session->replaying ? AGAIN_NS : SECOND_NS;
    return has_work(session) ? RECONNECT_NS / 4 : session->options.machine ? RECONNECT_IDLE_NS / 2 : 3600 * SECOND_NS;
}

static void *serve(void *argument)
{
    jdr_iscsi *session = argument;
    while (!is_over(session)) {
        take_submitted(session);
        if (session->lost)
            jdr_iscsi_disconnect(session);
        if (wants_connection(session) && !session->iscsi)
            reconnect(session);
        if (session->iscsi)
            dispatch(session);
        if (jdr_iscsi_pump(session, wait_time(session)) < 0 && !session->lost) {
            session->lost = true;
            jdr_iscsi_fail(session, JDR_ISCSI_UNREACHABLE, "the connection was lost");
        }
        settle(session);
        check_health(session);
    }
    if (session->iscsi && !session->lost)
        jdr_iscsi_logout(session);
    give_up(session, -ESHUTDOWN);
    return NULL;
}

/* The thread gets no signals: they are the process's affair. */
static int start(jdr_iscsi *session)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int result = pthread_create(&session->thread, NULL, serve, session);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    session->has_thread = !result;
    if (!result)
        pthread_setname_np(session->thread, "jetdr-iscsi");
    return -result;
}

/* ---- callers ---------------------------------------------------------------------------------------------------- */

static void wake_service(jdr_iscsi *session)
{
    uint64_t one = 1;
    if (write(session->event, &one, sizeof one) < 0 && errno != EAGAIN)
        abort();
}

/* Hand the request over and wait for it; a write's copy is made meanwhile. */
static int submit(jdr_iscsi *session, struct request *request)
{
    pthread_cond_init(&request->wake, NULL);
    pthread_mutex_lock(&session->mutex);
    int result = session->closing ? -ESHUTDOWN : -session->broken;
    if (!result) {
        *session->submitted_end = request;
        session->submitted_end = &request->next;
    }
    pthread_mutex_unlock(&session->mutex);
    if (!result) {
        wake_service(session);
        if (request->kind == REQUEST_WRITE)
            jdr_iscsi_retained_fill(session, request->copy, request->iov, request->iov_count);
        pthread_mutex_lock(&session->mutex);
        while (!request->finished)
            pthread_cond_wait(&request->wake, &session->mutex);
        result = request->result;
        pthread_mutex_unlock(&session->mutex);
    }
    pthread_cond_destroy(&request->wake);
    return result;
}

static int check_range(const jdr_iscsi *session, uint64_t offset, uint64_t length)
{
    uint64_t size_bytes = session->info.size_bytes;
    if (offset % session->info.block_bytes || length % session->info.block_bytes)
        return -EINVAL;
    return offset > size_bytes || length > size_bytes - offset ? -EINVAL : 0;
}

static int lun_sync(const struct jdr_device *device)
{
    struct request request = {.kind = REQUEST_SYNC};
    return submit(device->context, &request);
}

/* Room for `cost` retained bytes; where there is none, a sync gives back what can be. */
static int take_room(const struct jdr_device *device, uint64_t cost)
{
    jdr_iscsi *session = device->context;
    for (;;) {
        pthread_mutex_lock(&session->mutex);
        bool fits = !session->retained_bytes || session->retained_bytes + cost <= JDR_ISCSI_RETAINED_BYTES_MAX;
        if (fits)
            session->retained_bytes += cost;
        pthread_mutex_unlock(&session->mutex);
        int result = fits ? 0 : lun_sync(device);
        if (fits || result)
            return result;
    }
}

static void give_room(jdr_iscsi *session, uint64_t cost)
{
    pthread_mutex_lock(&session->mutex);
    session->retained_bytes -= cost;
    pthread_mutex_unlock(&session->mutex);
}

static int change(const struct jdr_device *device, struct request *request)
{
    jdr_iscsi *session = device->context;
    int result = session->options.writable ? check_range(session, request->offset, request->length) : -EROFS;
    if (result || !request->length)
        return result;
    request->copy = jdr_iscsi_retained_new(request->offset, request->length, request->kind == REQUEST_ZERO);
    if (!request->copy)
        return -ENOMEM;
    uint64_t cost = request->copy->cost;
    if ((result = take_room(device, cost)) == 0 && (result = submit(session, request)) != 0)
        give_room(session, cost);
    if (result)
        jdr_iscsi_retained_free(request->copy);
    return result;
}

static int lun_read(const struct jdr_device *device, uint64_t offset, void *target, size_t length)
{
    jdr_iscsi *session = device->context;
    struct iovec iov = {target, length};
    struct request request = {.kind = REQUEST_READ, .offset = offset, .length = length, .iov = &iov, .iov_count = 1};
    int result = check_range(session, offset, length);
    return result || !length ? result : submit(session, &request);
}

static int lun_write(const struct jdr_device *device, uint64_t offset, const struct iovec *iov, int iov_count)
{
    struct request request = {.kind = REQUEST_WRITE, .offset = offset, .iov = iov, .iov_count = iov_count};
    if (iov_count > ISCSI_IOV_MAX)
        return -EINVAL;
    for (int i = 0; i < iov_count; i++)
        request.length += iov[i].iov_len;
    return change(device, &request);
}

static int lun_zero(const struct jdr_device *device, uint64_t offset, uint64_t length)
{
    struct request request = {.kind = REQUEST_ZERO, .offset = offset, .length = length};
    return change(device, &request);
}

void jdr_iscsi_device(jdr_iscsi *session, struct jdr_device *device)
{
    *device = (struct jdr_device){lun_read, lun_write, lun_zero, lun_sync, session, -1, session->info.block_bytes};
}

void jdr_iscsi_info(jdr_iscsi *session, struct jdr_iscsi_info *info)
{
    pthread_mutex_lock(&session->mutex);
    *info = session->info;
    info->retained_bytes = session->retained_bytes;
    pthread_mutex_unlock(&session->mutex);
}

/* ---- opening and closing ---------------------------------------------------------------------------------------- */

static bool copy_name(char *to, size_t size, const char *from, const char **kept)
{
    *kept = from ? to : NULL;
    return !from || (size_t)snprintf(to, size, "%s", from) < size;
}

static int copy_options(jdr_iscsi *session, const struct jdr_iscsi_options *options)
{
    struct jdr_iscsi_options *own = &session->options;
    *own = *options;
    bool fit = copy_name(session->portal, sizeof session->portal, options->portal, &own->portal) &&
               copy_name(session->target, sizeof session->target, options->target, &own->target) &&
               copy_name(session->initiator, sizeof session->initiator, options->initiator, &own->initiator) &&
               copy_name(session->user, sizeof session->user, options->user, &own->user) &&
               copy_name(session->password, sizeof session->password, options->password, &own->password);
    return fit && options->lun >= 0 && options->limit_ns > 0 && options->login_limit_ns > 0 ? 0 : -EINVAL;
}

static jdr_iscsi *allocate(void)
{
    jdr_iscsi *session = calloc(1, sizeof *session);
    if (!session)
        return NULL;
    session->event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (session->event < 0) {
        free(session);
        return NULL;
    }
    pthread_mutex_init(&session->mutex, NULL);
    pthread_cond_init(&session->changed, NULL);
    session->submitted_end = &session->submitted;
    session->active_end = &session->active;
    session->retained_end = &session->retained;
    return session;
}

/* The name of all the session's connections: a new one ends the old one at the target, with whatever it still held. */
static int name_session(jdr_iscsi *session)
{
    uint32_t random[2];
    if (getrandom(random, sizeof random, 0) != sizeof random)
        return -EIO;
    static _Atomic uint16_t sessions;
    session->session_number = ++sessions;
    session->isid = random[0] & 0xffffff;
    session->isid_qualifier = (uint16_t)random[1];
    session->connection_number = (uint16_t)(random[1] >> 16); /* unlike that of a process before this one */
    return 0;
}

int jdr_iscsi_open(jdr_iscsi **out, const struct jdr_iscsi_options *options, struct jdr_iscsi_failure *failure)
{
    memset(failure, 0, sizeof *failure);
    jdr_iscsi *session = allocate();
    if (!session)
        return -ENOMEM;
    int result = copy_options(session, options);
    if (!result)
        result = name_session(session);
    if (!result)
        result = jdr_iscsi_login(session, jdr_iscsi_now() + options->login_limit_ns);
    session->heard_ns = jdr_iscsi_now();
    if (!result)
        result = start(session);
    if (result) {
        *failure = session->failure;
        jdr_iscsi_close(session);
        jdr_iscsi_free(session);
        return result;
    }
    *out = session;
    return 0;
}

void jdr_iscsi_close(jdr_iscsi *session)
{
    pthread_mutex_lock(&session->mutex);
    bool join = session->has_thread && !session->closing;
    session->closing = true;
    pthread_mutex_unlock(&session->mutex);
    if (join) {
        wake_service(session);
        pthread_join(session->thread, NULL);
    } else if (!session->has_thread)
        jdr_iscsi_disconnect(session);
}

void jdr_iscsi_free(jdr_iscsi *session)
{
    if (!session)
        return;
    jdr_iscsi_close(session);
    close(session->event);
    pthread_mutex_destroy(&session->mutex);
    pthread_cond_destroy(&session->changed);
    explicit_bzero(session->password, sizeof session->password);
    free(session);
}
