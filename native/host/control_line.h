/* control_line.h: lines on the control socket: the client's are received, replies are sent. */
#ifndef JETDR_HOST_CONTROL_LINE_H
#define JETDR_HOST_CONTROL_LINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define HOST_LINE_BYTES_MAX 8192
#define HOST_LINE_LIMIT_MS 5000 /* for a line that has begun */

/* What one connection has received: the line that is being obeyed, and then what came after it. */
struct host_lines {
    int fd;
    size_t filled;
    char text[HOST_LINE_BYTES_MAX];
};

int64_t host_now_ms(void);

/*
 * Receive until the text begins with a whole line. Its end becomes a NUL. Returns the length including the NUL, 0 at
 * the end of the connection, -EMSGSIZE for a line that is too long, or -ETIMEDOUT.
 */
ssize_t host_line_take(struct host_lines *lines);
/* Drop the first `length` bytes. */
void host_line_drop(struct host_lines *lines, size_t length);

/* Send all of the text. False if the client is gone or does not take it. */
bool host_send(int fd, const char *text, size_t length);
/* Send one line. False as above. */
__attribute__((format(printf, 2, 3))) bool host_reply(int fd, const char *format, ...);
/* Reply that this is no command. The caller then ends the connection. */
void host_refuse_line(int fd, const char *what);

#endif
