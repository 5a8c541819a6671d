/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The list of patterns, and what they all share.
 */
#include <string.h>

#include "pattern.h"

const struct skew_pattern *const skew_patterns[] = {
    &skew_pattern_megatron,         &skew_pattern_torchtitan,
    &skew_pattern_fastmoe,          &skew_pattern_deepspeed,
    &skew_pattern_deepspeed_nodrop, &skew_pattern_autoep,
    &skew_pattern_colossalai,       &skew_pattern_tutel,
    &skew_pattern_tutel_padded,     &skew_pattern_vllm,
    &skew_pattern_xla_ragged,       NULL,
};

const struct skew_pattern *skew_pattern_find(const char *name)
{
    for (const struct skew_pattern *const *p = skew_patterns; *p; p++)
        if (!strcmp((*p)->name, name))
            return *p;
    return NULL;
}

/* Tokens travel in --dtype; results and gradients in the type that results have (bf16 where tokens
 * are fp8, which no framework accumulates in). */
static bool is_dispatch(enum skew_role role)
{
    return role == SKEW_ROLE_DISPATCH;
}

size_t skew_row_bytes(const struct skew_rank *rank, enum skew_role role)
{
    const struct skew_job *job = rank->job;
    return (size_t)job->opt->hidden *
           (is_dispatch(role) ? job->elem_bytes : job->combine_elem_bytes);
}

ncclDataType_t skew_row_type(const struct skew_rank *rank, enum skew_role role)
{
    return is_dispatch(role) ? rank->job->dtype : rank->job->combine_dtype;
}
