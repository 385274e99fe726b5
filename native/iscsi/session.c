/*
 * session.c: callers and the queue they share, the service thread that takes from it, and open and close.
 *
 * A caller puts its request, which lives on its stack, on the queue `submitted` under the mutex, ends the service
 * thread's sleep and waits on the request's own condition. The service thread takes the whole queue into its list of
 * active requests, and commands.c works through that list.
 *
 * Invariants: after the open, only the service thread calls libiscsi and touches the session's fields below the
 * mutex's. A request is on the queue or active until it is finished. A closing or broken session takes no request. Room
 * for a write's copy is taken before the write is submitted.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

#include "inner.h"

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

/* Is the session closing, with no request left or no connection to serve it? */
static bool is_over(jdr_iscsi *session)
{
    pthread_mutex_lock(&session->mutex);
    bool over = session->closing && !session->submitted && (!session->active || !session->iscsi);
    pthread_mutex_unlock(&session->mutex);
    return over;
}

static void *serve(void *argument)
{
    jdr_iscsi *session = argument;
    while (!is_over(session)) {
        take_submitted(session);
        jdr_iscsi_keep_connected(session);
        if (session->iscsi)
            jdr_iscsi_dispatch(session);
        jdr_iscsi_listen(session);
        jdr_iscsi_settle(session);
        jdr_iscsi_check_health(session);
    }
    if (session->iscsi && !session->lost)
        jdr_iscsi_logout(session);
    jdr_iscsi_give_up(session, -ESHUTDOWN);
    return NULL;
}

/* Start the service thread. It blocks all signals, which are for the process's own threads. */
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

/* Queue the request and wait until it is finished. A write's copy is made while the write is in flight. */
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

/* Take room for `cost` retained bytes, syncing until there is some. */
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

static int lun_zero(const struct jdr_device *device, uint64_t offset, uint64_t length, bool may_discard)
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

/*
 * All connections of a session have one name (ISID), so that at the target a new connection ends the old one and what
 * it had in flight.
 */
static int name_session(jdr_iscsi *session)
{
    uint32_t random[2];
    if (getrandom(random, sizeof random, 0) != sizeof random)
        return -EIO;
    static _Atomic uint16_t sessions;
    session->session_number = ++sessions;
    session->isid = random[0] & 0xffffff;
    session->isid_qualifier = (uint16_t)random[1];
    session->connection_number = (uint16_t)(random[1] >> 16); /* random, so unlike an earlier process's */
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
