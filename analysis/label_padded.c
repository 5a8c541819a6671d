/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Equal sizes to all ranks, and nothing that tells sizes before: capacity-padded dispatch, or
 * sequence parallelism, or something else. Sizes cannot tell them apart. What can: the user's
 * number of layers; or that on two communicators such exchanges take turns, four at a time
 * (queries, keys, values and what attention makes of them) and two at a time (there and back).
 * Otherwise nothing is said.
 */
#include "label_lane.h"

#include <errno.h>
#include <stdlib.h>

#include "nccl_abi.h"

#define PLACES_MAX 8

/* Greatest common divisor of the lengths of uninterrupted runs on one communicator. */
static uint64_t common_run(const struct skew_labelling *lane, uint32_t comm)
{
    uint64_t common = 0, run = 0;

    for (uint32_t i = 0; i < lane->event_count; i++) {
        const struct skew_rows_exchange *x = skew_lane_exchange(lane, i);
        if (x && lane->rows->members[x->member].comm == comm) {
            run++;
        } else if (run) {
            common = skew_gcd(common, run);
            run = 0;
        }
    }
    return skew_gcd(common, run);
}

static bool is_candidate(const struct skew_use *use)
{
    return use->payload && !use->sizes && use->leader == SKEW_LEADER_NONE && use->payload % 2 == 0;
}

/* The communicator whose exchanges are dispatch and combine; −1: none can be said to be. */
static int64_t find_padded(const struct skew_labelling *lane)
{
    int64_t pairs = -1;
    uint32_t candidates = 0, fours = 0, twos = 0;

    for (uint32_t c = 0; c < lane->rows->comm_count; c++) {
        const struct skew_use *use = &lane->uses[c];
        if (use->payload && (use->leader || use->sizes))
            return -1; /* experts' exchanges are elsewhere */
        if (!is_candidate(use))
            continue;
        uint64_t run = common_run(lane, c);
        candidates++;
        fours += run % 4 == 0;
        if (run % 4 != 0) {
            twos += run % 2 == 0;
            pairs = c;
        } else if (pairs < 0 && candidates == 1) {
            pairs = c;
        }
    }
    if (candidates == 1 && lane->options->layers)
        return pairs;
    return candidates == 2 && fours == 1 && twos == 1 ? pairs : -1;
}

struct site {
    int64_t site;
    int32_t thread;
};

/* Marks what is forward: all places that calls come from but the last one to appear, or the only
 * one. */
static void mark_forward(struct skew_labelling *lane, const uint32_t *payload, uint32_t count)
{
    struct site sites[PLACES_MAX];
    uint32_t known = 0;

    for (int round = 0; round < 2; round++) {
        for (uint32_t i = 0; i < count; i += 2) {
            const struct skew_rows_exchange *x = skew_lane_exchange(lane, payload[i]);
            uint32_t k = 0;
            while (k < known && (sites[k].site != x->site || sites[k].thread != x->thread))
                k++;
            if (round == 0 && k == known && known < PLACES_MAX)
                sites[known++] = (struct site){x->site, x->thread};
            if (round == 1 && (known == 1 || k + 1 < known))
                lane->leader_of[(size_t)payload[i] * SKEW_LEADERS + SKEW_LEADER_SITE] =
                    payload[i] + 1;
        }
    }
}

int skew_lane_padded(struct skew_labelling *lane)
{
    int64_t comm = find_padded(lane);
    uint32_t from = 0;

    if (comm < 0)
        return 0;
    for (int64_t c = 0; c < comm; c++)
        from += lane->uses[c].payload;
    /* without call sites forward and backward cannot be told apart */
    if (!skew_lane_exchange(lane, lane->payload[from])->site)
        return 0;
    lane->uses[comm].leader = SKEW_LEADER_SITE;
    mark_forward(lane, lane->payload + from, lane->uses[comm].payload);
    return 0;
}
