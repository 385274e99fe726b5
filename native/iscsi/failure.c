/*
 * failure.c: what went wrong last, in words and as an errno.
 *
 * Invariant: the text is printable ASCII, whatever bytes the target sent. The service thread records a failure, or the
 * opening thread before there is one. Any thread may read the copy in session->info.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#include "inner.h"

static int problem_errno(enum jdr_iscsi_problem problem)
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
        *c = *c < ' ' || *c > '~' ? ' ' : *c; /* part of the text may come from the target */
    pthread_mutex_lock(&session->mutex);
    session->info.failure = session->failure;
    pthread_mutex_unlock(&session->mutex);
    return -problem_errno(problem);
}

void jdr_iscsi_break(jdr_iscsi *session, int result)
{
    pthread_mutex_lock(&session->mutex);
    if (!session->broken)
        session->broken = -result;
    pthread_mutex_unlock(&session->mutex);
}
