/*
 * connection.c: makes a connection, watches its health, and gives it up.
 *
 * Invariants: when a connection is given up, every unfinished request starts over on the next one, after the retained
 * writes. Commands that make no progress for limit_ns fail. Retained writes that cannot be written again break the
 * session. Service thread only, except that the opening thread may disconnect a session that has no service thread.
 */
#include "inner.h"

#define PING_BUSY_NS (2 * SECOND_NS) /* of silence with commands in flight: ping the target */
#define PING_IDLE_NS (15 * SECOND_NS)
#define SILENCE_NS (5 * SECOND_NS) /* with a ping unanswered: the connection is dead */
#define RECONNECT_NS (SECOND_NS / 5)
#define RECONNECT_IDLE_NS (2 * SECOND_NS)

static bool has_work(const jdr_iscsi *session)
{
    return session->active || session->retained;
}

/* An idle session that reserved the LUN reconnects too: the target may have forgotten the reservation. */
static bool wants_connection(const jdr_iscsi *session)
{
    return has_work(session) || session->options.machine;
}

void jdr_iscsi_disconnect(jdr_iscsi *session)
{
    session->lost = true;
    if (session->iscsi)
        iscsi_destroy_context(session->iscsi); /* answers every command as cancelled */
    session->iscsi = NULL;
    session->lost = session->pinged = session->replaying = session->replay_running = false;
    jdr_iscsi_start_over(session);
    if (!session->active)
        session->progress_ns = jdr_iscsi_now();
    jdr_iscsi_settle(session); /* those that failed */
}

void jdr_iscsi_give_up(jdr_iscsi *session, int result)
{
    jdr_iscsi_disconnect(session);
    for (struct request *request = session->active; request; request = request->next)
        request->result = request->result ? request->result : result;
    if (session->retained)
        jdr_iscsi_break(session, result);
    jdr_iscsi_retained_drop(session, session->retained_number);
    session->replay_failed = 0;
    jdr_iscsi_settle(session);
}

/* True if retrying cannot succeed. */
static bool is_final(enum jdr_iscsi_problem problem)
{
    return problem == JDR_ISCSI_RESERVED || problem == JDR_ISCSI_OTHER_LUN || problem == JDR_ISCSI_READ_ONLY;
}

static void reconnect(jdr_iscsi *session)
{
    int64_t now = jdr_iscsi_now();
    int64_t end = has_work(session) ? session->progress_ns + session->options.limit_ns : INT64_MAX;
    if (now < session->retry_ns)
        return;
    int64_t deadline = now + session->options.login_limit_ns;
    struct jdr_iscsi_failure before = session->failure;
    int result = jdr_iscsi_login(session, deadline < end ? deadline : end);
    if (result)
        jdr_iscsi_disconnect(session);
    now = jdr_iscsi_now();
    bool cut_short = now >= end && deadline > end;
    if (result && cut_short && before.problem) /* the previous attempt tells more */
        result = jdr_iscsi_fail(session, before.problem, "%s", before.text);
    session->retry_ns = now + (has_work(session) ? RECONNECT_NS : RECONNECT_IDLE_NS);
    if (!result) {
        session->replay_next = session->retained;
        session->replaying = session->retained != NULL;
        session->heard_ns = now;
        pthread_mutex_lock(&session->mutex);
        session->info.reconnects++;
        pthread_mutex_unlock(&session->mutex);
    } else if (now >= end || is_final(session->failure.problem))
        jdr_iscsi_give_up(session, result);
}

void jdr_iscsi_keep_connected(jdr_iscsi *session)
{
    if (session->lost)
        jdr_iscsi_disconnect(session);
    if (wants_connection(session) && !session->iscsi)
        reconnect(session);
}

static int64_t listen_ns(const jdr_iscsi *session)
{
    if (session->lost || session->replay_failed || (session->replaying && !session->replay_running))
        return 0;
    if (session->iscsi)
        return session->active || session->replaying ? ISCSI_AGAIN_NS : SECOND_NS;
    if (has_work(session))
        return RECONNECT_NS / 4;
    return session->options.machine ? RECONNECT_IDLE_NS / 2 : 3600 * SECOND_NS;
}

void jdr_iscsi_listen(jdr_iscsi *session)
{
    if (jdr_iscsi_pump(session, listen_ns(session)) < 0 && !session->lost) {
        session->lost = true;
        jdr_iscsi_fail(session, JDR_ISCSI_UNREACHABLE, "the connection was lost");
    }
}

static void on_pong(struct iscsi_context *iscsi, int status, void *data, void *private_data)
{
    jdr_iscsi *session = private_data;
    session->pinged = false;
    if (status == SCSI_STATUS_GOOD)
        session->heard_ns = jdr_iscsi_now();
    else
        session->lost = true;
}

void jdr_iscsi_check_health(jdr_iscsi *session)
{
    int64_t now = jdr_iscsi_now(), silence = now - session->heard_ns;
    if (session->replay_failed)
        jdr_iscsi_give_up(session, session->replay_failed);
    else if (session->iscsi && (session->active || session->replaying) &&
             now - session->progress_ns > session->options.limit_ns)
        jdr_iscsi_give_up(session, jdr_iscsi_fail(session, JDR_ISCSI_UNREACHABLE, "no command was answered for %.1f s",
                                                  (double)session->options.limit_ns / 1e9));
    if (!session->iscsi || session->lost)
        return;
    if (session->pinged && silence > SILENCE_NS) {
        jdr_iscsi_fail(session, JDR_ISCSI_UNREACHABLE, "the target does not answer");
        session->lost = true;
    } else if (!session->pinged && silence > (session->active ? PING_BUSY_NS : PING_IDLE_NS)) {
        session->pinged = true;
        if (iscsi_nop_out_async(session->iscsi, on_pong, NULL, 0, session))
            session->lost = true;
    }
}
