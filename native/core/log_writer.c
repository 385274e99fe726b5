/*
 * log_writer.c: the commit loop. It takes published records out of the ring in LSN order and writes them, one batch per
 * commit, to a section of the log volume. docs/formats/log-volume.md has the offset table of a batch.
 *
 * Invariants: one thread at a time is in a commit (`role`). Payload goes straight from the ring's memory to the device.
 * A batch counts as durable only after a sync that began after its write returned. After the first error of the device
 * the ring is poisoned and nothing more is written. Only space before the tail is overwritten.
 */
#include <stdlib.h>
#include <string.h>

#include "ring_shared.h"

#include "checksum.h"

#define BATCH_MAGIC 0x42524A4Cu /* "LJRB" */
#define BATCH_VERSION 1
#define BATCH_WRAP 1u
#define NAP_NS 1000000ll /* while busy: collect for at most this long */
#define NAPS_BEFORE_SLEEP 64
#define SLEEP_NS 1000000000ll

struct batch_header {
    uint32_t magic;
    uint16_t version, flags;
    uint64_t section_id, epoch, batch_number, first_lsn;
    uint32_t record_count, header_bytes;
    uint64_t payload_bytes, previous_checksum, durable_batch, position, records_checksum;
    uint64_t reserved[4];
    uint64_t checksum;
};
_Static_assert(sizeof(struct batch_header) == 128, "the batch header is a fixed 128 bytes");

#define HEADER_AREA_MAX \
    (JDR_BLOCK * (1 + (sizeof(struct batch_header) + JDR_BATCH_RECORDS_MAX * sizeof(struct jdr_record)) / JDR_BLOCK))

struct jdr_writer {
    jdr_ring *ring;
    struct jdr_device device;
    uint64_t data_offset, data_bytes, section_id, epoch, batch_bytes_max;
    _Atomic uint64_t tail_position;
    _Atomic bool stopping;
    _Atomic uint64_t stop_lsn; /* the last LSN given out when the stop was asked for */
    pthread_mutex_t role;
    pthread_mutex_t state_mutex;
    struct jdr_writer_state state;
    uint64_t unsynced_bytes;
    bool full;       /* the last commit found a record, but no room for it in the log */
    uint8_t *header; /* HEADER_AREA_MAX, then a block of zeros for padding */
};

/* What one commit takes out of the ring. */
struct take {
    uint64_t first_lsn, position, payload_bytes; /* the payload's place in the ring, and its length */
    uint32_t count;
};

static uint64_t round_up(uint64_t value, uint64_t unit)
{
    return (value + unit - 1) / unit * unit;
}

static uint64_t header_bytes(uint64_t records)
{
    return round_up(sizeof(struct batch_header) + records * sizeof(struct jdr_record), JDR_BLOCK);
}

static uint64_t batch_bytes(uint64_t records, uint64_t payload_bytes)
{
    return header_bytes(records) + round_up(payload_bytes, JDR_BLOCK);
}

/*
 * A record has at most a quarter of the data area. The ring's limit is lowered to that. A limit that its owner chose is
 * refused instead.
 */
static bool takes_records_of(jdr_ring *ring, uint64_t data_bytes)
{
    uint64_t quarter = data_bytes / 4 / JDR_BLOCK * JDR_BLOCK;
    if (jdr_ring_record_bytes_max(ring) <= quarter)
        return true;
    if (ring->record_bytes_given)
        return false;
    atomic_store(&ring->shared->record_bytes_max, quarter);
    return true;
}

int jdr_writer_create(jdr_writer **out, const struct jdr_writer_options *options)
{
    if (options->data_offset % JDR_BLOCK || options->data_bytes % JDR_BLOCK || options->head_position % JDR_BLOCK ||
        options->tail_position % JDR_BLOCK || options->tail_position > options->head_position ||
        options->head_position - options->tail_position > options->data_bytes || options->data_bytes < 16 * JDR_BLOCK ||
        options->batch_bytes_max < JDR_BLOCK || options->batch_bytes_max > JDR_BATCH_BYTES_MAX ||
        options->device.block_bytes > JDR_BLOCK || !takes_records_of(options->ring, options->data_bytes))
        return -EINVAL;
    jdr_writer *writer = calloc(1, sizeof *writer);
    if (!writer)
        return -ENOMEM;
    if (posix_memalign((void **)&writer->header, JDR_BLOCK, HEADER_AREA_MAX + JDR_BLOCK)) {
        free(writer);
        return -ENOMEM;
    }
    memset(writer->header, 0, HEADER_AREA_MAX + JDR_BLOCK);
    writer->ring = options->ring;
    writer->device = options->device;
    writer->data_offset = options->data_offset;
    writer->data_bytes = options->data_bytes;
    writer->section_id = options->section_id;
    writer->epoch = options->epoch;
    writer->batch_bytes_max = options->batch_bytes_max;
    writer->tail_position = options->tail_position;
    atomic_store(&options->ring->shared->log_full, 0);
    pthread_mutex_init(&writer->role, NULL);
    pthread_mutex_init(&writer->state_mutex, NULL);
    uint64_t lsn = jdr_ring_lsn_durable(options->ring);
    writer->state = (struct jdr_writer_state){
        .lsn_written = lsn,
        .lsn_durable = lsn,
        .batch_written = options->batch_number,
        .batch_durable = options->batch_number,
        .head_position = options->head_position,
        .durable_position = options->head_position,
        .previous_checksum = options->previous_checksum,
    };
    *out = writer;
    return 0;
}

void jdr_writer_destroy(jdr_writer *writer)
{
    if (!writer)
        return;
    pthread_mutex_destroy(&writer->role);
    pthread_mutex_destroy(&writer->state_mutex);
    free(writer->header);
    free(writer);
}

/* ---- taking from the ring --------------------------------------------------------------------------------------- */

/*
 * Take published records, in order, as many as fit into `room` bytes of log and one batch. Their payloads lie back to
 * back. A void record leaves unused payload after it, so it ends the batch.
 */
static int take_published(const jdr_writer *writer, uint64_t room, struct take *take)
{
    const jdr_ring *ring = writer->ring;
    uint64_t last = writer->state.lsn_written;
    *take = (struct take){.first_lsn = last + 1, .position = jdr_end(ring, last)};
    bool whole = false;
    while (!whole && take->count < JDR_BATCH_RECORDS_MAX && jdr_published(ring, last + 1)) {
        const struct jdr_record *slot = jdr_slot(ring, ++last);
        uint64_t payload_bytes = take->payload_bytes + slot->payload_bytes;
        if (!jdr_is_sound(ring, last, slot) || payload_bytes > ring->payload_bytes)
            return -EBADMSG;
        if (batch_bytes(take->count + 1, payload_bytes) > room ||
            (take->count && payload_bytes > writer->batch_bytes_max))
            break;
        take->payload_bytes = payload_bytes;
        take->count++;
        whole = slot->kind == JDR_VOID;
    }
    return 0;
}

/* ---- writing ---------------------------------------------------------------------------------------------------- */

/* Fill the header area for a batch at the head. Returns the checksum of the batch. */
static uint64_t fill_header(jdr_writer *writer, const struct take *take, uint16_t flags)
{
    struct batch_header *header = (struct batch_header *)writer->header;
    struct jdr_record *records = (struct jdr_record *)(header + 1);
    uint64_t area = header_bytes(take->count);
    for (uint32_t i = 0; i < take->count; i++) {
        records[i] = *jdr_slot(writer->ring, take->first_lsn + i);
        memset(records[i].reserved, 0, sizeof records[i].reserved); /* they hold the claim, which only the ring uses */
    }
    memset(records + take->count, 0, writer->header + area - (uint8_t *)(records + take->count));
    *header = (struct batch_header){
        .magic = BATCH_MAGIC,
        .version = BATCH_VERSION,
        .flags = flags,
        .section_id = writer->section_id,
        .epoch = writer->epoch,
        .batch_number = writer->state.batch_written + 1,
        .first_lsn = take->first_lsn,
        .record_count = take->count,
        .header_bytes = (uint32_t)area,
        .payload_bytes = take->payload_bytes,
        .previous_checksum = writer->state.previous_checksum,
        .durable_batch = writer->state.batch_durable,
        .position = writer->state.head_position,
        .records_checksum = jdr_checksum(records, take->count * sizeof *records),
    };
    header->checksum = jdr_checksum(header, offsetof(struct batch_header, checksum));
    return header->checksum;
}

/* The payload as one piece, or as two around the end of the ring, and its padding. Returns the number of pieces. */
static int payload_pieces(const jdr_writer *writer, const struct take *take, struct iovec *pieces)
{
    uint64_t padding = round_up(take->payload_bytes, JDR_BLOCK) - take->payload_bytes;
    int count = jdr_payload_pieces(writer->ring, take->position, take->payload_bytes, pieces);
    if (padding)
        pieces[count++] = (struct iovec){writer->header + HEADER_AREA_MAX, padding};
    return count;
}

/* Write one batch at the head, and move the head to `next_position`. */
static int write_batch(jdr_writer *writer, const struct take *take, uint16_t flags, uint64_t next_position)
{
    uint64_t checksum = fill_header(writer, take, flags);
    struct iovec pieces[4] = {{writer->header, header_bytes(take->count)}};
    int count = payload_pieces(writer, take, pieces + 1);
    uint64_t physical = writer->data_offset + writer->state.head_position % writer->data_bytes;
    int result = writer->device.write(&writer->device, physical, pieces, 1 + count);
    if (result)
        return result;
    uint64_t length = batch_bytes(take->count, take->payload_bytes);
    writer->unsynced_bytes += length;
    pthread_mutex_lock(&writer->state_mutex);
    writer->state.lsn_written += take->count;
    writer->state.batch_written++;
    writer->state.previous_checksum = checksum;
    writer->state.head_position = next_position;
    writer->state.bytes_written += length;
    writer->state.commits++;
    pthread_mutex_unlock(&writer->state_mutex);
    atomic_store(&writer->ring->shared->lsn_written, writer->state.lsn_written);
    if (!jdr_ring_in_file(writer->ring)) /* a ring in a file outlives us, and keeps what the log has not made durable */
        jdr_release(writer->ring, &writer->ring->shared->lsn_released, writer->state.lsn_written);
    return 0;
}

static int sync_log(jdr_writer *writer)
{
    int result = writer->device.sync(&writer->device);
    if (result)
        return result;
    writer->unsynced_bytes = 0;
    pthread_mutex_lock(&writer->state_mutex);
    writer->state.lsn_durable = writer->state.lsn_written;
    writer->state.batch_durable = writer->state.batch_written;
    writer->state.durable_position = writer->state.head_position;
    writer->state.flushes++;
    pthread_mutex_unlock(&writer->state_mutex);
    atomic_store(&writer->ring->shared->lsn_durable, writer->state.lsn_written);
    if (jdr_ring_in_file(writer->ring))
        jdr_release(writer->ring, &writer->ring->shared->lsn_released, writer->state.lsn_written);
    jdr_futex_wake(&writer->ring->shared->durable_seq);
    return 0;
}

/* ---- one commit ------------------------------------------------------------------------------------------------- */

/*
 * Write as much as fits before the end of the data area. If not even the next record fits there, a WRAP batch closes
 * the lap, and the next lap begins. Returns the records written: 0 if nothing is published or, with `full`, there is no
 * room.
 */
static int write_published(jdr_writer *writer)
{
    uint64_t head = writer->state.head_position;
    uint64_t limit = atomic_load(&writer->tail_position) + writer->data_bytes;
    uint64_t lap_end = (head / writer->data_bytes + 1) * writer->data_bytes;
    writer->full = false;
    if (!jdr_published(writer->ring, writer->state.lsn_written + 1))
        return 0;
    struct take take, after = {0};
    int result = take_published(writer, (limit < lap_end ? limit : lap_end) - head, &take);
    if (!result && !take.count) {
        if (limit > lap_end)
            result = take_published(writer, limit - lap_end, &after);
        writer->full = !result && !after.count;
        if (result || writer->full || (result = write_batch(writer, &take, BATCH_WRAP, lap_end)))
            return result;
        take = after;
    }
    if (!result)
        result = write_batch(writer, &take, 0,
                             writer->state.head_position + batch_bytes(take.count, take.payload_bytes));
    return result ? result : (int)take.count;
}

/* Is room wanted in the ring, now or soon, that only a flush gives back? */
static bool room_wanted(const jdr_writer *writer)
{
    const jdr_ring *ring = writer->ring;
    if (!jdr_ring_in_file(ring))
        return false;
    return jdr_queued(ring) || writer->state.lsn_written - writer->state.lsn_durable >= ring->slot_count / 4 ||
           writer->unsynced_bytes >= ring->payload_bytes / 4;
}

/*
 * Is a flush due? A flush request waits until its records are written. If the log has no room for them, flush what is
 * there, so that it can be uploaded and its space reused.
 */
static bool sync_due(const jdr_writer *writer, uint64_t wanted, int written)
{
    if (!writer->unsynced_bytes)
        return false;
    bool asked = wanted > writer->state.lsn_durable && (writer->state.lsn_written >= wanted || !written);
    return asked || writer->full || writer->unsynced_bytes >= JDR_UNSYNCED_BYTES_MAX || room_wanted(writer);
}

/* The device failed. Nothing more is written, and every producer gets the error. */
static int fail(jdr_writer *writer, int result)
{
    pthread_mutex_lock(&writer->state_mutex);
    writer->state.failed = -result;
    pthread_mutex_unlock(&writer->state_mutex);
    jdr_ring_poison(writer->ring, -result);
    return result;
}

/* Guests that wait for a full log pay for it. */
static void tell_full(const jdr_writer *writer)
{
    _Atomic uint32_t *told = &writer->ring->shared->log_full;
    if (atomic_load_explicit(told, memory_order_relaxed) != writer->full)
        atomic_store(told, writer->full);
}

static int commit_in_role(jdr_writer *writer)
{
    int poison = jdr_ring_poisoned(writer->ring);
    if (poison)
        return -poison;
    uint64_t wanted = atomic_load(
        &writer->ring->shared->sync_wanted); /* before the write: a later request waits for the next commit */
    int written = write_published(writer);
    tell_full(writer);
    if (written < 0)
        return fail(writer, written);
    int result = sync_due(writer, wanted, written) ? sync_log(writer) : 0;
    return result ? fail(writer, result) : written;
}

int jdr_writer_commit(jdr_writer *writer)
{
    pthread_mutex_lock(&writer->role);
    int result = commit_in_role(writer);
    pthread_mutex_unlock(&writer->role);
    return result;
}

/* ---- the loop --------------------------------------------------------------------------------------------------- */

/* Could a commit write something? An abandoned record that is next is made void. */
static bool can_write(jdr_writer *writer)
{
    pthread_mutex_lock(&writer->role);
    uint64_t next = writer->state.lsn_written + 1;
    bool can = !writer->full && (jdr_published(writer->ring, next) || jdr_ring_void_abandoned(writer->ring, next));
    pthread_mutex_unlock(&writer->role);
    return can;
}

/* Nothing to commit: take short naps while writes are frequent, then sleep until the next write. */
static void rest(jdr_writer *writer, uint32_t seen, unsigned idle)
{
    struct jdr_ring_shared *shared = writer->ring->shared;
    bool deep = idle > NAPS_BEFORE_SLEEP;
    atomic_store(&shared->consumer_sleep, deep ? JDR_SLEEP : JDR_NAP);
    atomic_thread_fence(memory_order_seq_cst); /* say that we sleep before looking at what is published */
    if (!can_write(writer))
        jdr_futex_wait(&shared->work_seq, seen, deep ? SLEEP_NS : NAP_NS);
    atomic_store(&shared->consumer_sleep, JDR_AWAKE);
}

/* Must the records that came during the last commit be committed at once? */
static bool hurried(const jdr_writer *writer)
{
    const jdr_ring *ring = writer->ring;
    return atomic_load(&ring->shared->sync_wanted) > writer->state.lsn_durable || jdr_much_unwritten(ring) ||
           jdr_queued(ring);
}

/*
 * Let the next batch fill for a while. A few large writes to the log leave guests more of the machine than many small
 * ones.
 */
static void collect(jdr_writer *writer, uint32_t seen)
{
    struct jdr_ring_shared *shared = writer->ring->shared;
    atomic_store(&shared->consumer_sleep, JDR_NAP);
    atomic_thread_fence(memory_order_seq_cst); /* as in rest */
    if (!hurried(writer))
        jdr_futex_wait(&shared->work_seq, seen, NAP_NS);
    atomic_store(&shared->consumer_sleep, JDR_AWAKE);
}

/* The last commit: make durable what has been written. */
static int finish(jdr_writer *writer)
{
    pthread_mutex_lock(&writer->role);
    int result = -jdr_ring_poisoned(writer->ring);
    if (!result && writer->unsynced_bytes && (result = sync_log(writer)))
        fail(writer, result);
    pthread_mutex_unlock(&writer->role);
    return result;
}

static bool has_written(jdr_writer *writer, uint64_t lsn)
{
    pthread_mutex_lock(&writer->state_mutex);
    bool has = writer->state.lsn_written >= lsn;
    pthread_mutex_unlock(&writer->state_mutex);
    return has;
}

/* May a writer that is asked to stop return? Reserved records are published soon, unless their producer was stopped. */
static bool has_stopped(jdr_writer *writer, int committed, unsigned *waited)
{
    if (has_written(writer, atomic_load(&writer->stop_lsn)))
        return true;
    return !committed && (writer->full || (*waited)++ >= NAPS_BEFORE_SLEEP);
}

int jdr_writer_run(jdr_writer *writer)
{
    unsigned idle = 0, waited = 0;
    for (;;) {
        bool stopping = atomic_load(&writer->stopping);
        uint32_t seen = atomic_load(&writer->ring->shared->work_seq);
        int result = jdr_writer_commit(writer);
        if (result < 0)
            return result;
        if (stopping && has_stopped(writer, result, &waited))
            return finish(writer);
        if (!result) {
            rest(writer, seen, stopping ? 0 : idle++);
        } else {
            idle = 0;
            collect(writer, seen);
        }
    }
}

void jdr_writer_stop(jdr_writer *writer)
{
    atomic_store(&writer->stop_lsn, jdr_ring_lsn_reserved(writer->ring));
    atomic_store(&writer->stopping, true);
    jdr_futex_wake(&writer->ring->shared->work_seq);
}

int jdr_writer_set_tail(jdr_writer *writer, uint64_t position)
{
    pthread_mutex_lock(&writer->state_mutex);
    bool valid = position % JDR_BLOCK == 0 && position >= atomic_load(&writer->tail_position) &&
                 position <= writer->state.durable_position;
    if (valid)
        atomic_store(&writer->tail_position, position);
    pthread_mutex_unlock(&writer->state_mutex);
    if (!valid)
        return -EINVAL;
    jdr_futex_wake(&writer->ring->shared->work_seq);
    return 0;
}

void jdr_writer_state(jdr_writer *writer, struct jdr_writer_state *state)
{
    pthread_mutex_lock(&writer->state_mutex);
    *state = writer->state;
    pthread_mutex_unlock(&writer->state_mutex);
}
