/*
 * pump.c: the one place where the service thread sleeps, and where libiscsi reads and writes its socket.
 *
 * Invariants: libiscsi calls back only from here and from the end of its context. A thread that submits a request or
 * closes the session ends the sleep through the eventfd. Service thread only.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "inner.h"

/* The fixed header of an iSCSI PDU (RFC 7143, 11.2.1), and the login response's (11.13). */
enum { HEADER_BYTES = 48, HEADER_OPCODE_MASK = 0x3f, OPCODE_LOGIN_RESPONSE = 0x23, LOGIN_STATUS_AT = 36 };

#define NO_EVENTS_NS (SECOND_NS / 10) /* libiscsi waits for nothing, as between two attempts to connect: look again */

/*
 * libiscsi reports nothing about a login response when the target closes the connection right after it. The response's
 * status (RFC 7143, 11.13.5) is therefore read from the socket before libiscsi takes the response off it.
 */
static void peek_login_status(jdr_iscsi *session, int fd)
{
    uint8_t header[HEADER_BYTES];
    ssize_t length = recv(fd, header, sizeof header, MSG_PEEK | MSG_DONTWAIT);
    if (length == sizeof header && (header[0] & HEADER_OPCODE_MASK) == OPCODE_LOGIN_RESPONSE)
        session->login_status = (uint16_t)(header[LOGIN_STATUS_AT] << 8 | header[LOGIN_STATUS_AT + 1]);
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
            wait_ns = NO_EVENTS_NS;
    }
    int count = poll(polled, 2, (int)((wait_ns + 999999) / 1000000));
    uint64_t seen;
    if (polled[0].revents & POLLIN && read(session->event, &seen, sizeof seen) < 0 && errno != EAGAIN)
        abort(); /* an eventfd has no other error */
    if (count <= 0 || !session->iscsi || !polled[1].revents)
        return 0;
    int events = polled[1].revents;
    if (events & POLLIN)
        events &= ~(POLLHUP | POLLERR); /* on these libiscsi would not read what came before the end */
    if (session->logging_in)
        peek_login_status(session, polled[1].fd);
    if (iscsi_service(session->iscsi, events) < 0)
        return -1;
    return events & (POLLHUP | POLLERR) ? -1 : 0;
}
