/*
 * interval_map.h: the bytes of one disk that a recovery plan has already covered.
 *
 * A plan walks history from the newest write to the oldest. Of each write it needs only the bytes that no newer write
 * covers. The map answers that question and remembers the answer.
 *
 * It is a treap of half-open intervals in one array of nodes, linked by index. A node has 32 bytes, and freed nodes are
 * reused. Invariants: no two intervals overlap or touch, and covered_bytes is the sum of their lengths. Adding a piece
 * costs amortised O(log n), because an interval is merged into another only once. Not thread-safe: the binding admits
 * one thread at a time. No Python here, so the caller may have released the GIL.
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

/* A part of piece number `source` that no earlier piece covered. */
struct jdr_uncovered {
    uint64_t source;
    uint64_t offset;
    uint64_t length;
};

/* The results. Rows are missing once `failed`: memory ran out. Free the list with jdr_uncovered_free. */
struct jdr_uncovered_list {
    struct jdr_uncovered *rows;
    size_t count;
    size_t capacity;
    int failed;
};

/* Node 0 stands for "none". `released` heads the list of freed nodes, which `right` links. */
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

/* The largest end of an interval: ends are file offsets. */
#define JDR_INTERVAL_END_MAX ((uint64_t)INT64_MAX)

void jdr_interval_map_init(struct jdr_interval_map *map);
void jdr_interval_map_free(struct jdr_interval_map *map);

/* The index of the first piece that ends beyond JDR_INTERVAL_END_MAX, or -1. */
int64_t jdr_interval_check(const uint64_t *offsets, const uint64_t *lengths, size_t count);

/*
 * Cover the checked pieces in the order given. The bytes that a piece is the first to cover are appended to `out`, in
 * ascending offset. Returns 0, or -1 when memory ran out: rows are then missing, and the plan must be given up.
 */
int jdr_interval_overlay(struct jdr_interval_map *map, const uint64_t *offsets, const uint64_t *lengths, size_t count,
                         struct jdr_uncovered_list *out);

/* Write the `count` intervals in ascending order to `rows` as (start, end) pairs. */
void jdr_interval_list(const struct jdr_interval_map *map, uint64_t *rows);

void jdr_uncovered_free(struct jdr_uncovered_list *list);

#endif
