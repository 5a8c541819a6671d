/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rows of single ranks, met by (place, occurrence): a hash table over slots of [ranks] cells. Which
 * rows have one place is match.h's to say.
 */
#include "time_private.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define RANKS_MAX (1u << 16)

const char *const skew_time_role_name[SKEW_TIME_ROLES] = {"unknown",     "dispatch",     "combine",
                                                          "combine_bwd", "dispatch_bwd", "other"};

int skew_times_create(struct skew_times **out, uint32_t ranks)
{
    struct skew_times *t;

    *out = NULL;
    if (ranks == 0 || ranks > RANKS_MAX)
        return -EINVAL;
    t = calloc(1, sizeof *t);
    if (!t)
        return -ENOMEM;
    t->ranks = ranks;
    t->clocks = calloc(ranks, sizeof *t->clocks);
    t->seen = calloc(ranks, sizeof *t->seen);
    *out = t;
    if (t->clocks && t->seen)
        return 0;
    skew_times_free(out);
    return -ENOMEM;
}

void skew_times_free(struct skew_times **times)
{
    struct skew_times *t = *times;

    *times = NULL;
    if (!t)
        return;
    free(t->table);
    free(t->slots);
    free(t->order);
    free(t->start);
    free(t->end);
    free(t->host);
    free(t->seq);
    free(t->error);
    free(t->sent);
    free(t->received);
    free(t->load);
    free(t->hidden);
    free(t->met);
    free(t->clocks);
    free(t->seen);
    free(t);
}

void skew_times_clock(struct skew_times *t, uint32_t rank, uint32_t clock)
{
    if (rank < t->ranks)
        t->clocks[rank].id = clock;
}

void skew_times_clock_fit(struct skew_times *t, uint32_t rank, int64_t at_ns, int64_t offset_ns,
                          double drift_ppb, int64_t residual_ns)
{
    if (rank < t->ranks)
        t->clocks[rank] = (struct skew_time_clock){.id = t->clocks[rank].id,
                                                   .fitted = true,
                                                   .at = at_ns,
                                                   .offset = offset_ns,
                                                   .drift = drift_ppb,
                                                   .residual = residual_ns};
}

/* ---- slots ----------------------------------------------------------------------------------- */

static size_t hash_of(int64_t place, uint32_t occurrence)
{
    uint64_t x = (uint64_t)place * UINT64_C(0x9e3779b97f4a7c15) ^ (uint64_t)occurrence << 32;
    x ^= x >> 29;
    x *= UINT64_C(0xbf58476d1ce4e5b9);
    return (size_t)(x ^ x >> 32);
}

static size_t *entry_of(const struct skew_times *t, int64_t place, uint32_t occurrence)
{
    size_t at = hash_of(place, occurrence) & (t->table_size - 1);

    while (t->table[at]) {
        const struct skew_time_slot *slot = &t->slots[t->table[at] - 1];
        if (slot->place == place && slot->occurrence == occurrence)
            break;
        at = (at + 1) & (t->table_size - 1);
    }
    return &t->table[at];
}

static int grow_table(struct skew_times *t)
{
    size_t size = t->table_size ? t->table_size * 2 : 1024;
    size_t *table = calloc(size, sizeof *table);

    if (!table)
        return -ENOMEM;
    free(t->table);
    t->table = table;
    t->table_size = size;
    for (size_t i = 0; i < t->count; i++)
        *entry_of(t, t->slots[i].place, t->slots[i].occurrence) = i + 1;
    return 0;
}

static int grow_array(void *array, size_t cells, size_t size)
{
    void *bigger = realloc(*(void **)array, cells * size);
    if (!bigger)
        return -ENOMEM;
    *(void **)array = bigger;
    return 0;
}

static int grow_slots(struct skew_times *t)
{
    size_t room = t->room ? t->room + t->room / 2 : 256, cells = room * t->ranks;

    if (grow_array(&t->slots, room, sizeof *t->slots) || grow_array(&t->start, cells, 8) ||
        grow_array(&t->end, cells, 8) || grow_array(&t->host, cells, 8) ||
        grow_array(&t->seq, cells, 8) || grow_array(&t->error, cells, 8) ||
        grow_array(&t->sent, cells, 8) || grow_array(&t->received, cells, 8) ||
        grow_array(&t->load, cells, 8) || grow_array(&t->hidden, cells, sizeof *t->hidden) ||
        grow_array(&t->met, cells, 1))
        return -ENOMEM;
    t->room = room;
    return 0;
}

static int slot_for(struct skew_times *t, const struct skew_time_row *row, size_t *slot)
{
    if (t->count * 2 >= t->table_size && grow_table(t))
        return -ENOMEM;
    size_t *entry = entry_of(t, row->place, row->occurrence);
    if (!*entry) {
        if (t->count == t->room && grow_slots(t))
            return -ENOMEM;
        t->slots[t->count] = (struct skew_time_slot){.place = row->place,
                                                     .step = -1,
                                                     .layer = -1,
                                                     .microbatch = row->microbatch,
                                                     .token_bytes = row->token_bytes,
                                                     .occurrence = row->occurrence};
        for (size_t i = t->count * t->ranks; i < (t->count + 1) * t->ranks; i++) {
            t->start[i] = t->end[i] = t->host[i] = SKEW_TIME_ABSENT;
            t->sent[i] = t->received[i] = t->load[i] = NAN;
            t->hidden[i] = (struct skew_time_range){NAN, NAN};
            t->met[i] = 0;
        }
        *entry = ++t->count;
    }
    *slot = *entry - 1;
    return 0;
}

/* Whom the row names takes part, also where its own record was lost. */
static void note_peers(struct skew_times *t, size_t slot, const struct skew_time_row *row)
{
    uint8_t *met = t->met + slot * t->ranks;

    met[row->rank] = 1;
    if (!row->peers)
        t->slots[slot].everybody = true;
    for (uint32_t i = 0; i < row->peer_count && row->peers; i++)
        if (row->peers[i] < t->ranks)
            met[row->peers[i]] = 1;
}

bool skew_time_whole(const struct skew_times *t, size_t slot, bool timed)
{
    const int64_t *times = (timed ? t->start : t->host) + slot * t->ranks;
    const uint8_t *met = t->met + slot * t->ranks;

    for (uint32_t r = 0; r < t->ranks; r++)
        if (t->seen[r] && (met[r] || t->slots[slot].everybody) && times[r] == SKEW_TIME_ABSENT)
            return false;
    return !t->slots[slot].several;
}

int skew_times_add(struct skew_times *t, const struct skew_time_row *row)
{
    size_t slot, cell;

    if (row->rank >= t->ranks)
        return -EINVAL;
    if (slot_for(t, row, &slot))
        return -ENOMEM;
    cell = slot * t->ranks + row->rank;
    struct skew_time_slot *s = &t->slots[slot];
    if (t->host[cell] != SKEW_TIME_ABSENT && t->seq[cell] == row->seq)
        return -EEXIST;
    s->several |= t->host[cell] != SKEW_TIME_ABSENT;
    note_peers(t, slot, row);
    t->host[cell] = row->host_ns;
    t->seq[cell] = row->seq;
    t->error[cell] = row->error_ns;
    t->start[cell] = row->start_ns;
    t->end[cell] = row->end_ns;
    t->sent[cell] = row->sent;
    t->received[cell] = row->received;
    t->load[cell] = row->load;
    t->hidden[cell] = row->hidden;
    if (s->step < 0)
        s->step = row->step;
    if (s->layer < 0)
        s->layer = row->layer;
    if (s->role == SKEW_TIME_UNKNOWN)
        s->role = row->role;
    bool timed = row->start_ns != SKEW_TIME_ABSENT && row->end_ns != SKEW_TIME_ABSENT;
    t->rows++;
    t->timed_rows += timed;
    t->seen[row->rank] = true;
    return 0;
}

/* ---- order ----------------------------------------------------------------------------------- */

static _Thread_local const struct skew_time_slot *sorting; /* of the sort in hand */

static int by_occurrence_and_place(const void *a, const void *b)
{
    const struct skew_time_slot *x = &sorting[*(const size_t *)a],
                                *y = &sorting[*(const size_t *)b];
    if (x->occurrence != y->occurrence)
        return x->occurrence < y->occurrence ? -1 : 1;
    return (x->place > y->place) - (x->place < y->place);
}

/* Where ranks leave out exchanges, those of one step need not stand together in the order. */
static int by_occurrence_and_step(const void *a, const void *b)
{
    const struct skew_time_slot *x = &sorting[*(const size_t *)a],
                                *y = &sorting[*(const size_t *)b];
    if (x->occurrence == y->occurrence && x->step != y->step)
        return x->step < y->step ? -1 : 1;
    return by_occurrence_and_place(a, b);
}

void skew_times_sort_steps(const struct skew_times *t, size_t *slots, size_t count)
{
    sorting = t->slots;
    qsort(slots, count, sizeof *slots, by_occurrence_and_step);
}

int skew_times_sort(struct skew_times *t)
{
    free(t->order);
    t->order = malloc((t->count + 1) * sizeof *t->order);
    if (!t->order)
        return -ENOMEM;
    for (size_t i = 0; i < t->count; i++)
        t->order[i] = i;
    sorting = t->slots;
    qsort(t->order, t->count, sizeof *t->order, by_occurrence_and_place);
    return 0;
}
