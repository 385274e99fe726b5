/*
 * life.c: how the host component begins and ends: ring, write-back, first disks, control socket.
 *
 * Invariant: QUIT and signals end the process in order, and once: the filters are closed, the primaries are flushed,
 * and only then is the ring told.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "host.h"

#define QUIT_LIMIT_S 5

static const struct host_options *options;
static jdr_ring *ring;
static jdr_applier *applier;
static pthread_t applier_thread;
static bool applying;
static void (*when_quit)(void);

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER; /* guards all below */
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static bool ended, finishing;

/* ---- begin ------------------------------------------------------------------------------------------------------ */

static const char *why_no_ring(int error)
{
    switch (error) {
    case EBADMSG:
        return "not a ring, or a damaged one";
    case EPROTONOSUPPORT:
        return "a ring of another version";
    case ESTALE:
        return "the ring of another domain";
    case EBUSY:
        return "another host component has it";
    case EACCES:
        return "others than its owner may use it; it must be the owner's, with mode 0600";
    default:
        return strerrordesc_np(error);
    }
}

static int attach_ring(char *message)
{
    int fd = open(options->ring_path, O_RDWR | O_CLOEXEC);
    int result = fd < 0 ? -errno : jdr_ring_open(&ring, fd, JDR_HOST, options->has_domain ? options->domain : NULL);
    if (fd >= 0)
        close(fd);
    if (result)
        snprintf(message, HOST_MESSAGE, "ring %.300s: %s", options->ring_path, why_no_ring(-result));
    return result;
}

static int create_applier(char *message)
{
    bool wanted = jdr_ring_write_back(ring);
    if (wanted != (options->bypassed_path != NULL)) {
        snprintf(message, HOST_MESSAGE, "ring %.300s is %s: %s write-back=", options->ring_path,
                 wanted ? "write-back" : "write-through", wanted ? "give" : "leave out");
        return -EINVAL;
    }
    int result = wanted ? jdr_applier_create(&applier, ring, options->bypassed_path) : 0;
    if (result)
        snprintf(message, HOST_MESSAGE, "write-back, bypassed file %.300s: %s", options->bypassed_path,
                 strerrordesc_np(-result));
    return result;
}

static void *apply(void *context)
{
    jdr_applier_run(context);
    return NULL;
}

static int start_applier(char *message)
{
    int result = applier ? -pthread_create(&applier_thread, NULL, apply, applier) : 0;
    applying = applier && !result;
    if (result)
        snprintf(message, HOST_MESSAGE, "write-back: %s", strerrordesc_np(-result));
    return result;
}

static void configure_disks(void)
{
    struct host_disks_options disks = {ring, applier, options->stall_limit_ns, .map_folder = options->map_folder};
    memcpy(disks.domain, options->domain, sizeof disks.domain);
    host_disks_configure(&disks);
}

static int add_disks(char *message)
{
    int result = 0;
    enum host_map_found found;
    for (size_t i = 0; i < options->disk_count && !result; i++)
        result = host_disks_add(&options->disks[i], NULL, &found, message);
    return result;
}

static int listen_for_control(char *message)
{
    return options->control_path ? host_control_listen(options->control_path, message) : 0;
}

/* A disk and each of its connections need a few descriptors. Take as many as the system gives. */
static void raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

int host_prepare(const struct host_options *given, char *message)
{
    options = given;
    raise_descriptor_limit();
    if (options->ring_path)
        return 0; /* a ring knows its sides by their processes, so it is attached after the fork */
    configure_disks();
    int result = add_disks(message);
    return result ? result : listen_for_control(message);
}

static int attach(char *message)
{
    int result = attach_ring(message);
    if (!result)
        result = create_applier(message);
    if (result)
        return result;
    configure_disks();
    if (!(result = add_disks(message)) && !(result = start_applier(message)))
        result = listen_for_control(message);
    return result;
}

/* ---- end -------------------------------------------------------------------------------------------------------- */

static void end_once(void)
{
    pthread_mutex_lock(&mutex);
    if (!ended) {
        host_disks_close();
        if (applying) {
            jdr_applier_stop(applier);
            pthread_join(applier_thread, NULL);
        }
        if (host_disks_sync() && ring)
            jdr_ring_end(ring);
    }
    ended = true;
    pthread_mutex_unlock(&mutex);
}

/*
 * Runs in the thread of the control connection. The server waits for its clients. One of them may hang, so the wait has
 * a limit.
 */
static void quit(void)
{
    struct timespec limit;
    int result = 0;
    end_once();
    when_quit();
    clock_gettime(CLOCK_REALTIME, &limit);
    limit.tv_sec += QUIT_LIMIT_S;
    pthread_mutex_lock(&mutex);
    while (!result && !finishing)
        result = pthread_cond_timedwait(&changed, &mutex, &limit);
    pthread_mutex_unlock(&mutex);
    if (result)
        _exit(EXIT_SUCCESS);
}

int host_begin(void (*shut_down)(void), char *message)
{
    when_quit = shut_down;
    int result = host_log_start(options->log_limit_bytes, message);
    if (!result && options->ring_path)
        result = attach(message);
    if (!result && options->control_path)
        result = host_control_start(quit, message);
    return result;
}

void host_finish(void)
{
    pthread_mutex_lock(&mutex);
    finishing = true;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&mutex);
    host_control_stop();
    end_once();
}

void host_free(void)
{
    host_control_stop();
    host_log_stop();
    host_disks_destroy();
    jdr_applier_destroy(applier);
    if (ring)
        jdr_ring_destroy(ring);
}
