/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pipeline schedules as Megatron-LM defines them (core/pipeline_parallel/schedules.py): all
 * forwards then all backwards (gpipe); one forward one backward after P-1-I warm-up forwards
 * (1f1b); the same over model chunks (interleaved). With one stage, 1f1b is plain gradient
 * accumulation.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "schedule.h"

/* The n-th forward (or backward) of the interleaved schedule: chunks turn every P micro-batches. */
static struct skew_pass interleave(const struct skew_options *opt, unsigned n, bool backward)
{
    unsigned p = opt->pp_stages, v = opt->pp_chunks, within = n % (p * v);
    unsigned chunk = within / p;
    return (struct skew_pass){backward, n / (p * v) * p + within % p,
                              backward ? v - 1 - chunk : chunk};
}

static struct skew_pass nth_pass(const struct skew_options *opt, unsigned n, bool backward)
{
    if (opt->schedule == SKEW_SCHEDULE_INTERLEAVED)
        return interleave(opt, n, backward);
    return (struct skew_pass){backward, n, 0};
}

static unsigned warm_up(const struct skew_options *opt, unsigned passes)
{
    unsigned behind = opt->pp_stages - 1 - opt->pp_stage, n = passes;
    if (opt->schedule == SKEW_SCHEDULE_1F1B)
        n = behind;
    else if (opt->schedule == SKEW_SCHEDULE_INTERLEAVED)
        n = 2 * behind + (opt->pp_chunks - 1) * opt->pp_stages;
    return n < passes ? n : passes;
}

static int check(const struct skew_options *opt, char *error, unsigned long size)
{
    if (opt->pp_stage >= opt->pp_stages)
        snprintf(error, size, "--pp-stage: %u is not one of --pp-stages %u", opt->pp_stage,
                 opt->pp_stages);
    else if (opt->layers % opt->pp_chunks)
        snprintf(error, size, "--pp-chunks: %u layers cannot be cut into %u equal chunks",
                 opt->layers, opt->pp_chunks);
    else if (opt->pp_chunks > 1 && opt->schedule != SKEW_SCHEDULE_INTERLEAVED)
        snprintf(error, size, "--pp-chunks is for --schedule interleaved");
    else if (opt->schedule == SKEW_SCHEDULE_INTERLEAVED && opt->micro_batches % opt->pp_stages)
        snprintf(
            error, size,
            "--microbatches: the interleaved schedule needs a multiple of --pp-stages %u, not %u",
            opt->pp_stages, opt->micro_batches);
    else
        return 0;
    return -EINVAL;
}

int skew_schedule_make(struct skew_pass **out, const struct skew_options *opt, bool backward,
                       char *error, unsigned long error_size)
{
    unsigned passes = opt->micro_batches * opt->pp_chunks, n = 0;
    int rc = check(opt, error, error_size);
    if (rc)
        return rc;
    struct skew_pass *list = malloc(2UL * passes * sizeof *list);
    if (!list) {
        snprintf(error, error_size, "out of memory for the schedule");
        return -ENOMEM;
    }
    unsigned ahead = backward ? warm_up(opt, passes) : passes, forwards = 0, backwards = 0;
    while (forwards < ahead)
        list[n++] = nth_pass(opt, forwards++, false);
    while (backward && backwards < passes) {
        if (forwards < passes)
            list[n++] = nth_pass(opt, forwards++, false);
        list[n++] = nth_pass(opt, backwards++, true);
    }
    *out = list;
    return (int)n;
}

/* Selective is torchtitan's every-second-layer checkpointing: it wraps layers 1, 3, 5, …. */
bool skew_layer_recomputed(const struct skew_job *job, unsigned layer)
{
    if (!job->backward || job->opt->recompute == SKEW_RECOMPUTE_NONE)
        return false;
    return job->opt->recompute == SKEW_RECOMPUTE_FULL || layer % 2 == 1;
}
