/* SPDX-License-Identifier: Apache-2.0 */
/* See synth_truth.h: settings, what was drawn, and what follows from them, as one JSON object. */
#include "synth_truth.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "synth_private.h"

struct synth_truth {
    const struct skew_synth *synth;
    char *path;
    json_t *late;
    json_t *steps; /* what each step cost */
    int64_t step;
    double first_ns, last_ns, transfer_ns, skew_ns, wait_ns; /* of the step in hand */
    double busiest_least, busiest_most;
    uint64_t exchanges;
};

int synth_truth_open(struct synth_truth **out, const struct skew_synth *synth, const char *path,
                     struct skew_synth_error *error)
{
    struct synth_truth *t;

    *out = NULL;
    if (access(path, F_OK) == 0)
        return skew_synth_fail(error, -EEXIST,
                               "%.300s: is there already; choose another name or remove it", path);
    t = calloc(1, sizeof *t);
    if (!t || !(t->path = strdup(path))) {
        free(t);
        return skew_synth_fail(error, -ENOMEM, "out of memory");
    }
    t->synth = synth;
    t->late = json_array();
    t->steps = json_array();
    t->step = -1;
    t->busiest_least = INFINITY;
    *out = t;
    return 0;
}

void synth_truth_free(struct synth_truth **truth)
{
    struct synth_truth *t = *truth;

    *truth = NULL;
    if (!t)
        return;
    json_decref(t->late);
    json_decref(t->steps);
    free(t->path);
    free(t);
}

static void end_step(struct synth_truth *t)
{
    if (t->step >= 0)
        json_array_append_new(
            t->steps, json_pack("{s:I, s:f, s:f, s:f, s:f}", "step", (json_int_t)t->step, "span_ns",
                                t->last_ns - t->first_ns, "transfer_ns", t->transfer_ns, "skew_ns",
                                t->skew_ns, "wait_ns", t->wait_ns));
    t->transfer_ns = t->skew_ns = t->wait_ns = 0;
}

int synth_truth_exchange(struct synth_truth *t, const struct skew_synth_exchange *x)
{
    const struct skew_synth_spec *s = &t->synth->spec;
    double first = INFINITY, last = 0, end = 0, sum = 0;

    for (int64_t i = 0; i < s->ranks; i++) {
        first = fmin(first, (double)x->arrival_ns[i]);
        last = fmax(last, (double)x->arrival_ns[i]);
        end = fmax(end, (double)x->end_ns[i]);
        sum += (double)x->arrival_ns[i];
    }
    if (x->step != t->step) {
        end_step(t);
        t->step = x->step;
        t->first_ns = first;
    }
    t->last_ns = end;
    t->transfer_ns += end - last;
    t->wait_ns += last - sum / (double)s->ranks;
    t->skew_ns +=
        skew_synth_transfer_ns(s, x->busiest_bytes) - skew_synth_transfer_ns(s, x->mean_bytes);
    t->busiest_least = fmin(t->busiest_least, x->busiest_bytes);
    t->busiest_most = fmax(t->busiest_most, x->busiest_bytes);
    t->exchanges++;
    return 0;
}

int synth_truth_late(struct synth_truth *t, const struct skew_synth_late *late)
{
    return json_array_append_new(t->late,
                                 json_pack("{s:I, s:I, s:i, s:f}", "step", (json_int_t)late->step,
                                           "layer", (json_int_t)late->layer, "rank",
                                           (int)late->rank, "delay_ns", late->delay_ns))
               ? -ENOMEM
               : 0;
}

/* ---- the file -------------------------------------------------------------------------------- */

static json_t *name_of_choice(const struct skew_synth_option *o, int chosen)
{
    const char *at = o->names;
    for (int i = 0; i < chosen; i++)
        at += strcspn(at, ",") + 1;
    return json_stringn(at, strcspn(at, ","));
}

/* The settings: what --spec would read back. */
static json_t *settings(const struct skew_synth_spec *s)
{
    json_t *all = json_object(), *missing = json_array(), *stragglers = json_array();
    char text[128];

    for (const struct skew_synth_option *o = skew_synth_options; o->key; o++) {
        const void *at = (const char *)s + o->offset;
        json_t *value = o->kind == 'N'   ? json_integer(*(const int64_t *)at)
                        : o->kind == 'R' ? json_real(*(const double *)at)
                        : o->kind == 'B' ? json_boolean(*(const bool *)at)
                        : o->kind == 'C' ? name_of_choice(o, *(const int *)at)
                                         : NULL;
        if (o->kind == 'T' && *(char *const *)at)
            value = json_string(*(char *const *)at);
        if (value)
            json_object_set_new(all, o->key, value);
    }
    for (size_t i = 0; i < s->straggler_count; i++) {
        const struct skew_synth_straggler *k = &s->stragglers[i];
        snprintf(text, sizeof text, "%u:%g:%g:%lld", k->rank, k->delay_ns, k->probability,
                 (long long)k->layer);
        json_array_append_new(stragglers, json_string(text));
    }
    for (int64_t i = 0; s->missing && i < s->ranks; i++)
        if (s->missing[i])
            json_array_append_new(missing, json_integer(i));
    json_object_set_new(all, "straggler", stragglers);
    json_object_set_new(all, "missing", missing);
    return all;
}

static json_t *layers_of(const struct skew_synth *synth)
{
    const struct skew_synth_spec *s = &synth->spec;
    json_t *all = json_array();

    for (int64_t l = 0; l < s->layers; l++) {
        json_t *popularity = json_array(), *ranks = json_array();
        for (int64_t e = 0; e < s->experts; e++) {
            json_array_append_new(popularity, json_real(skew_synth_popularity(synth, l)[e]));
            json_array_append_new(ranks, json_integer(skew_synth_rank_of(synth, l)[e]));
        }
        json_array_append_new(all,
                              json_pack("{s:o, s:o}", "popularity", popularity, "rank_of", ranks));
    }
    return all;
}

static json_t *clocks_of(const struct skew_synth *synth)
{
    json_t *all = json_array();

    for (int64_t i = 0; i < synth->spec.ranks; i++) {
        double offset, drift;
        skew_synth_clock_truth(synth, (uint32_t)i, &offset, &drift);
        json_array_append_new(all,
                              json_pack("{s:f, s:f}", "offset_ns", offset, "drift_ppb", drift));
    }
    return all;
}

static json_t *real_or_null(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

int synth_truth_finish(struct synth_truth *t, struct skew_synth_error *error)
{
    double step, mean;
    end_step(t);
    skew_synth_design_effects(t->synth, &step, &mean);
    json_t *root =
        json_pack("{s:s, s:o, s:o, s:o, s:{s:o, s:o}, s:{s:f, s:f}, s:I, s:O, s:O}", "what",
                  "truth of a trace that `skewscope synth` made", "spec", settings(&t->synth->spec),
                  "layers", layers_of(t->synth), "clocks", clocks_of(t->synth), "design_effect",
                  "step", real_or_null(step), "mean", real_or_null(mean), "busiest_bytes", "least",
                  t->busiest_least, "most", t->busiest_most, "exchanges", (json_int_t)t->exchanges,
                  "late", t->late, "steps", t->steps);
    FILE *f = root ? fopen(t->path, "wxe") : NULL;
    int result = 0;

    if (!f)
        result = root ? -errno : -ENOMEM;
    if (f && json_dumpf(root, f, JSON_COMPACT | JSON_REAL_PRECISION(12)) < 0)
        result = -EIO;
    if (f && fclose(f) != 0 && !result)
        result = -errno;
    json_decref(root);
    return result ? skew_synth_fail(error, result, "%.300s: %s", t->path, strerror(-result)) : 0;
}
