/*
 * commands.c: does what the lines on the control socket say. docs/formats/host-control.md
 *
 * Invariant: nothing is done before the whole line has been parsed.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host.h"
#include "commands.h"
#include "control_line.h"

/* ---- words of a line -------------------------------------------------------------------------------------------- */

/* Take the next word, up to one space or the end of the line. NULL if there is none. */
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

/* ---- commands: false ends the connection ------------------------------------------------------------------------ */

static bool answer(int fd, int result, const char *message)
{
    return result < 0 ? host_reply(fd, "ERR %d %s", -result, message) : host_reply(fd, "OK");
}

static bool garbage(int fd, const char *what)
{
    host_refuse_line(fd, what);
    return false;
}

static bool do_hello(int fd, char *rest)
{
    return at_end(rest) ? host_reply(fd, "OK jetdr-host 1 %d", (int)getpid()) : garbage(fd, "HELLO takes nothing");
}

static bool take_disk(char **rest, struct host_disk_spec *spec)
{
    uint64_t number;
    if (!take_number(rest, UINT32_MAX, &number) || !take_number(rest, INT64_MAX, &spec->size_bytes) ||
        !take_number(rest, INT64_MAX, &spec->record_bytes_max) ||
        !take_text(spec->name, sizeof spec->name, take_word(rest)))
        return false;
    spec->number = (uint32_t)number;
    return true;
}

static bool do_add(int fd, char *rest)
{
    struct host_disk_spec spec = {0};
    enum host_map_found found;
    char message[HOST_MESSAGE] = "";
    if (!take_disk(&rest, &spec) || !take_text(spec.path, sizeof spec.path, rest))
        return garbage(fd, "ADD takes NUMBER SIZE RECORD_BYTES_MAX NAME PATH");
    return answer(fd, host_disks_add(&spec, NULL, &found, message), message);
}

/* EPOCH.NONCE, the nonce in 32 hexadecimal digits. */
static bool take_generation(char **rest, struct jdr_generation *generation)
{
    char *word = take_word(rest), *nonce = word ? strchr(word, '.') : NULL;
    if (!nonce || strlen(nonce + 1) != 2 * sizeof generation->nonce)
        return false;
    *nonce++ = 0;
    if (strspn(nonce, "0123456789abcdef") != 2 * sizeof generation->nonce)
        return false;
    for (size_t i = 0; i < sizeof generation->nonce; i++)
        sscanf(nonce + 2 * i, "%2hhx", &generation->nonce[i]);
    return take_number(&word, INT64_MAX, &generation->epoch);
}

/* A log's section, in 16 hexadecimal digits. */
static bool take_section(char **rest, uint64_t *section_id)
{
    char *word = take_word(rest);
    if (!word || strlen(word) != 16 || strspn(word, "0123456789abcdef") != 16)
        return false;
    *section_id = strtoull(word, NULL, 16);
    return true;
}

static bool take_map(char **rest, struct host_map_spec *map)
{
    uint64_t start, time_ns;
    if (!take_number(rest, JDR_MAP_UNCERTAIN, &start) || !take_section(rest, &map->section_id) ||
        !take_number(rest, INT64_MAX, &map->timeline) || !take_generation(rest, &map->earlier) ||
        !take_generation(rest, &map->generation) || !take_number(rest, INT64_MAX, &map->log_lsn) ||
        !take_number(rest, INT64_MAX, &time_ns))
        return false;
    map->start = (enum jdr_map_start)start;
    map->log_time_ns = (int64_t)time_ns;
    return true;
}

static bool do_add_mapped(int fd, char *rest)
{
    struct host_disk_spec spec = {0};
    struct host_map_spec map = {0};
    enum host_map_found found;
    char message[HOST_MESSAGE] = "";
    if (!take_disk(&rest, &spec) || !take_map(&rest, &map) || !take_text(spec.path, sizeof spec.path, rest))
        return garbage(fd, "ADD_MAPPED takes NUMBER SIZE RECORD_BYTES_MAX NAME START SECTION TIMELINE EARLIER "
                           "GENERATION LSN TIME PATH");
    int result = host_disks_add(&spec, &map, &found, message);
    return result < 0 ? answer(fd, result, message) : host_reply(fd, "OK %d", (int)found);
}

static bool do_owed(int fd, char *rest)
{
    char message[HOST_MESSAGE] = "";
    uint64_t number, offset, length;
    if (!take_number(&rest, UINT32_MAX, &number) || !take_number(&rest, INT64_MAX, &offset) || !at_end(rest))
        return garbage(fd, "OWED takes NUMBER OFFSET");
    int result = host_disks_owed((uint32_t)number, &offset, &length, message);
    return result < 0 ? answer(fd, result, message) : host_reply(fd, "OK %" PRIu64 " %" PRIu64, offset, length);
}

static bool do_settle(int fd, char *rest)
{
    char message[HOST_MESSAGE] = "";
    uint64_t number;
    if (!take_number(&rest, UINT32_MAX, &number) || !at_end(rest))
        return garbage(fd, "SETTLE takes NUMBER");
    return answer(fd, host_disks_settle((uint32_t)number, message), message);
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

/*
 * Every primary error maps to EIO, because E2BIG, ETIMEDOUT and ECANCELED mean something else on this socket.
 */
static bool answer_failed_copy(int fd, int64_t result, const char *message)
{
    if (-result & JDR_PRIMARY)
        return host_reply(fd, "ERR %d %s: the primary failed: %s", EIO, message,
                          strerrordesc_np((int)(-result & JDR_ERRNO_MAX)));
    int error = result == -EBUSY ? ETIMEDOUT
                                 : (int)-result; /* the disk's share of the ring is taken, which is a stall as well */
    return host_reply(fd, "ERR %d %s: %s", error, message,
                      error > JDR_ERRNO_MAX ? "the domain is another's" : strerrordesc_np(error));
}

static bool do_copy(int fd, char *rest)
{
    char message[HOST_MESSAGE] = "";
    uint64_t number, offset, length;
    if (!take_number(&rest, UINT32_MAX, &number) || !take_number(&rest, INT64_MAX, &offset) ||
        !take_number(&rest, INT64_MAX, &length) || !at_end(rest))
        return garbage(fd, "COPY takes NUMBER OFFSET LENGTH");
    int64_t lsn = host_disks_copy((uint32_t)number, offset, length, message);
    return lsn < 0 ? answer_failed_copy(fd, lsn, message) : host_reply(fd, "OK %" PRId64, lsn);
}

static bool do_digest(int fd, char *rest)
{
    char message[HOST_MESSAGE] = "", text[2 * JDR_DIGEST + 1];
    uint8_t digest[JDR_DIGEST];
    uint64_t number, offset, length;
    if (!take_number(&rest, UINT32_MAX, &number) || !take_number(&rest, INT64_MAX, &offset) ||
        !take_number(&rest, INT64_MAX, &length) || !at_end(rest))
        return garbage(fd, "DIGEST takes NUMBER OFFSET LENGTH");
    int64_t lsn = host_disks_digest((uint32_t)number, offset, length, digest, message);
    if (lsn < 0)
        return answer_failed_copy(fd, lsn, message);
    for (int i = 0; i < JDR_DIGEST; i++)
        snprintf(text + 2 * i, 3, "%02x", digest[i]);
    return host_reply(fd, "OK %" PRId64 " %s", lsn, text);
}

static bool do_tend(int fd, char *rest)
{
    char message[HOST_MESSAGE] = "";
    uint64_t number;
    if (!take_number(&rest, UINT32_MAX, &number) || !at_end(rest))
        return garbage(fd, "TEND takes NUMBER");
    return answer(fd, host_disks_tend((uint32_t)number, message), message);
}

static void print_map(FILE *stream, struct host_map *map)
{
    struct jdr_map_state state;
    if (!host_map_look(map, &state))
        return;
    fprintf(stream, " map_region_bytes=%" PRIu64 " map_marked_bytes=%" PRIu64 " map_owed_bytes=%" PRIu64,
            state.region_bytes, state.marked_bytes, state.owed_bytes);
    fprintf(stream, " map_intents=%" PRIu64 " map_failed=%d map_failed_since_ns=%" PRId64, state.intents, state.failed,
            state.failed_since_ns);
}

static void print_stats(void *context, struct host_disk *disk)
{
    struct jdr_filter_stats stats = {0};
    jdr_filter_stats(disk->filter, &stats);
    fprintf(context, "%" PRIu32 " %s", disk->spec.number, disk->spec.name);
#define PRINT_WORD(name) fprintf(context, " " #name "=%" PRIu64, stats.name);
    JDR_FILTER_STATS(PRINT_WORD)
#undef PRINT_WORD
    if (disk->map)
        print_map(context, disk->map);
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
        return host_reply(fd, "ERR %d out of memory", ENOMEM);
    unsigned disks = host_disks_each(print_stats, stream);
    bool whole = fclose(stream) == 0;
    bool sent = whole ? host_reply(fd, "OK %u", disks) && host_send(fd, text, length)
                      : host_reply(fd, "ERR %d out of memory", ENOMEM);
    free(text);
    return sent;
}

/* The connection ends after the answer, and then the process ends. */
static bool do_quit(int fd, char *rest)
{
    if (!at_end(rest))
        return garbage(fd, "QUIT takes nothing");
    host_reply(fd, "OK");
    return true;
}

enum host_next host_obey(int fd, char *line, size_t length)
{
    static const struct {
        const char *word;
        bool (*run)(int fd, char *rest);
        enum host_next next; /* if it succeeds */
    } commands[] = {
        {"HELLO", do_hello, HOST_GO_ON},   {"ADD", do_add, HOST_GO_ON},
        {"REMOVE", do_remove, HOST_GO_ON}, {"ADD_MAPPED", do_add_mapped, HOST_GO_ON},
        {"COPY", do_copy, HOST_GO_ON},     {"TRUST", do_trust, HOST_GO_ON},
        {"OWED", do_owed, HOST_GO_ON},     {"SETTLE", do_settle, HOST_GO_ON},
        {"STATS", do_stats, HOST_GO_ON},   {"TEND", do_tend, HOST_GO_ON},
        {"DIGEST", do_digest, HOST_GO_ON}, {"QUIT", do_quit, HOST_QUIT},
    };
    char *rest = line, *word = strlen(line) == length ? take_word(&rest) : NULL;
    for (size_t i = 0; word && i < sizeof commands / sizeof *commands; i++)
        if (!strcmp(word, commands[i].word))
            return commands[i].run(fd, rest) ? commands[i].next : HOST_HANG_UP;
    host_refuse_line(
        fd, "not a command: HELLO, ADD, ADD_MAPPED, REMOVE, COPY, DIGEST, TRUST, OWED, SETTLE, TEND, STATS, QUIT");
    return HOST_HANG_UP;
}
