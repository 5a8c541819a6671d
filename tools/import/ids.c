/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Expert ids of single tokens, from arrays: .npy of any order of axes, and vLLM's routed experts
 * (one array a request). What a token's step, source rank and stage are is decided here.
 */
#include "import.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../term.h"

enum axis { AXIS_REQUEST, AXIS_STEP, AXIS_TOKEN, AXIS_LAYER, AXIS_RANK, AXIS_K, AXES };

static const char *const axis_names[AXES] = {"request", "step", "token", "layer", "rank", "k"};

struct array {
    const struct skew_npy *npy;
    const char *file;
    size_t size[AXES], stride[AXES]; /* 1 and 0 where there is no such axis */
    bool has[AXES];
};

int32_t skew_import_source(const struct skew_import_options *options, size_t i, size_t n)
{
    if (options->ranks == 0)
        return -1;
    if (options->assign == SKEW_ASSIGN_ROUND_ROBIN)
        return (int32_t)(i % options->ranks);
    return (int32_t)((uint64_t)i * options->ranks / n);
}

static int arrange(struct array *a, const struct skew_npy *npy, const char *axes, const char *file)
{
    char shape[160];
    uint32_t named = 0;

    *a = (struct array){.npy = npy, .file = file};
    for (int i = 0; i < AXES; i++) {
        int axis = skew_import_axis(axes, axis_names[i]);
        a->size[i] = 1;
        if (axis < 0 || (uint32_t)axis >= npy->dims)
            continue;
        a->has[i] = true;
        a->size[i] = npy->shape[axis];
        a->stride[i] = npy->stride[axis];
        named++;
    }
    uint32_t given = *axes ? 1 : 0;
    for (const char *c = axes; *c; c++)
        given += *c == ',';
    if (named != npy->dims || given != npy->dims || !a->has[AXIS_K]) {
        skew_tell("%s: shape %s does not fit the axes %s; name each dimension once with --axes, of "
                  "request, step, token, layer, rank and k (k must be there)",
                  file, skew_npy_shape(npy, shape), axes);
        return -EINVAL;
    }
    if (npy->count == 0 || a->size[AXIS_K] > SKEW_IMPORT_TOPK_MAX) {
        skew_tell("%s: shape %s: %s", file, skew_npy_shape(npy, shape),
                  npy->count ? "more than 256 experts a token; are the axes in the right order?"
                             : "there is nothing in it");
        return -EINVAL;
    }
    return 0;
}

/* The k ids of one token; −EINVAL is told. */
static int ids_at(const struct skew_import *import, const struct array *a, const size_t at[AXES],
                  uint32_t *ids)
{
    uint32_t k = (uint32_t)a->size[AXIS_K];
    uint32_t limit = import->options.experts ? import->options.experts : SKEW_IMPORT_EXPERTS_MAX;
    size_t offset = 0;

    for (int i = 0; i < AXIS_K; i++)
        offset += at[i] * a->stride[i];
    for (uint32_t i = 0; i < k; i++) {
        uint64_t id;
        bool whole = skew_npy_at(a->npy, offset + i * a->stride[AXIS_K], &id);
        bool again = false;
        for (uint32_t j = 0; j < i && whole; j++)
            again |= ids[j] == id;
        if (!whole || id >= limit || again) {
            char what[64];
            snprintf(what, sizeof what, whole ? "%s %llu" : "%s",
                     again   ? "twice expert"
                     : whole ? "expert"
                             : "no whole number from 0",
                     (unsigned long long)(whole ? id : 0));
            skew_tell("%s: %s at request %zu, token %zu, layer %zu, k %u; expert ids lie between 0 "
                      "and %u%s",
                      a->file, what, at[AXIS_REQUEST], at[AXIS_TOKEN], at[AXIS_LAYER], i, limit - 1,
                      import->options.experts ? " as --experts says" : ", each once a token");
            return -EINVAL;
        }
        ids[i] = (uint32_t)id;
    }
    return 0;
}

/* Which row the token at `at` belongs to. */
static void key_of(const struct skew_import *import, const struct array *a, const size_t at[AXES],
                   struct skew_import_key *key)
{
    const struct skew_import_options *o = &import->options;
    int64_t token = (int64_t)at[AXIS_TOKEN], step = (int64_t)at[AXIS_STEP];
    int64_t size = o->step_tokens >= 0 ? o->step_tokens : a->has[AXIS_REQUEST] ? 16 : 0;
    bool by_token = a->has[AXIS_TOKEN] && size > 0;

    *key = (struct skew_import_key){.step = a->has[AXIS_STEP] ? step : -1,
                                    .layer = o->layer_base + (int64_t)at[AXIS_LAYER],
                                    .microbatch = -1,
                                    .request = -1,
                                    .source = -1,
                                    .stage = o->stage};
    if (o->prompt_tokens >= 0) {
        bool prefill = token < o->prompt_tokens;
        key->stage = prefill ? "prefill" : "decode";
        token -= o->prompt_tokens;
        by_token = by_token && !prefill;
    }
    if (by_token)
        key->step = token / size;
    if (!o->keep_steps)
        key->step = -1;
    if (a->has[AXIS_REQUEST] && o->keep_requests)
        key->request = (int64_t)import->request_base + (int64_t)at[AXIS_REQUEST];
    if (a->has[AXIS_RANK])
        key->source = (int32_t)at[AXIS_RANK];
    else if (a->has[AXIS_REQUEST])
        key->source = skew_import_source(o, import->request_base + at[AXIS_REQUEST],
                                         import->request_total
                                             ? import->request_total
                                             : import->request_base + a->size[AXIS_REQUEST]);
    else if (by_token && !a->has[AXIS_STEP])
        key->source = skew_import_source(o, (size_t)(token % size), (size_t)size);
    else
        key->source = skew_import_source(o, at[AXIS_TOKEN], a->size[AXIS_TOKEN]);
}

static bool skipped(const struct skew_import_options *o, const struct skew_import_key *key,
                    const size_t at[AXES])
{
    return (int64_t)at[AXIS_TOKEN] < o->skip_tokens ||
           (key->step >= 0 && key->step < o->skip_steps);
}

/* ---- what token ids alone can tell ------------------------------------------------------------
 */

/* Whether two tokens of a request go to the same experts in all layers. */
static bool alike(const struct array *a, size_t request, size_t step, size_t one, size_t other)
{
    for (size_t l = 0; l < a->size[AXIS_LAYER]; l++)
        for (size_t k = 0; k < a->size[AXIS_K]; k++) {
            size_t base = request * a->stride[AXIS_REQUEST] + step * a->stride[AXIS_STEP] +
                          l * a->stride[AXIS_LAYER] + k * a->stride[AXIS_K];
            uint64_t x = 0, y = 0;
            (void)skew_npy_at(a->npy, base + one * a->stride[AXIS_TOKEN], &x);
            (void)skew_npy_at(a->npy, base + other * a->stride[AXIS_TOKEN], &y);
            if (x != y)
                return false;
        }
    return true;
}

/* Share of experts that a token has in common with the token `lag` before it, over the last
 * `window` tokens of a request, in every fourth layer. */
static double overlap(const struct array *a, size_t request, size_t window, size_t lag)
{
    size_t same = 0, all = 0, tokens = a->size[AXIS_TOKEN], k = a->size[AXIS_K];

    for (size_t t = tokens - window; t < tokens; t++)
        for (size_t l = 0; l < a->size[AXIS_LAYER]; l += 4) {
            size_t base = request * a->stride[AXIS_REQUEST] + l * a->stride[AXIS_LAYER];
            for (size_t i = 0; i < k; i++) {
                uint64_t x = 0, y;
                (void)skew_npy_at(a->npy, base + t * a->stride[AXIS_TOKEN] + i * a->stride[AXIS_K],
                                  &x);
                for (size_t j = 0; j < k; j++)
                    same += skew_npy_at(a->npy,
                                        base + (t - lag) * a->stride[AXIS_TOKEN] +
                                            j * a->stride[AXIS_K],
                                        &y) &&
                            x == y;
                all++;
            }
        }
    return (double)same / (double)all;
}

/* On 64 requests of gpt-oss-20b, whose texts are known: 0.66 to 0.91 for those that loop to their
 * end, 0.36 to 0.59 for all others but one. */
enum { LOOP_WINDOW = 192, LOOP_LAG = 96 };
#define LOOP_SHARE 0.65

/* Requests whose end repeats itself: generation loops, which routing shows as periods. */
static int note_loops(struct skew_import *import, const struct array *a)
{
    size_t loops = 0, used = 0;
    char list[120] = "";

    if (!a->has[AXIS_REQUEST] || a->size[AXIS_TOKEN] < LOOP_WINDOW + LOOP_LAG || a->has[AXIS_STEP])
        return 0;
    for (size_t r = 0; r < a->size[AXIS_REQUEST]; r++) {
        bool loop = false;
        for (size_t lag = 1; lag <= LOOP_LAG && !loop; lag++)
            loop = overlap(a, r, 24, lag) >= LOOP_SHARE - 0.1 && /* cheap, first */
                   overlap(a, r, LOOP_WINDOW, lag) >= LOOP_SHARE;
        if (!loop)
            continue;
        loops++;
        if (used < 90)
            used += (size_t)snprintf(list + used, sizeof list - used, "%s%zu", used ? ", " : "",
                                     import->request_base + r);
    }
    if (loops == 0)
        return 0;
    return skew_import_note(
        import, "warning", "import_repetition_loop",
        "%s: %zu of %zu requests end in a loop (their last %d tokens are routed "
        "as a period before): %s%s; loops make routing look more concentrated "
        "and more predictable than it is",
        a->file, loops, a->size[AXIS_REQUEST], LOOP_WINDOW, list, used >= 90 ? ", …" : "");
}

/* A run of tokens that are all routed alike at the beginning: a dummy or profiling pass. */
static int note_warm_up(struct skew_import *import, const struct array *a)
{
    size_t run = 1, tokens = a->size[AXIS_TOKEN];

    if (a->has[AXIS_REQUEST] && a->size[AXIS_REQUEST] > 1)
        return 0;
    while (run < tokens && alike(a, 0, 0, 0, run))
        run++;
    if (run < 16 || import->options.skip_tokens >= (int64_t)run)
        return 0;
    return skew_import_note(
        import, "warning", "import_warm_up",
        "%s: the first %zu of %zu tokens are routed exactly alike: a warm-up or "
        "profiling pass; leave it out with --skip-tokens %zu",
        a->file, run, tokens, run);
}

/* ---- all of an array --------------------------------------------------------------------------
 */

static int take(struct skew_import *import, const struct array *a, const size_t at[AXES])
{
    uint32_t ids[SKEW_IMPORT_TOPK_MAX];
    struct skew_import_key key;
    size_t index;

    key_of(import, a, at, &key);
    if (skipped(&import->options, &key, at))
        return 0;
    int result = ids_at(import, a, at, ids);
    if (result == 0)
        result = skew_import_row(&import->rows, &key, &index);
    if (result == 0)
        result = skew_import_token(&import->rows, index, ids, (uint32_t)a->size[AXIS_K]);
    return result;
}

int skew_import_ids(struct skew_import *import, const struct skew_npy *npy, const char *axes,
                    const char *file)
{
    struct array a;
    size_t at[AXES] = {0};
    int result = arrange(&a, npy, axes, file);

    if (import->counting) {
        import->request_total += a.has[AXIS_REQUEST] ? a.size[AXIS_REQUEST] : 0;
        return result;
    }
    if (result == 0 && a.has[AXIS_RANK] && import->options.ranks &&
        import->options.ranks != a.size[AXIS_RANK]) {
        skew_tell("%s: %zu ranks, where --ranks says %u; leave --ranks out", file,
                  a.size[AXIS_RANK], import->options.ranks);
        return -EINVAL;
    }
    while (result == 0) {
        result = take(import, &a, at);
        int i = AXIS_K;
        while (i > 0 && ++at[i - 1] == a.size[i - 1])
            at[--i] = 0;
        if (i == 0)
            break;
    }
    if (result == 0)
        result = note_warm_up(import, &a);
    if (result == 0)
        result = note_loops(import, &a);
    import->request_base += a.has[AXIS_REQUEST] ? (uint32_t)a.size[AXIS_REQUEST] : 0;
    return result;
}

int skew_import_topk(struct skew_import *import, const char *file)
{
    static const char *const usual[] = {NULL, NULL, "token,k", "token,layer,k",
                                        "request,token,layer,k"};
    const char *axes = import->options.axes;
    struct skew_npy npy;
    char shape[160];
    int result = skew_npy_read(&npy, file);

    if (result < 0)
        return result;
    if (!axes && npy.dims >= 2 && npy.dims <= 4)
        axes = usual[npy.dims];
    if (axes) {
        result = skew_import_ids(import, &npy, axes, file);
    } else {
        skew_tell("%s: shape %s: say what its axes are with --axes, of request, step, token, "
                  "layer, rank and k",
                  file, skew_npy_shape(&npy, shape));
        result = -EINVAL;
    }
    skew_npy_free(&npy);
    return result;
}

/* vLLM --enable-return-routed-experts: one request a file, [tokens, layers, k]. */
int skew_import_vllm(struct skew_import *import, const char *file)
{
    struct skew_npy npy;
    char shape[160];
    int result = skew_npy_read(&npy, file);

    if (result < 0)
        return result;
    if (npy.dims == 3) {
        npy.dims = 4; /* a request axis in front */
        memmove(npy.shape + 1, npy.shape, 3 * sizeof *npy.shape);
        memmove(npy.stride + 1, npy.stride, 3 * sizeof *npy.stride);
        npy.shape[0] = 1;
        npy.stride[0] = 0;
        result = skew_import_ids(import, &npy, "request,token,layer,k", file);
    } else {
        skew_tell("%s: shape %s, where vLLM's routed experts are [tokens, layers, k], one file a "
                  "request; for other arrays use the format topk with --axes",
                  file, skew_npy_shape(&npy, shape));
        result = -EINVAL;
    }
    skew_npy_free(&npy);
    return result;
}
