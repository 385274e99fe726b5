/* The set of bytes of one disk that a recovery plan has already covered, newest write first.
 *
 * A treap of disjoint, non-touching half-open intervals in one array of nodes linked by index: 32 bytes a node, freed
 * nodes reused, no pointers, no recursion. Adding a piece costs amortised O(log n), for an interval is swallowed only
 * once. Not thread-safe: the binding lets one thread in at a time. No Python here; the caller may have released the
 * GIL.
 */
#ifndef JETDR_INTERVAL_MAP_H
#define JETDR_INTERVAL_MAP_H

#include <stddef.h>
#include <stdint.h>

struct jdr_interval_node {
    uint64_t start;
    uint64_t end;
    uint32_t left;
    uint32_t right;
    uint32_t priority;
};

_Static_assert(sizeof(struct jdr_interval_node) <= 32, "memory per node is a promise");

/* Part of piece `source` that no earlier piece had covered. */
struct jdr_uncovered {
    uint64_t source;
    uint64_t offset;
    uint64_t length;
};

/* Growing array of results; `failed` once memory ran out (rows are then missing). Freed by jdr_uncovered_free. */
struct jdr_uncovered_list {
    struct jdr_uncovered *rows;
    size_t count;
    size_t capacity;
    int failed;
};

/* Node 0 is "none". `released` heads the list of freed nodes, linked through `right`. */
struct jdr_interval_map {
    struct jdr_interval_node *nodes;
    uint32_t root;
    uint32_t used;
    uint32_t capacity;
    uint32_t released;
    uint32_t count;
    uint64_t covered_bytes;
    uint64_t random;
};

/* Largest end of an interval: a file offset. */
#define JDR_INTERVAL_END_MAX ((uint64_t)INT64_MAX)

void jdr_interval_map_init(struct jdr_interval_map *map);
void jdr_interval_map_free(struct jdr_interval_map *map);

/* Index of the first piece whose end exceeds JDR_INTERVAL_END_MAX; -1 if all are good. */
int64_t jdr_interval_check(const uint64_t *offsets, const uint64_t *lengths, size_t count);

/* Cover the (checked) pieces in the order given, appending to `out` what each covers first, in ascending offset.
 * 0, or -1 when memory ran out: the map is then sound but some rows were lost, so the plan must be given up. */
int jdr_interval_overlay(struct jdr_interval_map *map, const uint64_t *offsets, const uint64_t *lengths, size_t count,
                         struct jdr_uncovered_list *out);

/* Write the `count` intervals in ascending order to `rows` as (start, end) pairs. */
void jdr_interval_list(const struct jdr_interval_map *map, uint64_t *rows);

void jdr_uncovered_free(struct jdr_uncovered_list *list);

#endif
