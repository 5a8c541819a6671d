/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The accumulator of routing: a bag of packed rows, filed by layer and call. What is computed of
 * them is routing_finish.c's; putting things together late is what makes merging exact in any
 * order.
 */
#include "routing_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK_BYTES (1u << 20)

int skew_routing_create(struct skew_routing **out, unsigned keep)
{
    struct skew_routing *r = calloc(1, sizeof *r);

    *out = NULL;
    if (!r)
        return -ENOMEM;
    r->keep = keep;
    *out = r;
    return 0;
}

static void free_layer(struct building *b)
{
    struct skew_routing_layer *l = &b->layer;

    free((void *)l->call);
    free((void *)l->counts);
    free((void *)l->request);
    free((void *)l->request_counts);
    free((void *)l->source_tokens);
    free((void *)l->source_counts);
    free((void *)l->cube);
    free(b->comm_key);
    free(b->how);
    free(b->calls);
    free(b->table);
    free(b->slots);
}

void skew_routing_free(struct skew_routing **routing)
{
    struct skew_routing *r = *routing;

    *routing = NULL;
    if (!r)
        return;
    for (size_t i = 0; i < r->layer_count; i++)
        free_layer(&r->layers[i]);
    for (size_t i = 0; i < r->stage_count; i++)
        free(r->stages[i]);
    for (size_t i = 0; i < r->block_count; i++)
        free(r->blocks[i]);
    for (size_t i = 0; i < r->placed_count; i++)
        free(r->placed[i].comm_key);
    free(r->layers);
    free(r->stages);
    free(r->blocks);
    free(r->placed);
    free(r->rows);
    free(r->shown);
    free(r);
}

/* Room for one more of an array that doubles at powers of two. */
static int room(void *array, size_t count, size_t size)
{
    void **pointer = array;

    if (count & (count - 1))
        return 0;
    void *bigger = realloc(*pointer, (count ? count * 2 : 1) * size);
    if (!bigger)
        return -ENOMEM;
    *pointer = bigger;
    return 0;
}

/* ---- filing ---------------------------------------------------------------------------------- */

static int find_stage(struct skew_routing *r, const char *stage, uint32_t *index)
{
    if (!stage)
        stage = "";
    for (size_t i = 0; i < r->stage_count; i++) {
        if (strcmp(r->stages[i], stage) == 0) {
            *index = (uint32_t)i;
            return 0;
        }
    }
    if (room(&r->stages, r->stage_count, sizeof *r->stages) < 0)
        return -ENOMEM;
    char *copy = strdup(stage);
    if (!copy)
        return -ENOMEM;
    r->stages[r->stage_count] = copy;
    *index = (uint32_t)r->stage_count++;
    return 0;
}

struct layer_facts {
    const char *comm_key, *how;
    int64_t layer;
    uint32_t experts, topk, ranks;
    bool physical;
};

static bool same_layer(const struct building *b, const struct layer_facts *f)
{
    return b->layer.layer == f->layer && b->layer.experts == f->experts &&
           b->layer.physical == f->physical && strcmp(b->comm_key, f->comm_key) == 0;
}

static int find_layer(struct skew_routing *r, const struct layer_facts *f, uint32_t *index)
{
    /* Rows of a trace go through the layers in turn: try the next one first. */
    for (size_t k = 0; k < r->layer_count; k++) {
        size_t i = r->last_layer + k;
        if (i >= r->layer_count)
            i -= r->layer_count;
        struct building *b = &r->layers[i];
        if (!same_layer(b, f))
            continue;
        if (f->ranks > b->layer.ranks)
            b->layer.ranks = f->ranks;
        if (f->topk != b->layer.topk)
            b->topk_mixed = true;
        r->last_layer = i;
        *index = (uint32_t)i;
        return 0;
    }
    if (room(&r->layers, r->layer_count, sizeof *r->layers) < 0)
        return -ENOMEM;
    struct building *b = &r->layers[r->layer_count];
    *b = (struct building){.comm_key = strdup(f->comm_key), .how = strdup(f->how)};
    if (!b->comm_key || !b->how) {
        free(b->comm_key);
        free(b->how);
        return -ENOMEM;
    }
    b->layer = (struct skew_routing_layer){.comm_key = b->comm_key,
                                           .how = b->how,
                                           .layer = f->layer,
                                           .experts = f->experts,
                                           .topk = f->topk,
                                           .ranks = f->ranks,
                                           .physical = f->physical};
    r->last_layer = r->layer_count;
    *index = (uint32_t)r->layer_count++;
    return 0;
}

static size_t call_slot(const struct building *b, const struct call_key *k)
{
    uint64_t x = (uint64_t)k->step * 0x9e3779b97f4a7c15u ^
                 (uint64_t)k->microbatch * 0xbf58476d1ce4e5b9u ^ (uint64_t)k->ordinal << 20 ^
                 (uint64_t)k->stage << 40 ^ (uint64_t)k->of_requests << 50;
    size_t slot = (x ^ x >> 29) & (b->table_size - 1);

    while (b->table[slot]) {
        const struct call_key *c = &b->calls[b->table[slot] - 1];
        if (c->step == k->step && c->microbatch == k->microbatch && c->ordinal == k->ordinal &&
            c->stage == k->stage && c->of_requests == k->of_requests)
            break;
        slot = (slot + 1) & (b->table_size - 1);
    }
    return slot;
}

static int find_call(struct building *b, const struct call_key *k, uint32_t *index)
{
    if ((b->call_count + 1) * 4 > b->table_size * 3) {
        size_t size = b->table_size ? b->table_size * 2 : 64;
        uint32_t *table = calloc(size, sizeof *table);
        if (!table)
            return -ENOMEM;
        free(b->table);
        b->table = table;
        b->table_size = size;
        for (size_t i = 0; i < b->call_count; i++)
            table[call_slot(b, &b->calls[i])] = (uint32_t)i + 1;
    }
    size_t slot = call_slot(b, k);
    if (!b->table[slot]) {
        if (room(&b->calls, b->call_count, sizeof *b->calls) < 0)
            return -ENOMEM;
        b->calls[b->call_count++] = *k;
        b->table[slot] = (uint32_t)b->call_count;
    }
    *index = b->table[slot] - 1;
    return 0;
}

/* ---- adding ---------------------------------------------------------------------------------- */

static uint8_t *keep_bytes(struct skew_routing *r, const uint8_t *bytes, size_t size)
{
    if (r->block_count == 0 || size > r->block_size - r->block_used) {
        if (room(&r->blocks, r->block_count, sizeof *r->blocks) < 0)
            return NULL;
        size_t want = size > BLOCK_BYTES ? size : BLOCK_BYTES;
        uint8_t *block = malloc(want);
        if (!block)
            return NULL;
        r->blocks[r->block_count++] = block;
        r->block_used = 0;
        r->block_size = want;
    }
    uint8_t *at = r->blocks[r->block_count - 1] + r->block_used;
    memcpy(at, bytes, size);
    r->block_used += size;
    return at;
}

static int room_for_rows(struct skew_routing *r, size_t more)
{
    if (r->row_count + more <= r->row_capacity)
        return 0;
    size_t capacity = r->row_capacity ? r->row_capacity : 256;
    while (capacity < r->row_count + more)
        capacity *= 2;
    struct stored_row *rows = realloc(r->rows, capacity * sizeof *rows);
    if (!rows)
        return -ENOMEM;
    r->rows = rows;
    r->row_capacity = capacity;
    return 0;
}

int skew_routing_add_packed(struct skew_routing *r, const struct skew_packed_row *packed,
                            uint32_t database)
{
    const struct skew_routing_row *row = &packed->row;
    const struct skew_packed *p = &packed->sizes;
    struct layer_facts facts = {row->comm ? row->comm->key : "",
                                row->how ? row->how : "",
                                row->layer,
                                row->experts,
                                row->topk,
                                row->comm ? row->comm->ranks : 0,
                                row->physical};
    struct call_key key = {row->step, row->microbatch, row->step < 0 ? row->ordinal : -1, 0,
                           row->request >= 0};
    struct stored_row stored = {.source = row->source,
                                .request = row->request,
                                .database = database,
                                .verified = row->verified,
                                .tokens = row->tokens,
                                .sizes = *p};

    if (r->finished)
        return -EINVAL;
    if (room_for_rows(r, 1) < 0 || find_stage(r, row->stage, &key.stage) < 0 ||
        find_layer(r, &facts, &stored.layer) < 0 ||
        find_call(&r->layers[stored.layer], &key, &stored.call) < 0)
        return -ENOMEM;
    size_t size = p->cells ? (size_t)(p->cells - 1) * p->stride + p->width : 0;
    stored.sizes.bytes = keep_bytes(r, p->bytes, size);
    if (!stored.sizes.bytes)
        return -ENOMEM;
    r->rows[r->row_count++] = stored;
    return 0;
}

int skew_routing_add(void *routing, const struct skew_routing_row *row)
{
    struct skew_packed_row packed = {.row = *row};
    uint64_t largest = 0;
    uint32_t width = 1;

    for (uint32_t e = 0; e < row->experts; e++)
        largest |= row->counts[e];
    while (width < 8 && largest >> (8 * width))
        width++;
    uint8_t *bytes = malloc((size_t)row->experts * width + 1);
    if (!bytes)
        return -ENOMEM;
    for (uint32_t e = 0; e < row->experts; e++)
        for (uint32_t k = 0; k < width; k++)
            bytes[(size_t)e * width + k] = (uint8_t)(row->counts[e] >> (8 * (width - 1 - k)));
    packed.sizes = (struct skew_packed){bytes, row->experts, width, width, 1};
    int result =
        skew_routing_add_packed(routing, &packed, ((struct skew_routing *)routing)->databases);
    free(bytes);
    return result;
}

/* ---- merging --------------------------------------------------------------------------------- */

/* What `other` calls layer i and its call j, in the words of `r`. */
static int translate(struct skew_routing *r, const struct skew_routing *other, size_t i,
                     uint32_t *layer, uint32_t *calls)
{
    const struct building *from = &other->layers[i];
    struct layer_facts facts = {from->comm_key,      from->how,        from->layer.layer,
                                from->layer.experts, from->layer.topk, from->layer.ranks,
                                from->layer.physical};
    int result = find_layer(r, &facts, layer);

    if (result == 0 && from->topk_mixed)
        r->layers[*layer].topk_mixed = true;
    for (size_t j = 0; j < from->call_count && result == 0; j++) {
        struct call_key key = from->calls[j];
        result = find_stage(r, other->stages[key.stage], &key.stage);
        if (result == 0)
            result = find_call(&r->layers[*layer], &key, &calls[j]);
    }
    return result;
}

/* Moves rows and the memory behind them; `shift` is added to the numbers of the databases. */
static int move_rows(struct skew_routing *r, struct skew_routing *other, uint32_t shift,
                     const uint32_t *layers, uint32_t *const *calls)
{
    uint8_t **blocks = realloc(r->blocks, (r->block_count + other->block_count + 1) * 2 *
                                              sizeof *blocks); /* keeps what room() expects */
    if (!blocks)
        return -ENOMEM;
    r->blocks = blocks;
    /* The block that is being filled stays last. */
    size_t last = r->block_count ? r->block_count - 1 : 0;
    uint8_t *filling = r->block_count ? r->blocks[last] : NULL;
    if (other->block_count)
        memcpy(r->blocks + last, other->blocks, other->block_count * sizeof *blocks);
    r->block_count = last + other->block_count;
    if (filling)
        r->blocks[r->block_count++] = filling;
    else if (other->block_count)
        r->block_used = other->block_used, r->block_size = other->block_size;
    other->block_count = 0;
    for (size_t i = 0; i < other->row_count; i++) {
        struct stored_row row = other->rows[i];
        row.call = calls[row.layer][row.call];
        row.layer = layers[row.layer];
        row.database += shift;
        r->rows[r->row_count++] = row;
    }
    other->row_count = 0;
    return 0;
}

static int combine(struct skew_routing *r, struct skew_routing *other, uint32_t shift)
{
    uint32_t *layers = calloc(other->layer_count + 1, sizeof *layers);
    uint32_t **calls = calloc(other->layer_count + 1, sizeof *calls);
    int result = layers && calls ? room_for_rows(r, other->row_count) : -ENOMEM;

    if (r->finished || other->finished)
        result = -EINVAL;
    for (size_t i = 0; i < other->layer_count && result == 0; i++) {
        calls[i] = malloc((other->layers[i].call_count + 1) * sizeof **calls);
        result = calls[i] ? translate(r, other, i, &layers[i], calls[i]) : -ENOMEM;
    }
    for (size_t i = 0; i < other->placed_count && result == 0; i++) {
        result = room(&r->placed, r->placed_count, sizeof *r->placed);
        if (result == 0) {
            r->placed[r->placed_count++] = other->placed[i];
            other->placed[i].comm_key = NULL;
        }
    }
    if (result == 0)
        result = move_rows(r, other, shift, layers, calls);
    for (size_t i = 0; calls && i < other->layer_count; i++)
        free(calls[i]);
    free(calls);
    free(layers);
    return result;
}

int skew_routing_join(struct skew_routing *routing, struct skew_routing *other)
{
    return combine(routing, other, 0);
}

int skew_routing_merge(struct skew_routing *routing, struct skew_routing *other)
{
    uint32_t shift = routing->databases ? routing->databases : 1;
    int result = combine(routing, other, shift);

    routing->databases = shift + (other->databases ? other->databases : 1);
    return result;
}
