/* SPDX-License-Identifier: Apache-2.0 */
/*
 * skewscope-workload: a Mixture-of-Experts expert-parallel job that calls NCCL as the frameworks
 * do, checks every token and prints what it exchanged. docs/workload.md is its manual.
 *
 * This file puts the job together from the options and starts the ranks; it makes no CUDA or NCCL
 * call.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "launch.h"
#include "nvtx.h"
#include "pattern.h"
#include "placement.h"
#include "rendezvous.h"
#include "results.h"
#include "routing.h"
#include "rows.h"
#include "schedule.h"
#include "serve.h"
#include "truth.h"

struct dtype {
    const char *name;
    ncclDataType_t type, combine;
};

/* PyTorch hands fp8 to NCCL as uint8; results are never fp8. */
static const struct dtype dtypes[] = {
    {"fp32", ncclFloat32, ncclFloat32},        {"fp16", ncclFloat16, ncclFloat16},
    {"bf16", ncclBfloat16, ncclBfloat16},      {"fp8", ncclUint8, ncclBfloat16},
    {"fp8e4m3", ncclFloat8e4m3, ncclBfloat16}, {"fp8e5m2", ncclFloat8e5m2, ncclBfloat16},
};

static int set_dtype(struct skew_job *job, char *error, size_t size)
{
    const struct skew_options *opt = job->opt;
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++) {
        if (strcmp(dtypes[i].name, opt->dtype) != 0)
            continue;
        job->dtype = dtypes[i].type;
        job->combine_dtype = dtypes[i].combine;
        job->elem_bytes = skew_nccl_type_size(job->dtype);
        job->combine_elem_bytes = skew_nccl_type_size(job->combine_dtype);
        if ((size_t)opt->hidden * job->elem_bytes >= sizeof(struct skew_tag))
            return 0;
        snprintf(error, size, "--hidden: a token of %u %s has no room for its %zu byte tag",
                 opt->hidden, opt->dtype, sizeof(struct skew_tag));
        return -EINVAL;
    }
    snprintf(error, size, "--dtype: '%s' is none of fp32, fp16, bf16, fp8, fp8e4m3, fp8e5m2",
             opt->dtype);
    return -EINVAL;
}

static int set_corrupt(struct skew_job *job, char *error, size_t size)
{
    char tail;
    job->corrupt_rank = ~0u;
    if (!job->opt->corrupt || sscanf(job->opt->corrupt, "%u:%u:%u%c", &job->corrupt.step,
                                     &job->corrupt.layer, &job->corrupt_rank, &tail) == 3)
        return 0;
    snprintf(error, size, "--corrupt: '%s' is not STEP:LAYER:RANK", job->opt->corrupt);
    return -EINVAL;
}

static int set_pattern(struct skew_job *job, struct skew_options *opt, char *error, size_t size)
{
    job->pattern = skew_pattern_find(opt->pattern);
    if (!job->pattern)
        snprintf(error, size, "--pattern: there is no '%s'; --help lists them", opt->pattern);
    else if (opt->mode == SKEW_MODE_TRAIN && !job->pattern->train)
        snprintf(error, size, "--mode: pattern %s is for inference", opt->pattern);
    else if (job->pattern->even_tokens && opt->tokens_spread > 0)
        snprintf(error, size, "--tokens-spread: pattern %s needs equally many tokens on all ranks",
                 opt->pattern);
    else if (opt->ranks % opt->ep_groups)
        snprintf(error, size, "--several-ep-groups: %u ranks cannot be cut into %u equal groups",
                 opt->ranks, opt->ep_groups);
    else if (opt->serve && skew_serve_parse(opt) < 0)
        snprintf(error, size,
                 "--serve: '%s' is not P:D[:M], with P at least 2, D from 1 to --tokens %u",
                 opt->serve, opt->tokens);
    else if (opt->serve && ((job->pattern->train && opt->mode != SKEW_MODE_INFER) ||
                            opt->tokens_spread > 0 || job->pattern->even_tokens))
        snprintf(error, size,
                 "--serve is for --mode infer, without --tokens-spread, and not for pattern %s",
                 opt->pattern);
    else if (!opt->steps && !opt->graph)
        snprintf(error, size, "--steps: 0 leaves nothing to do without --graph");
    else if (opt->graph && opt->nonblocking)
        snprintf(error, size, "--graph and --nonblocking cannot be used together");
    else {
        job->ep_size = opt->ranks / opt->ep_groups;
        job->backward = job->pattern->train && opt->mode != SKEW_MODE_INFER;
        return 0;
    }
    return -EINVAL;
}

/* All ranks must have as many tokens in every micro-batch, where the pattern's buffers demand it.
 */
static int check_even(const struct skew_job *job, char *error, size_t size)
{
    for (unsigned r = 1; job->pattern->even_tokens && r < job->opt->ranks; r++) {
        unsigned first = skew_routing_tokens(job->routing, 0, 0);
        unsigned other = skew_routing_tokens(job->routing, 0, r);
        if (first == other)
            continue;
        snprintf(
            error, size,
            "--pattern: %s needs equally many tokens on all ranks; %s gives rank 0 %u and rank %u "
            "%u",
            job->opt->pattern, job->routing->source, first, r, other);
        return -EINVAL;
    }
    return 0;
}

static int prepare(struct skew_job *job, struct skew_options *opt, const char *prefix, char *error,
                   size_t size)
{
    struct skew_pass *pass = NULL;
    struct skew_routing *routing = NULL;
    struct skew_placement *placement = NULL;
    int rc = set_pattern(job, opt, error, size);
    if (!rc) {
        unsigned replays = !opt->graph ? 0 : job->pattern->static_sizes ? opt->graph : 1;
        rc = skew_routing_open(&routing, opt, replays, error, size);
        job->routing = routing;
    }
    if (!rc) {
        rc = skew_placement_open(&placement, opt->placement, opt->layers, opt->experts,
                                 job->ep_size, error, size);
        job->placement = placement;
    }
    if (!rc)
        rc = check_even(job, error, size);
    if (!rc)
        rc = set_dtype(job, error, size);
    if (!rc)
        rc = set_corrupt(job, error, size);
    if (!rc) {
        rc = skew_schedule_make(&pass, opt, job->backward, error, size);
        free(pass);
        rc = rc < 0 ? rc : 0;
    }
    if (!rc)
        rc = skew_rendezvous_open(&job->rendezvous, opt->ranks, skew_results_bytes(opt), prefix,
                                  error, size);
    return rc;
}

/* The report and the joined truth: by the process that started the ranks, or by a launcher's rank
 * 0. */
static int finish(const struct skew_job *job)
{
    int rc = skew_rendezvous_collect(job->rendezvous);
    if (!rc && job->opt->truth)
        rc = skew_truth_join(job->opt->truth, job->opt->ranks);
    if (rc) {
        fprintf(stderr, "skewscope-workload: cannot gather the ranks' results: %s\n",
                strerror(-rc));
        return 1;
    }
    skew_report(job);
    if (fflush(stdout) || ferror(stdout)) {
        fprintf(stderr, "skewscope-workload: cannot write the report\n");
        return 1;
    }
    return 0;
}

static int run(struct skew_job *job, const struct skew_launcher *launcher)
{
    if (job->opt->share_gpu)
        skew_launch_share_gpu();
    if (launcher) {
        skew_launch_announce(job, launcher->rank, launcher->local_rank);
        skew_rank_run(job, launcher->rank, launcher->local_rank);
        return launcher->rank == 0 ? finish(job) : 0;
    }
    int failed = job->opt->threads ? skew_launch_threads(job) : skew_launch_processes(job);
    return failed ? 1 : finish(job);
}

static void release(struct skew_job *job)
{
    struct skew_routing *routing = (struct skew_routing *)job->routing;
    struct skew_placement *placement = (struct skew_placement *)job->placement;
    skew_rendezvous_close(&job->rendezvous);
    skew_routing_close(&routing);
    skew_placement_close(&placement);
}

int main(int argc, char **argv)
{
    char error[1024];
    struct skew_options opt;
    struct skew_launcher found, *launcher = NULL;
    int rc = skew_options_parse(&opt, argc, argv);
    if (rc)
        return rc > 0 ? 0 : 2;
    if (!opt.ranks && skew_launcher_find(&found)) {
        launcher = &found;
        opt.ranks = found.world_size;
    }
    opt.ranks = opt.ranks ? opt.ranks : 8;
    struct skew_job job = {.opt = &opt};
    const char *prefix = opt.rendezvous ? opt.rendezvous : found.rendezvous;
    if (launcher && found.rank >= found.world_size) {
        fprintf(stderr, "skewscope-workload: RANK %u is not below WORLD_SIZE %u\n", found.rank,
                found.world_size);
        return 2;
    }
    if (opt.nvtx)
        skew_nvtx_open(); /* before there are ranks: they share it */
    rc = prepare(&job, &opt, launcher ? prefix : NULL, error, sizeof error);
    if (rc)
        fprintf(stderr, "skewscope-workload: %s\n", error);
    int status = rc ? 2 : run(&job, launcher);
    release(&job);
    return status;
}
