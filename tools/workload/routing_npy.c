/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Real routing: top-k ids from an .npy array whose axes are named by --npy-axes. With a request
 * axis (decoding) the requests are dealt to the ranks and a micro-batch is a run of positions;
 * without one (prefill) the tokens are dealt to the ranks and a micro-batch is a run of those. The
 * whole array is checked once, when it is opened.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "npy.h"
#include "routing.h"

enum axis { REQUEST, TOKEN, LAYER, TOPK, AXES };
static const char *const axis_names[AXES] = {"request", "token", "layer", "k"};

struct ids {
    struct skew_npy *npy;
    size_t size[AXES], stride[AXES]; /* size 1 and stride 0 for an axis that is not there */
    int has_requests;
};

static void npy_close(struct skew_routing *r)
{
    struct ids *s = r->state;
    skew_npy_close(&s->npy);
    free(s);
}

static int name_axes(struct ids *s, const char *names, char *error, size_t size)
{
    size_t stride = s->npy->elements;
    unsigned seen = 0, n = 0;
    for (int a = 0; a < AXES; a++)
        s->size[a] = 1;
    for (const char *p = names; p; n++) {
        size_t len = strcspn(p, ",");
        int a = 0;
        while (a < AXES && (strlen(axis_names[a]) != len || strncmp(axis_names[a], p, len) != 0))
            a++;
        if (a == AXES || seen & 1u << a || n >= s->npy->ndim)
            break;
        seen |= 1u << a;
        s->size[a] = s->npy->shape[n];
        s->stride[a] = stride /= s->npy->shape[n];
        p = p[len] ? p + len + 1 : NULL;
        if (!p && n + 1 == s->npy->ndim && seen & 1u << TOKEN && seen & 1u << TOPK) {
            s->has_requests = seen >> REQUEST & 1;
            return 0;
        }
    }
    snprintf(
        error, size,
        "--npy-axes: '%s' does not name the array's %u axes; give request, token, layer, k once "
        "each, token and k at least",
        names, s->npy->ndim);
    return -EINVAL;
}

static size_t index_of(const struct ids *s, size_t request, size_t token, size_t layer, size_t k)
{
    return request * s->stride[REQUEST] + token * s->stride[TOKEN] + layer * s->stride[LAYER] +
           k * s->stride[TOPK];
}

static int check_row(const struct ids *s, size_t first, unsigned experts, const char *where,
                     char *error, size_t size)
{
    for (size_t k = 0; k < s->size[TOPK]; k++) {
        int64_t id = skew_npy_at(s->npy, first + k * s->stride[TOPK]);
        if (id < 0 || id >= experts) {
            snprintf(error, size, "%s: expert %lld is not one of --experts %u", where,
                     (long long)id, experts);
            return -EINVAL;
        }
        for (size_t j = 0; j < k; j++) {
            if (skew_npy_at(s->npy, first + j * s->stride[TOPK]) == id) {
                snprintf(error, size, "%s: expert %lld stands twice in one token", where,
                         (long long)id);
                return -EINVAL;
            }
        }
    }
    return 0;
}

static int check_ids(const struct ids *s, const struct skew_options *opt, const char *path,
                     char *error, size_t size)
{
    char where[400];
    for (size_t q = 0; q < s->size[REQUEST]; q++) {
        for (size_t t = 0; t < s->size[TOKEN]; t++) {
            for (size_t l = 0; l < s->size[LAYER]; l++) {
                snprintf(where, sizeof where, "%.200s: request %zu, token %zu, layer %zu", path, q,
                         t, l);
                int rc = check_row(s, index_of(s, q, t, l, 0), opt->experts, where, error, size);
                if (rc)
                    return rc;
            }
        }
    }
    return 0;
}

/* The ids do not say how many experts there are, since the last ones may never have been chosen:
 * the fewest that the ranks of an EP group can share evenly are assumed. */
static unsigned fewest_experts(const struct ids *s, const struct skew_options *opt)
{
    int64_t largest = 0;
    unsigned ep = opt->ranks / opt->ep_groups;
    for (size_t i = 0; i < s->npy->elements; i++) {
        int64_t id = skew_npy_at(s->npy, i);
        largest = id > largest ? id : largest;
    }
    if (largest >= 65535)
        return 65535; /* too many: checking the ids names the one */
    return ((unsigned)largest + ep) / ep * ep;
}

static int settle(struct ids *s, struct skew_options *opt, const char *path, char *error,
                  size_t size)
{
    if (!opt->experts)
        opt->experts = fewest_experts(s, opt);
    if (opt->topk && opt->topk != s->size[TOPK]) {
        snprintf(error, size, "--topk: %s has %zu experts a token, not %u", path, s->size[TOPK],
                 opt->topk);
        return -EINVAL;
    }
    if (opt->layers > s->size[LAYER]) {
        snprintf(error, size, "--layers: %s has %zu layers, not %u", path, s->size[LAYER],
                 opt->layers);
        return -EINVAL;
    }
    opt->topk = (unsigned)s->size[TOPK];
    opt->layers = opt->layers ? opt->layers : (unsigned)s->size[LAYER];
    if (opt->tokens_spread > 0) {
        snprintf(error, size, "--tokens-spread is for synthetic routing; %s has its own tokens",
                 path);
        return -EINVAL;
    }
    return check_ids(s, opt, path, error, size);
}

static int npy_open(struct skew_routing *r, struct skew_options *opt, const char *path, char *error,
                    size_t size)
{
    struct ids *s = r->state = calloc(1, sizeof *s);
    if (!s || !path || !*path) {
        snprintf(error, size, "--routing: npy needs a file, as in npy:topk.npy");
        return s ? -EINVAL : -ENOMEM;
    }
    int rc = skew_npy_read(&s->npy, path, error, size);
    if (rc)
        return rc;
    const char *axes = opt->npy_axes;
    if (!axes)
        axes = s->npy->ndim == 4 ? "request,token,layer,k" : "layer,token,k";
    rc = name_axes(s, axes, error, size);
    if (!rc)
        rc = settle(s, opt, path, error, size);
    if (rc)
        return rc;
    size_t dealt = s->has_requests ? s->size[TOKEN] : s->size[TOKEN] / opt->ranks;
    r->max_blocks = (unsigned)(dealt / opt->tokens);
    if (!r->max_blocks) {
        snprintf(error, size, "--tokens: %s has only %zu %s, not %u", path, dealt,
                 s->has_requests ? "positions" : "tokens a rank", opt->tokens);
        return -EINVAL;
    }
    return 0;
}

/* The share of `n` things that falls to a rank: [first, first + returned count). */
static unsigned share(const struct skew_options *opt, size_t n, unsigned rank, size_t *first)
{
    *first = n * rank / opt->ranks;
    return (unsigned)(n * (rank + 1) / opt->ranks - *first);
}

static unsigned npy_tokens(const struct skew_routing *r, unsigned block, unsigned rank)
{
    const struct ids *s = r->state;
    size_t first;
    (void)block;
    if (!s->has_requests)
        return r->opt->tokens;
    return r->opt->tokens * share(r->opt, s->size[REQUEST], rank, &first);
}

static void npy_fill(const struct skew_routing *r, unsigned block, unsigned layer, unsigned rank,
                     uint16_t *ids)
{
    const struct ids *s = r->state;
    const struct skew_options *opt = r->opt;
    unsigned tokens = npy_tokens(r, block, rank);
    size_t first;
    unsigned requests = share(opt, s->size[s->has_requests ? REQUEST : TOKEN], rank, &first);
    for (unsigned t = 0; t < tokens; t++) {
        size_t request = s->has_requests ? first + t % requests : 0;
        size_t token = (size_t)block * opt->tokens + (s->has_requests ? t / requests : first + t);
        size_t at = index_of(s, request, token, layer, 0);
        for (unsigned k = 0; k < opt->topk; k++)
            *ids++ = (uint16_t)skew_npy_at(s->npy, at + k * s->stride[TOPK]);
    }
}

const struct skew_routing_kind skew_routing_npy = {"npy",     1,          npy_open,
                                                   npy_close, npy_tokens, npy_fill};
