/* SPDX-License-Identifier: Apache-2.0 */
/* See serve.h. */
#include "serve.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>

int skew_serve_parse(struct skew_options *opt)
{
    char tail;
    int n = sscanf(opt->serve, "%u:%u%c", &opt->serve_every, &opt->serve_decode, &tail);

    if (n == 3 && tail == ':')
        n = sscanf(opt->serve, "%u:%u:%u%c", &opt->serve_every, &opt->serve_decode,
                   &opt->serve_mixed, &tail) == 3 &&
                    opt->serve_mixed
                ? 2
                : 0;
    bool good = n == 2 && opt->serve_every >= 2 && opt->serve_decode >= 1 &&
                opt->serve_decode <= opt->tokens;
    if (!good)
        opt->serve_every = 0;
    return good ? 0 : -EINVAL;
}

const char *skew_serve_stage(const struct skew_options *opt, unsigned step)
{
    unsigned round = opt->serve_every ? step / opt->serve_every : 0;

    if (!opt->serve_every)
        return NULL;
    if (step % opt->serve_every == 0)
        return "prefill";
    return opt->serve_mixed && step % opt->serve_every == 1 && round % opt->serve_mixed == 0
               ? "mixed"
               : "decode";
}

/* Prompts differ; requests come with a prefill and end one by one, so decode changes slowly. */
unsigned skew_serve_tokens(const struct skew_options *opt, unsigned step, unsigned rank)
{
    const char *stage = skew_serve_stage(opt, step);

    if (!stage || *stage == 'm')
        return opt->tokens;
    unsigned round = step / opt->serve_every;
    if (*stage == 'p')
        return opt->tokens - (1 + round * 13 + rank * 7) % (opt->tokens / 2 + 1);
    unsigned less = (round + rank) % (opt->serve_decode / 4 + 1);
    return opt->serve_decode - less;
}
