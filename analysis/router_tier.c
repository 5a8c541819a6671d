/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where tokens would go at another EP degree, by tier of the network: see router.h.
 */
#include "router.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Tokens of rank `source` (of `ranks`) for each expert, as a share of its sources' rows. */
static void tokens_of(const struct skew_routing_layer *l, uint32_t source, uint32_t ranks,
                      double *tokens)
{
    memset(tokens, 0, l->experts * sizeof *tokens);
    if (l->sources == 0) { /* all ranks alike */
        for (size_t c = 0; c < l->calls; c++)
            for (uint32_t e = 0; e < l->experts; e++)
                tokens[e] += (double)l->counts[c * l->experts + e] / ranks;
        return;
    }
    uint32_t first = (uint32_t)((uint64_t)source * l->sources / ranks);
    uint32_t count = l->sources > ranks ? l->sources / ranks : 1;
    double share = l->sources < ranks ? (double)l->sources / ranks : 1;
    for (uint32_t s = first; s < first + count; s++)
        for (uint32_t e = 0; e < l->experts; e++)
            tokens[e] += share * (double)l->source_counts[(size_t)s * l->experts + e];
}

int skew_router_tiers(double tier[3], const struct skew_routing_layer *l, uint32_t ranks,
                      uint32_t domain)
{
    size_t most = l->slots > l->experts ? l->slots : l->experts, count = 0;
    struct skew_slot *slots = malloc(most * sizeof *slots);
    uint32_t *copies = malloc(l->experts * sizeof *copies);
    double *tokens = malloc(l->experts * sizeof *tokens), total = 0;
    double *loads = malloc((ranks + 1) * sizeof *loads);
    int result = slots && copies && tokens && loads ? 0 : -ENOMEM;

    tier[0] = tier[1] = tier[2] = 0;
    if (result == 0 &&
        (domain == 0 || ranks == 0 || (l->sources && l->sources % ranks && ranks % l->sources)))
        result = -EINVAL;
    if (result == 0)
        result = skew_routing_slots(l, ranks, slots, &count);
    if (result == 0)
        skew_slot_copies(slots, count, l->experts, copies);
    for (uint32_t source = 0; source < ranks && result == 0; source++) {
        tokens_of(l, source, ranks, tokens);
        skew_slot_loads(slots, count, copies, tokens, ranks, loads);
        for (uint32_t r = 0; r < ranks; r++) {
            tier[r == source ? 0 : r / domain == source / domain ? 1 : 2] += loads[r];
            total += loads[r];
        }
    }
    for (int t = 0; t < 3 && result == 0; t++)
        tier[t] = total > 0 ? tier[t] / total : 0;
    free(slots);
    free(copies);
    free(tokens);
    free(loads);
    return result;
}
