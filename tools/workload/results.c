/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The layout of a rank's results, and the names that results, truth and report share.
 */
#include "results.h"

static const char *const role_names[SKEW_ROLES] = {
    "count",       "capacity",  "offsets",      "dispatch", "dispatch_probs", "activate", "combine",
    "combine_bwd", "probs_bwd", "dispatch_bwd", "sequence", "pipeline",       "bias",
};

static const char *const phase_names[] = {"forward", "backward", "recompute"};

const char *skew_role_name(enum skew_role role)
{
    return role_names[role];
}

const char *skew_phase_name(enum skew_phase phase)
{
    return phase_names[phase];
}

size_t skew_results_bytes(const struct skew_options *opt)
{
    size_t cells = (size_t)SKEW_ROLES * opt->ranks + (size_t)opt->layers * opt->experts;
    return sizeof(struct skew_results) + cells * sizeof(uint64_t);
}

uint64_t *skew_results_sent(struct skew_results *r, const struct skew_options *opt, int role)
{
    return r->cell + (size_t)role * opt->ranks;
}

uint64_t *skew_results_tokens(struct skew_results *r, const struct skew_options *opt,
                              unsigned layer)
{
    return r->cell + (size_t)SKEW_ROLES * opt->ranks + (size_t)layer * opt->experts;
}
