/* control_line.c: see control_line.h. */
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "host.h"
#include "control_line.h"

int64_t host_now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000ll + now.tv_nsec / 1000000;
}

/* ---- receiving -------------------------------------------------------------------------------------------------- */

/* Wait for more of a line, without a limit if the deadline is 0. Returns 1, 0 at the connection's end, or -ETIMEDOUT.
 */
static int receive(struct host_lines *lines, int64_t deadline_ms)
{
    struct pollfd ready = {lines->fd, POLLIN, 0};
    int64_t left = deadline_ms ? deadline_ms - host_now_ms() : -1;
    int result = deadline_ms && left <= 0 ? 0 : poll(&ready, 1, (int)left);
    if (result < 0)
        return errno == EINTR ? 1 : 0;
    if (result == 0)
        return -ETIMEDOUT;
    ssize_t got = recv(lines->fd, lines->text + lines->filled, HOST_LINE_BYTES_MAX - lines->filled, 0);
    if (got > 0)
        lines->filled += (size_t)got;
    return got > 0 || (got < 0 && errno == EINTR);
}

ssize_t host_line_take(struct host_lines *lines)
{
    int64_t deadline = 0;
    for (;;) {
        char *end = memchr(lines->text, '\n', lines->filled);
        if (end) {
            *end = 0;
            return end + 1 - lines->text;
        }
        if (lines->filled == HOST_LINE_BYTES_MAX)
            return -EMSGSIZE;
        if (lines->filled && !deadline)
            deadline = host_now_ms() + HOST_LINE_LIMIT_MS;
        int result = receive(lines, deadline);
        if (result <= 0)
            return result;
    }
}

void host_line_drop(struct host_lines *lines, size_t length)
{
    lines->filled -= length;
    memmove(lines->text, lines->text + length, lines->filled);
}

/* ---- sending ---------------------------------------------------------------------------------------------------- */

bool host_send(int fd, const char *text, size_t length)
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

bool host_reply(int fd, const char *format, ...)
{
    char text[HOST_MESSAGE + 128];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text, sizeof text - 1, format, arguments);
    va_end(arguments);
    if (length < 0 || length > (int)sizeof text - 2)
        length = (int)sizeof text - 2;
    text[length] = '\n';
    return host_send(fd, text, (size_t)length + 1);
}

void host_refuse_line(int fd, const char *what)
{
    host_reply(fd, "ERR %d %s", EINVAL, what);
}
