/*
 * interval_map.c: the treap (R. Seidel, C. Aragon, "Randomized Search Trees", 1996).
 *
 * Split and join work downward through a hook, which is the place that holds the index of a subtree. Depth therefore
 * costs no stack. Invariant: hooks point into the node array, so the array does not grow while a hook is held. The one
 * node that a piece may need is reserved before the tree is touched.
 */
#include "interval_map.h"

#include <stdlib.h>
#include <string.h>

enum { NONE = 0, NODES_FIRST = 64, ROWS_FIRST = 64 };

typedef struct jdr_interval_map map_t;
typedef struct jdr_interval_node node_t;

void jdr_interval_map_init(map_t *map)
{
    memset(map, 0, sizeof *map);
    map->used = 1;
    map->random = 0x9E3779B97F4A7C15u;
}

void jdr_interval_map_free(map_t *map)
{
    free(map->nodes);
    jdr_interval_map_init(map);
}

void jdr_uncovered_free(struct jdr_uncovered_list *list)
{
    free(list->rows);
    memset(list, 0, sizeof *list);
}

int64_t jdr_interval_check(const uint64_t *offsets, const uint64_t *lengths, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (lengths[i] > JDR_INTERVAL_END_MAX || offsets[i] > JDR_INTERVAL_END_MAX - lengths[i])
            return (int64_t)i;
    return -1;
}

/* ---- results and nodes ------------------------------------------------------------------------------------------ */

static int grow_rows(struct jdr_uncovered_list *out)
{
    size_t capacity = out->capacity ? out->capacity * 2 : ROWS_FIRST;
    void *rows = realloc(out->rows, capacity * sizeof *out->rows);
    if (!rows)
        return -1;
    out->rows = rows;
    out->capacity = capacity;
    return 0;
}

static void emit(map_t *map, struct jdr_uncovered_list *out, uint64_t source, uint64_t start, uint64_t end)
{
    if (start >= end)
        return;
    map->covered_bytes += end - start;
    if (out->count == out->capacity && grow_rows(out) != 0)
        out->failed = 1;
    else
        out->rows[out->count++] = (struct jdr_uncovered){.source = source, .offset = start, .length = end - start};
}

/* Ensure that one node can be taken without moving the array. */
static int reserve_node(map_t *map)
{
    if (map->released != NONE || map->used < map->capacity)
        return 0;
    if (map->capacity == UINT32_MAX)
        return -1;
    uint64_t wanted = map->capacity ? (uint64_t)map->capacity * 2 : NODES_FIRST;
    uint32_t capacity = wanted > UINT32_MAX ? UINT32_MAX : (uint32_t)wanted;
    void *nodes = realloc(map->nodes, (size_t)capacity * sizeof *map->nodes);
    if (!nodes)
        return -1;
    map->nodes = nodes;
    map->capacity = capacity;
    return 0;
}

/* xorshift64* (S. Vigna, 2014), whose upper half is the better one. */
static uint32_t next_priority(map_t *map)
{
    map->random ^= map->random >> 12;
    map->random ^= map->random << 25;
    map->random ^= map->random >> 27;
    return (uint32_t)((map->random * 0x2545F4914F6CDD1Du) >> 32);
}

static uint32_t take_node(map_t *map, uint64_t start, uint64_t end)
{
    uint32_t taken = map->released;
    if (taken != NONE)
        map->released = map->nodes[taken].right;
    else
        taken = map->used++;
    map->nodes[taken] = (node_t){.start = start, .end = end, .priority = next_priority(map)};
    map->count++;
    return taken;
}

static void release_node(map_t *map, uint32_t node)
{
    map->nodes[node].right = map->released;
    map->released = node;
    map->count--;
}

/* ---- the tree --------------------------------------------------------------------------------------------------- */

/* Split the subtree into the nodes that start before `start`, to *low, and the others, to *high. */
static void split(map_t *map, uint32_t tree, uint64_t start, uint32_t *low, uint32_t *high)
{
    while (tree != NONE) {
        node_t *node = map->nodes + tree;
        if (node->start < start) {
            *low = tree;
            low = &node->right;
            tree = node->right;
        } else {
            *high = tree;
            high = &node->left;
            tree = node->left;
        }
    }
    *low = NONE;
    *high = NONE;
}

/* Join two trees. All of `low` lies before all of `high`. */
static uint32_t join(map_t *map, uint32_t low, uint32_t high)
{
    uint32_t root = NONE;
    uint32_t *hook = &root;
    while (low != NONE && high != NONE) {
        if (map->nodes[low].priority >= map->nodes[high].priority) {
            *hook = low;
            hook = &map->nodes[low].right;
            low = *hook;
        } else {
            *hook = high;
            hook = &map->nodes[high].left;
            high = *hook;
        }
    }
    *hook = low != NONE ? low : high;
    return root;
}

static void insert(map_t *map, uint64_t start, uint64_t end)
{
    uint32_t taken = take_node(map, start, end);
    node_t *node = map->nodes + taken;
    uint32_t *hook = &map->root;
    while (*hook != NONE && map->nodes[*hook].priority >= node->priority)
        hook = map->nodes[*hook].start < start ? &map->nodes[*hook].right : &map->nodes[*hook].left;
    split(map, *hook, start, &node->left, &node->right);
    *hook = taken;
}

/* Find the last node that starts at or before `offset`, and the first node after that. */
static void neighbours(const map_t *map, uint64_t offset, uint32_t *before, uint32_t *after)
{
    *before = *after = NONE;
    for (uint32_t at = map->root; at != NONE;) {
        if (map->nodes[at].start <= offset) {
            *before = at;
            at = map->nodes[at].right;
        } else {
            *after = at;
            at = map->nodes[at].left;
        }
    }
}

/* Take the leftmost node off the tree, by rotating left children up until there is none. Each rotates at most once. */
static uint32_t pop_first(map_t *map, uint32_t *tree)
{
    uint32_t at = *tree;
    for (uint32_t left = map->nodes[at].left; left != NONE; left = map->nodes[at].left) {
        map->nodes[at].left = map->nodes[left].right;
        map->nodes[left].right = at;
        at = left;
    }
    *tree = map->nodes[at].right;
    return at;
}

/* Replace all intervals that touch [start, end) by one that begins at `first`, emitting what lay between them. */
static void swallow(map_t *map, uint64_t first, uint64_t start, uint64_t end, uint64_t source,
                    struct jdr_uncovered_list *out)
{
    uint32_t low, rest, touched, high;
    split(map, map->root, first, &low, &rest);
    split(map, rest, end + 1, &touched, &high);
    uint64_t cursor = start, merged_end = end;
    while (touched != NONE) {
        uint32_t node = pop_first(map, &touched);
        emit(map, out, source, cursor, map->nodes[node].start);
        cursor = map->nodes[node].end;
        release_node(map, node);
    }
    emit(map, out, source, cursor, end);
    if (cursor > merged_end)
        merged_end = cursor;
    map->root = join(map, low, high);
    insert(map, first, merged_end);
}

/* The common cases change one node in place. Only a piece that touches several intervals reshapes the tree. */
static void cover(map_t *map, uint64_t start, uint64_t end, uint64_t source, struct jdr_uncovered_list *out)
{
    uint32_t before, after;
    neighbours(map, start, &before, &after);
    node_t *left = before != NONE && map->nodes[before].end >= start ? map->nodes + before : NULL;
    node_t *right = after != NONE && map->nodes[after].start <= end ? map->nodes + after : NULL;
    if (left && left->end >= end)
        return;
    if (!left && !right) {
        emit(map, out, source, start, end);
        insert(map, start, end);
    } else if (!right) {
        emit(map, out, source, left->end, end);
        left->end = end;
    } else if (!left && right->end >= end) {
        emit(map, out, source, start, right->start);
        right->start = start;
    } else {
        swallow(map, left ? left->start : start, start, end, source, out);
    }
}

int jdr_interval_overlay(map_t *map, const uint64_t *offsets, const uint64_t *lengths, size_t count,
                         struct jdr_uncovered_list *out)
{
    for (size_t i = 0; i < count; i++) {
        if (lengths[i] == 0)
            continue;
        if (reserve_node(map) != 0)
            return -1;
        cover(map, offsets[i], offsets[i] + lengths[i], i, out);
    }
    return out->failed ? -1 : 0;
}

void jdr_interval_list(const map_t *map, uint64_t *rows)
{
    uint32_t before, at;
    neighbours(map, 0, &before, &at);
    if (before != NONE)
        at = before;
    while (at != NONE) {
        *rows++ = map->nodes[at].start;
        *rows++ = map->nodes[at].end;
        neighbours(map, map->nodes[at].start, &before, &at);
    }
}
