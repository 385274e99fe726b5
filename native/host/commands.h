/* commands.h: obeys a line that came over the control socket. */
#ifndef JETDR_HOST_COMMANDS_H
#define JETDR_HOST_COMMANDS_H

#include <stdbool.h>
#include <stddef.h>

enum host_next { HOST_GO_ON, HOST_HANG_UP, HOST_QUIT };

/* Do what `line` says, and reply on fd. The line has `length` bytes and then a NUL, and is changed. */
enum host_next host_obey(int fd, char *line, size_t length);

#endif
