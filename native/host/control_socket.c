/*
 * control_socket.c: the control socket and its connections. control_line.c receives the lines, and commands.c obeys
 * them. docs/formats/host-control.md
 *
 * Invariants: each connection has a thread, so a command that waits, or a client that hangs, blocks no other
 * connection. A client that does not finish a line, or read its reply, within the limit is disconnected. If there are
 * too many connections, the one that has been idle longest ends. If all are at work, a new one waits a moment for one
 * of them: clients that come and go quickly leave connections whose threads have yet to run and to see that they
 * ended. The mutex guards the list of connections, and nothing else is done while it is held. If something removes the
 * socket's name, such as a cleaner of /run, a new socket gets that name within a second, and all connections go on.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "host.h"
#include "commands.h"
#include "control_line.h"

#define CONNECTIONS_MAX 32
#define STACK_BYTES (512u << 10)
#define PLACE_LIMIT_S 1
#define NAME_PERIOD_MS 1000 /* how often a removed name is noticed */

struct connection {
    bool busy, evicted; /* guarded by the mutex */
    int64_t idle_since; /* likewise */
    struct host_lines lines;
    struct connection *next;
};

static struct sockaddr_un address = {.sun_family = AF_UNIX};
static struct stat bound;                 /* the name that this process gave to its socket */
static int listening = -1, stopping = -1; /* the socket, and an eventfd that is readable when everything is to end */
static pthread_t acceptor;
static bool accepting;
static void (*when_quit)(void);

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER; /* a connection ended or became idle */
static struct connection *connections;
static unsigned count;
static bool quitting;

/* ---- connections ------------------------------------------------------------------------------------------------ */

/* False if the connection is to end. */
static bool set_busy(struct connection *connection, bool busy)
{
    pthread_mutex_lock(&mutex);
    connection->busy = busy;
    connection->idle_since = host_now_ms();
    bool goes_on = !connection->evicted;
    if (!busy)
        pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&mutex);
    return goes_on;
}

/* Begin to quit, after QUIT was answered. Does so once. */
static void begin_quit(void)
{
    pthread_mutex_lock(&mutex);
    bool first = !quitting;
    quitting = true;
    pthread_mutex_unlock(&mutex);
    if (first)
        when_quit();
}

/* False if the connection is to end. */
static bool obey(struct connection *connection, size_t length)
{
    if (!set_busy(connection, true))
        return false;
    enum host_next next = host_obey(connection->lines.fd, connection->lines.text, length);
    if (next == HOST_QUIT)
        begin_quit();
    return next == HOST_GO_ON && set_busy(connection, false);
}

static void converse(struct connection *connection)
{
    set_busy(connection, false);
    for (;;) {
        ssize_t length = host_line_take(&connection->lines);
        if (length == -EMSGSIZE)
            host_refuse_line(connection->lines.fd, "the line is longer than 8192 bytes");
        if (length == -ETIMEDOUT)
            host_refuse_line(connection->lines.fd, "the line was not complete within 5 s");
        if (length <= 0 || !obey(connection, (size_t)length - 1))
            return;
        host_line_drop(&connection->lines, (size_t)length);
    }
}

static void *serve(void *context)
{
    struct connection *connection = context;
    converse(connection);
    pthread_mutex_lock(&mutex);
    struct connection **link = &connections;
    while (*link != connection)
        link = &(*link)->next;
    *link = connection->next;
    count--;
    close(connection->lines.fd);
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&mutex);
    free(connection);
    return NULL;
}

static void evict(struct connection *connection)
{
    connection->evicted = true;
    shutdown(connection->lines.fd, SHUT_RDWR);
}

/* What is there to be read: more than 0 is a request, 0 is the end of a client that left, less is nothing. */
static ssize_t look_at(const struct connection *connection)
{
    char next;
    return recv(connection->lines.fd, &next, 1, MSG_PEEK | MSG_DONTWAIT);
}

/*
 * With the mutex held: make place for one more, if need be by ending a connection: of a client that left, or else the
 * one that has been idle longest.
 */
static bool make_place(void)
{
    struct connection *left = NULL, *idle = NULL;
    unsigned staying = 0;
    for (struct connection *other = connections; other; other = other->next) {
        staying += !other->evicted;
        ssize_t waiting = other->busy || other->evicted ? 1 : look_at(other);
        if (waiting == 0)
            left = other;
        if (waiting < 0 && (!idle || other->idle_since <= idle->idle_since))
            idle = other;
    }
    if (staying < CONNECTIONS_MAX)
        return count < 2 * CONNECTIONS_MAX; /* evicted connections are about to end */
    if (left || idle)
        evict(left ? left : idle);
    return (left || idle) && count < 2 * CONNECTIONS_MAX;
}

/* With the mutex held: make place for one more, and wait for it up to PLACE_LIMIT_S. */
static bool wait_for_place(void)
{
    struct timespec deadline;
    clock_gettime(CLOCK_MONOTONIC, &deadline);
    deadline.tv_sec += PLACE_LIMIT_S;
    int result = 0;
    bool placed;
    while (!(placed = make_place()) && !result)
        result = pthread_cond_clockwait(&changed, &mutex, CLOCK_MONOTONIC, &deadline);
    return placed;
}

static int start_thread(pthread_t *thread, bool detached, void *(*run)(void *), void *context)
{
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    pthread_attr_setdetachstate(&attributes, detached ? PTHREAD_CREATE_DETACHED : PTHREAD_CREATE_JOINABLE);
    int result = pthread_create(thread, &attributes, run, context);
    pthread_attr_destroy(&attributes);
    return -result;
}

/* With the mutex held: begin a connection. Returns 0, or why there is none. */
static int begin_connection(int fd)
{
    if (!wait_for_place())
        return -EAGAIN;
    struct connection *connection = calloc(1, sizeof *connection);
    if (!connection)
        return -ENOMEM;
    connection->lines.fd = fd;
    connection->idle_since = host_now_ms();
    pthread_t thread;
    int result = start_thread(&thread, true, serve, connection);
    if (result) {
        free(connection);
        return result;
    }
    connection->next = connections;
    connections = connection;
    count++;
    return 0;
}

/* Is the peer a process of this user or of root? */
static bool is_trusted(int fd)
{
    struct ucred peer;
    socklen_t length = sizeof peer;
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 && (peer.uid == geteuid() || peer.uid == 0);
}

static void accept_one(void)
{
    int fd = accept4(listening, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0)
        return;
    struct timeval limit = {HOST_LINE_LIMIT_MS / 1000, 0};
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    int result = -EACCES;
    if (is_trusted(fd)) {
        pthread_mutex_lock(&mutex);
        result = begin_connection(fd);
        pthread_mutex_unlock(&mutex);
    }
    if (result) {
        host_reply(fd, "ERR %d %s", -result,
                   result == -EAGAIN ? "too many connections are at work" : strerrordesc_np(-result));
        close(fd);
    }
}

static void renew_name(void);

static void *accept_all(void *context)
{
    for (;;) {
        struct pollfd ready[2] = {{listening, POLLIN, 0}, {stopping, POLLIN, 0}};
        int result = poll(ready, 2, NAME_PERIOD_MS);
        if (result > 0 && ready[1].revents)
            return NULL;
        if (result > 0)
            accept_one();
        renew_name();
    }
}

/* ---- the socket ------------------------------------------------------------------------------------------------- */

/* Is there a socket of this user that no process listens on any more? Nothing else may be removed. */
static bool is_stale(void)
{
    struct stat status;
    if (lstat(address.sun_path, &status) || !S_ISSOCK(status.st_mode) || status.st_uid != geteuid())
        return false;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool stale = fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) && errno == ECONNREFUSED;
    if (fd >= 0)
        close(fd);
    return stale;
}

static int bind_private(int fd)
{
    mode_t mask = umask(0177);
    int result = bind(fd, (struct sockaddr *)&address, sizeof address) ? -errno : 0;
    umask(mask);
    if (!result && lstat(address.sun_path, &bound))
        result = -errno;
    return result;
}

int host_control_listen(const char *path, char *message)
{
    if (strlen(path) >= sizeof address.sun_path) {
        snprintf(message, HOST_MESSAGE, "control socket %.200s: a path of at most %zu bytes is needed", path,
                 sizeof address.sun_path - 1);
        return -ENAMETOOLONG;
    }
    strcpy(address.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int result = fd < 0 ? -errno : bind_private(fd);
    if (result == -EADDRINUSE && is_stale() && unlink(path) == 0)
        result = bind_private(fd);
    if (!result && listen(fd, 64))
        result = -errno;
    if (result) {
        snprintf(message, HOST_MESSAGE, "control socket %s: %s%s", path, strerrordesc_np(-result),
                 result == -EADDRINUSE ? "; stop the process that listens there, or, if that is no socket, move it away"
                                       : "");
        if (fd >= 0)
            close(fd);
        return result;
    }
    listening = fd;
    return 0;
}

/* Called by the acceptor, which alone uses the socket by then. What cannot be done is tried again. */
static void renew_name(void)
{
    struct stat status;
    if (lstat(address.sun_path, &status) == 0 || errno != ENOENT)
        return;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    if (bind_private(fd) || listen(fd, 64)) {
        close(fd);
        return;
    }
    close(listening);
    listening = fd;
}

int host_control_start(void (*quit)(void), char *message)
{
    when_quit = quit;
    stopping = eventfd(0, EFD_CLOEXEC);
    int result = stopping < 0 ? -errno : start_thread(&acceptor, false, accept_all, NULL);
    accepting = result == 0;
    if (result)
        snprintf(message, HOST_MESSAGE, "control socket: %s", strerrordesc_np(-result));
    return result;
}

static void end_connections(void)
{
    pthread_mutex_lock(&mutex);
    for (struct connection *connection = connections; connection; connection = connection->next)
        evict(connection);
    while (count)
        pthread_cond_wait(&changed, &mutex);
    pthread_mutex_unlock(&mutex);
}

/* Remove the name, unless another socket has it by now. */
static void remove_name(void)
{
    struct stat status;
    if (lstat(address.sun_path, &status) == 0 && status.st_dev == bound.st_dev && status.st_ino == bound.st_ino)
        unlink(address.sun_path);
}

void host_control_stop(void)
{
    if (accepting) {
        eventfd_write(stopping, 1);
        pthread_join(acceptor, NULL);
        end_connections();
    }
    if (listening >= 0) {
        remove_name(); /* an open socket keeps its inode, so no other socket can have the same one */
        close(listening);
    }
    if (stopping >= 0)
        close(stopping);
    listening = stopping = -1;
    accepting = false;
}
