/* commands.h: between the control socket and the commands that come over it. */
#ifndef JETDR_HOST_COMMANDS_H
#define JETDR_HOST_COMMANDS_H

#include <stdbool.h>
#include <stddef.h>

enum host_next { HOST_GO_ON, HOST_HANG_UP, HOST_QUIT };

/* Do what `line` says, which has `length` bytes and then a NUL, and reply on fd. The line is changed. */
enum host_next host_obey(int fd, char *line, size_t length);
/* Send one line; false when the client is gone or does not take it. */
__attribute__((format(printf, 2, 3))) bool host_reply(int fd, const char *format, ...);
/* Reply that the line is none; the connection is to end. */
void host_refuse_line(int fd, const char *what);

#endif
