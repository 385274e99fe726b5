/*
 * host_control.c: the control socket: lines of text, docs/formats/host-control.md.
 *
 * Invariants: a thread a connection, so that a command that waits, or a client that hangs, blocks nobody else; a line that
 * has begun must be complete, and a reply taken, within a limit; when there are too many connections, the one that has
 * been idle longest goes. The mutex is held for the list of connections only.
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdarg.h>
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

#define LINE_BYTES_MAX 8192
#define LINE_LIMIT_MS 5000
#define CONNECTIONS_MAX 32
#define STACK_BYTES (512u << 10)

struct connection {
    int fd;
    bool busy, evicted;  /* guarded by the mutex */
    int64_t idle_since;  /* likewise */
    size_t filled;
    char line[LINE_BYTES_MAX]; /* what was received, of which the first line is at work */
    struct connection *next;
};

static struct sockaddr_un address = {.sun_family = AF_UNIX};
static int listening = -1, stopping = -1; /* the socket; an eventfd that is readable once all is to end */
static pthread_t acceptor;
static bool accepting;
static void (*when_quit)(void);

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t ended = PTHREAD_COND_INITIALIZER;
static struct connection *connections;
static unsigned count;
static bool quitting;

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000ll + now.tv_nsec / 1000000;
}

/* ---- lines -------------------------------------------------------------------------------------------------------- */

/* False when the client is gone, or does not take the reply. */
static bool send_all(int fd, const char *text, size_t length)
{
    while (length) {
        ssize_t put = send(fd, text, length, MSG_NOSIGNAL);
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            return false;
        text += put;
        length -= (size_t)put;
    }
    return true;
}

__attribute__((format(printf, 2, 3))) static bool reply(int fd, const char *format, ...)
{
    char text[HOST_MESSAGE + 128];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text, sizeof text - 1, format, arguments);
    va_end(arguments);
    if (length < 0 || length > (int)sizeof text - 2)
        length = (int)sizeof text - 2;
    text[length] = '\n';
    return send_all(fd, text, (size_t)length + 1);
}

/* Wait for more of a line: 1, 0 at the end of the connection, -ETIMEDOUT. Without a deadline as long as it takes. */
static int receive(struct connection *connection, int64_t deadline_ms)
{
    struct pollfd ready = {connection->fd, POLLIN, 0};
    int64_t left = deadline_ms ? deadline_ms - now_ms() : -1;
    int result = deadline_ms && left <= 0 ? 0 : poll(&ready, 1, (int)left);
    if (result < 0)
        return errno == EINTR ? 1 : 0;
    if (result == 0)
        return -ETIMEDOUT;
    ssize_t got = recv(connection->fd, connection->line + connection->filled, LINE_BYTES_MAX - connection->filled, 0);
    if (got > 0)
        connection->filled += (size_t)got;
    return got > 0 || (got < 0 && errno == EINTR);
}

/* Length of the line with its end, which becomes a NUL; 0 at the end of the connection; -EMSGSIZE, -ETIMEDOUT. */
static ssize_t read_line(struct connection *connection)
{
    int64_t deadline = 0;
    for (;;) {
        char *end = memchr(connection->line, '\n', connection->filled);
        if (end) {
            *end = 0;
            return end + 1 - connection->line;
        }
        if (connection->filled == LINE_BYTES_MAX)
            return -EMSGSIZE;
        if (connection->filled && !deadline)
            deadline = now_ms() + LINE_LIMIT_MS;
        int result = receive(connection, deadline);
        if (result <= 0)
            return result;
    }
}

/* ---- words of a line ---------------------------------------------------------------------------------------------- */

/* The next word, ended by one space or the line's end; NULL: none. */
static char *take_word(char **rest)
{
    char *word = *rest;
    if (!word || !*word || *word == ' ')
        return NULL;
    char *space = strchr(word, ' ');
    *rest = space ? space + 1 : NULL;
    if (space)
        *space = 0;
    return word;
}

static bool take_number(char **rest, uint64_t max, uint64_t *number)
{
    char *word = take_word(rest);
    if (!word || strspn(word, "0123456789") != strlen(word) || strlen(word) > 19)
        return false;
    *number = strtoull(word, NULL, 10);
    return *number <= max;
}

static bool take_text(char *target, size_t size, const char *text)
{
    if (!text || !*text || strlen(text) >= size)
        return false;
    strcpy(target, text);
    return true;
}

static bool at_end(const char *rest)
{
    return rest == NULL;
}

/* ---- commands: false ends the connection -------------------------------------------------------------------------- */

static bool answer(int fd, int result, const char *message)
{
    return result < 0 ? reply(fd, "ERR %d %s", -result, message) : reply(fd, "OK");
}

static bool garbage(int fd, const char *what)
{
    reply(fd, "ERR %d %s", EINVAL, what);
    return false;
}

static bool do_hello(int fd, char *rest)
{
    return at_end(rest) ? reply(fd, "OK jetdr-host 1 %d", (int)getpid()) : garbage(fd, "HELLO takes nothing");
}

static bool do_add(int fd, char *rest)
{
    struct host_disk_spec spec = {0};
    char message[HOST_MESSAGE] = "";
    uint64_t number;
    if (!take_number(&rest, UINT32_MAX, &number) || !take_number(&rest, INT64_MAX, &spec.size_bytes) ||
        !take_number(&rest, INT64_MAX, &spec.write_bytes_max) || !take_text(spec.name, sizeof spec.name, take_word(&rest)) ||
        !take_text(spec.path, sizeof spec.path, rest))
        return garbage(fd, "ADD takes NUMBER SIZE WRITE_BYTES_MAX NAME PATH");
    spec.number = (uint32_t)number;
    return answer(fd, host_disks_add(&spec, message), message);
}

static bool do_remove(int fd, char *rest)
{
    char message[HOST_MESSAGE] = "";
    uint64_t number;
    if (!take_number(&rest, UINT32_MAX, &number) || !at_end(rest))
        return garbage(fd, "REMOVE takes NUMBER");
    return answer(fd, host_disks_remove((uint32_t)number, message), message);
}

static bool do_trust(int fd, char *rest)
{
    char message[HOST_MESSAGE] = "";
    uint64_t number;
    if (!take_number(&rest, UINT32_MAX, &number) || !at_end(rest))
        return garbage(fd, "TRUST takes NUMBER");
    return answer(fd, host_disks_trust((uint32_t)number, message), message);
}

/* The wire's error of a copy: any of the primary's is EIO, as 7, 110 and 125 have meanings of their own. */
static bool answer_failed_copy(int fd, int64_t result, const char *message)
{
    if (-result & JDR_PRIMARY)
        return reply(fd, "ERR %d %s: the primary failed: %s", EIO, message, strerrordesc_np((int)(-result & JDR_ERRNO_MAX)));
    int error = result == -EBUSY ? ETIMEDOUT : (int)-result; /* the disk's own share of the ring is taken: a stall, too */
    return reply(fd, "ERR %d %s: %s", error, message, error > JDR_ERRNO_MAX ? "the domain is another's" : strerrordesc_np(error));
}

static bool do_copy(int fd, char *rest)
{
    char message[HOST_MESSAGE] = "";
    uint64_t number, offset, length;
    if (!take_number(&rest, UINT32_MAX, &number) || !take_number(&rest, INT64_MAX, &offset) ||
        !take_number(&rest, INT64_MAX, &length) || !at_end(rest))
        return garbage(fd, "COPY takes NUMBER OFFSET LENGTH");
    int64_t lsn = host_disks_copy((uint32_t)number, offset, length, message);
    return lsn < 0 ? answer_failed_copy(fd, lsn, message) : reply(fd, "OK %" PRId64, lsn);
}

static void print_stats(void *context, struct host_disk *disk)
{
    struct jdr_filter_stats stats = {0};
    jdr_filter_stats(disk->filter, &stats);
#define WORD(name) {#name, stats.name}
    const struct { const char *name; uint64_t value; } words[] = {
        WORD(writes), WORD(write_bytes), WORD(zeros), WORD(zero_bytes), WORD(reads), WORD(read_bytes), WORD(flushes),
        WORD(background_bytes), WORD(overlaps_waited), WORD(stalls), WORD(stall_ns), WORD(stall_ns_max), WORD(failed_writes),
        WORD(unlogged_writes), WORD(unlogged_bytes), WORD(suspect), {"sync_failed", (uint64_t)stats.sync_failed},
    };
#undef WORD
    fprintf(context, "%" PRIu32 " %s", disk->spec.number, disk->spec.name);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        fprintf(context, " %s=%" PRIu64, words[i].name, words[i].value);
    fputc('\n', context);
}

static bool do_stats(int fd, char *rest)
{
    char *text = NULL;
    size_t length = 0;
    if (!at_end(rest))
        return garbage(fd, "STATS takes nothing");
    FILE *stream = open_memstream(&text, &length);
    if (!stream)
        return reply(fd, "ERR %d out of memory", ENOMEM);
    unsigned disks = host_disks_each(print_stats, stream);
    bool whole = fclose(stream) == 0;
    bool sent = whole ? reply(fd, "OK %u", disks) && send_all(fd, text, length) : reply(fd, "ERR %d out of memory", ENOMEM);
    free(text);
    return sent;
}

static bool do_quit(int fd, char *rest)
{
    if (!at_end(rest))
        return garbage(fd, "QUIT takes nothing");
    pthread_mutex_lock(&mutex);
    bool first = !quitting;
    quitting = true;
    pthread_mutex_unlock(&mutex);
    reply(fd, "OK");
    if (first)
        when_quit();
    return false;
}

static bool obey(int fd, char *line, size_t length)
{
    static const struct { const char *word; bool (*run)(int fd, char *rest); } commands[] = {
        {"HELLO", do_hello}, {"ADD", do_add},     {"REMOVE", do_remove}, {"COPY", do_copy},
        {"TRUST", do_trust}, {"STATS", do_stats}, {"QUIT", do_quit},
    };
    char *rest = line, *word = strlen(line) == length ? take_word(&rest) : NULL;
    for (size_t i = 0; word && i < sizeof commands / sizeof *commands; i++)
        if (!strcmp(word, commands[i].word))
            return commands[i].run(fd, rest);
    return garbage(fd, "not a command: HELLO, ADD, REMOVE, COPY, TRUST, STATS, QUIT");
}

/* ---- connections -------------------------------------------------------------------------------------------------- */

/* False when the connection is to end. */
static bool set_busy(struct connection *connection, bool busy)
{
    pthread_mutex_lock(&mutex);
    connection->busy = busy;
    connection->idle_since = now_ms();
    bool goes_on = !connection->evicted;
    pthread_mutex_unlock(&mutex);
    return goes_on;
}

static void converse(struct connection *connection)
{
    for (;;) {
        ssize_t length = read_line(connection);
        if (length == -EMSGSIZE)
            garbage(connection->fd, "the line is longer than 8192 bytes");
        if (length == -ETIMEDOUT)
            garbage(connection->fd, "the line was not complete within 5 s");
        if (length <= 0 || !set_busy(connection, true) || !obey(connection->fd, connection->line, (size_t)length - 1) ||
            !set_busy(connection, false))
            return;
        connection->filled -= (size_t)length;
        memmove(connection->line, connection->line + length, connection->filled);
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
    close(connection->fd);
    pthread_cond_broadcast(&ended);
    pthread_mutex_unlock(&mutex);
    free(connection);
    return NULL;
}

static void evict(struct connection *connection)
{
    connection->evicted = true;
    shutdown(connection->fd, SHUT_RDWR);
}

/* With the mutex held: is there a place for one more? The connection that is idle longest makes it. */
static bool make_place(void)
{
    struct connection *idle = NULL;
    unsigned staying = 0;
    for (struct connection *other = connections; other; other = other->next) {
        staying += !other->evicted;
        if (!other->busy && !other->evicted && (!idle || other->idle_since <= idle->idle_since))
            idle = other;
    }
    if (staying < CONNECTIONS_MAX)
        return count < 2 * CONNECTIONS_MAX; /* those that were evicted are about to end */
    if (idle)
        evict(idle);
    return idle && count < 2 * CONNECTIONS_MAX;
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

/* With the mutex held: 0, or why there is no connection. */
static int begin_connection(int fd)
{
    if (!make_place())
        return -EAGAIN;
    struct connection *connection = calloc(1, sizeof *connection);
    if (!connection)
        return -ENOMEM;
    connection->fd = fd;
    connection->idle_since = now_ms();
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

/* This user's processes, and root's. */
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
    struct timeval limit = {LINE_LIMIT_MS / 1000, 0};
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    int result = -EACCES;
    if (is_trusted(fd)) {
        pthread_mutex_lock(&mutex);
        result = begin_connection(fd);
        pthread_mutex_unlock(&mutex);
    }
    if (result) {
        reply(fd, "ERR %d %s", -result, result == -EAGAIN ? "too many connections are at work" : strerrordesc_np(-result));
        close(fd);
    }
}

static void *accept_all(void *context)
{
    struct pollfd ready[2] = {{listening, POLLIN, 0}, {stopping, POLLIN, 0}};
    for (;;) {
        int result = poll(ready, 2, -1);
        if (result > 0 && ready[1].revents)
            return NULL;
        if (result > 0)
            accept_one();
    }
}

/* ---- the socket --------------------------------------------------------------------------------------------------- */

/* Does nobody listen there any more? */
static bool is_stale(void)
{
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
    return result;
}

int host_control_listen(const char *path, char *message)
{
    if (strlen(path) >= sizeof address.sun_path) {
        snprintf(message, HOST_MESSAGE, "control socket %.200s: a path of at most %zu bytes is needed", path, sizeof address.sun_path - 1);
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
        snprintf(message, HOST_MESSAGE, "control socket %s: %s", path, strerrordesc_np(-result));
        if (fd >= 0)
            close(fd);
        return result;
    }
    listening = fd;
    return 0;
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
        pthread_cond_wait(&ended, &mutex);
    pthread_mutex_unlock(&mutex);
}

void host_control_stop(void)
{
    if (accepting) {
        eventfd_write(stopping, 1);
        pthread_join(acceptor, NULL);
        end_connections();
    }
    if (listening >= 0) {
        unlink(address.sun_path);
        close(listening);
    }
    if (stopping >= 0)
        close(stopping);
    listening = stopping = -1;
    accepting = false;
}
