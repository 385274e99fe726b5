/*
 * retained.c: copies of the writes that the target has acknowledged and no sync has covered. They may have to be
 * written again.
 *
 * An entry is made by the caller of a write. It becomes the session's when the target acknowledges the write. The
 * caller fills it while the write is in flight, so the target may acknowledge, and a sync cover, a write whose copy is
 * not yet filled.
 *
 * Invariants: the list is in the order of acknowledgement. So if one write began after another had ended, it also comes
 * later in the list. An entry is read only after its caller has filled it. It is freed by the session that drops it, or
 * by the caller if that was still filling it. The service thread owns the list. `copied`, `dropped` and the byte count
 * are under the mutex.
 */
#include <stdlib.h>
#include <string.h>

#include "inner.h"

struct retained *jdr_iscsi_retained_new(uint64_t offset, uint64_t length, bool zero)
{
    struct retained *entry = calloc(1, sizeof *entry);
    if (!entry)
        return NULL;
    entry->offset = offset;
    entry->length = length;
    entry->cost = sizeof *entry + (zero ? 0 : length);
    entry->copied = zero;
    if (!zero && !(entry->data = malloc(length))) {
        free(entry);
        return NULL;
    }
    return entry;
}

void jdr_iscsi_retained_free(struct retained *entry)
{
    if (entry)
        free(entry->data);
    free(entry);
}

void jdr_iscsi_retained_fill(jdr_iscsi *session, struct retained *entry, const struct iovec *iov, int iov_count)
{
    uint8_t *to = entry->data;
    for (int i = 0; to && i < iov_count; to += iov[i++].iov_len)
        memcpy(to, iov[i].iov_base, iov[i].iov_len);
    pthread_mutex_lock(&session->mutex);
    bool dropped = entry->dropped;
    entry->copied = true;
    pthread_cond_broadcast(&session->changed);
    pthread_mutex_unlock(&session->mutex);
    if (dropped)
        jdr_iscsi_retained_free(entry);
}

void jdr_iscsi_retained_add(jdr_iscsi *session, struct retained *entry)
{
    entry->number = ++session->retained_number;
    *session->retained_end = entry;
    session->retained_end = &entry->next;
}

void jdr_iscsi_retained_drop(jdr_iscsi *session, uint64_t number)
{
    pthread_mutex_lock(&session->mutex);
    while (session->retained && session->retained->number <= number) {
        struct retained *entry = session->retained;
        session->retained = entry->next;
        session->retained_bytes -= entry->cost;
        entry->dropped = true;
        if (entry->copied)
            jdr_iscsi_retained_free(entry);
    }
    if (!session->retained)
        session->retained_end = &session->retained;
    pthread_cond_broadcast(&session->changed);
    pthread_mutex_unlock(&session->mutex);
}

bool jdr_iscsi_replay_next(jdr_iscsi *session)
{
    struct retained *entry = session->replay_next;
    if (!entry)
        return false;
    pthread_mutex_lock(&session->mutex);
    while (!entry->copied)
        pthread_cond_wait(&session->changed, &session->mutex);
    if (entry->data)
        session->info.replayed_bytes += entry->length;
    pthread_mutex_unlock(&session->mutex);
    session->replay_next = entry->next;
    session->replay = (struct request){.kind = entry->data ? REQUEST_WRITE : REQUEST_ZERO,
                                       .offset = entry->offset,
                                       .length = entry->length};
    session->replay_iov = (struct iovec){entry->data, entry->length};
    session->replay.iov = &session->replay_iov;
    session->replay.iov_count = 1;
    return true;
}
