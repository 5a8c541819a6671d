/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What each rank did before an exchange: how long it computed since its exchange before, and what
 * it had to compute with. Each on its own clock, so that no other one matters.
 */
#include "time_private.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

#define OPEN_CALLS 8 /* of a rank at one time: micro-batches that overlap, recomputation */

/* A way to the experts that nothing has come back from yet. */
struct call {
    size_t slot; /* SIZE_MAX: none */
    double load; /* received, in all exchanges of the call */
};

/* What a rank has behind it. */
struct behind {
    size_t slot; /* its exchange before; SIZE_MAX: none */
    struct call calls[OPEN_CALLS];
    unsigned next; /* of calls, to be written */
};

/* What comes before must be the one before, or a lost record, or the time from one launch of a
 * graph to the next, would look like work. */
static bool follows(const struct skew_times *t, size_t slot, size_t old, uint32_t rank)
{
    return old != SIZE_MAX && t->slots[old].occurrence == t->slots[slot].occurrence &&
           t->seq[slot * t->ranks + rank] == t->seq[old * t->ranks + rank] + 1;
}

static bool same_call(const struct skew_time_slot *a, const struct skew_time_slot *b)
{
    return a->step == b->step && a->layer == b->layer && a->microbatch == b->microbatch &&
           a->occurrence == b->occurrence;
}

/* FastMoE sends a dispatch in as many exchanges as a rank has experts. */
static bool goes_on(const struct skew_time_slot *a, const struct skew_time_slot *b)
{
    return a->role == b->role && a->role != SKEW_TIME_UNKNOWN && a->step >= 0 && same_call(a, b);
}

static bool goes_there(enum skew_time_role role)
{
    return role == SKEW_TIME_DISPATCH || role == SKEW_TIME_COMBINE_BWD;
}

/* Where a part of a call was lost, its load is NaN, not known. `more`: nothing was lost between its
 * parts. */
static void note_call(struct behind *b, const struct skew_times *t, size_t slot, double load,
                      bool more)
{
    struct call *last = &b->calls[(b->next + OPEN_CALLS - 1) % OPEN_CALLS];

    if (last->slot != SIZE_MAX && goes_on(&t->slots[slot], &t->slots[last->slot])) {
        last->load = more ? last->load + load : NAN;
        return;
    }
    b->calls[b->next] = (struct call){slot, load};
    b->next = (b->next + 1) % OPEN_CALLS;
}

/* What the experts had to do before this way back; exchanges of other kinds, and of other
 * micro-batches, may lie in between. Each is asked about once. NaN: its record was lost. */
static double take_load(struct behind *b, const struct skew_times *t, size_t slot)
{
    const struct skew_time_slot *back = &t->slots[slot];
    enum skew_time_role there =
        back->role == SKEW_TIME_COMBINE ? SKEW_TIME_DISPATCH : SKEW_TIME_COMBINE_BWD;

    for (unsigned i = 1; i <= OPEN_CALLS; i++) {
        struct call *call = &b->calls[(b->next + OPEN_CALLS - i) % OPEN_CALLS];
        if (call->slot == SIZE_MAX || t->slots[call->slot].role != there ||
            !same_call(&t->slots[call->slot], back))
            continue;
        call->slot = SIZE_MAX;
        return call->load;
    }
    return NAN;
}

/* One exchange of one rank, of complete exchange `i`; SIZE_MAX: of none. `parts`: calls are several
 * exchanges, so that the first of one can have been lost. Whether it goes on with the call of the
 * one before. */
static bool look_at(struct skew_time_work *w, struct behind *b, size_t slot, uint32_t rank,
                    size_t i, bool parts)
{
    const struct skew_times *t = w->times;
    size_t cell = slot * t->ranks + rank, old = b->slot;
    bool next = follows(t, slot, old, rank);
    bool more = next && goes_on(&t->slots[slot], &t->slots[old]);
    double load = NAN;

    b->slot = slot;
    if (goes_there(t->slots[slot].role))
        note_call(b, t, slot, parts && !next && old != SIZE_MAX ? NAN : t->load[cell], more);
    if (skew_time_after_experts(t->slots[slot].role) && !more)
        load = take_load(b, t, slot);
    if (i != SIZE_MAX && next && !more) { /* nothing is computed for the rest of a call */
        double gap = (double)(t->start[cell] - t->end[old * t->ranks + rank]);
        w->gap[i * t->ranks + rank] = gap >= 0 ? gap : NAN;
        w->gap_load[i * t->ranks + rank] = load;
    }
    return more;
}

static void look_at_all(struct skew_time_work *w, struct behind *behind, const size_t *exchange_of,
                        bool parts)
{
    const struct skew_times *t = w->times;

    for (uint32_t r = 0; r < t->ranks; r++) {
        behind[r] = (struct behind){.slot = SIZE_MAX};
        for (int i = 0; i < OPEN_CALLS; i++)
            behind[r].calls[i].slot = SIZE_MAX;
    }
    w->result->in_parts = 0;
    for (size_t at = 0; at < t->count; at++) {
        size_t slot = t->order[at];
        bool more = false;
        for (uint32_t r = 0; r < t->ranks; r++)
            if (t->start[slot * t->ranks + r] != SKEW_TIME_ABSENT)
                more |= look_at(w, &behind[r], slot, r, exchange_of[slot], parts);
        w->result->in_parts += more && exchange_of[slot] != SIZE_MAX;
    }
}

int skew_time_gaps(struct skew_time_work *w)
{
    const struct skew_times *t = w->times;
    struct behind *behind = malloc(t->ranks * sizeof *behind);
    size_t *exchange_of = malloc(t->count * sizeof *exchange_of);

    if (!behind || !exchange_of) {
        free(behind);
        free(exchange_of);
        return -ENOMEM;
    }
    for (size_t slot = 0; slot < t->count; slot++)
        exchange_of[slot] = SIZE_MAX;
    for (size_t i = 0; i < w->result->complete; i++) {
        exchange_of[w->slot[i]] = i;
        for (size_t cell = i * t->ranks; cell < (i + 1) * t->ranks; cell++)
            w->gap[cell] = w->gap_load[cell] = NAN;
    }
    look_at_all(w, behind, exchange_of, false);
    if (w->result->in_parts)
        look_at_all(w, behind, exchange_of, true);
    free(behind);
    free(exchange_of);
    return 0;
}
