/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is said of volumes, group by group on several threads, and what loads of ranks say about
 * experts. See skew.h.
 */
#include "skew.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

struct job {
    struct skew_volume_skew *skew;
    struct skew_floors *floors;
    uint32_t experts, topk;
    double level;
    _Atomic size_t next;
    _Atomic int result;
};

static void volumes(struct skew_volume_result *r)
{
    const struct skew_volume_group *g = r->group;

    for (size_t c = 0; c < g->calls; c++) {
        double most = 0;
        for (uint32_t i = 0; i < g->ranks; i++) {
            double in = g->recv[c * g->ranks + i], out = g->send[c * g->ranks + i];
            r->bytes += out / (double)g->calls;
            most = fmax(most, fmax(in, out));
        }
        r->busiest += most / (double)g->calls;
    }
}

static int analyse(struct job *job, struct skew_volume_result *r)
{
    const struct skew_volume_group *g = r->group;
    bool receive = g->loaded == SKEW_SIDE_RECEIVE;
    struct skew_level_input in = {.loads = receive ? g->recv : g->send,
                                  .rows = g->calls,
                                  .items = g->ranks,
                                  .level = job->level};

    r->adjusted_persistent = NAN;
    volumes(r);
    if (g->padded)
        r->why = "all sizes are equal: balanced, or padded to capacity; "
                 "skew is not observable from sizes";
    else if (g->calls == 0)
        r->why = "of every call some rank is missing";
    if (r->why)
        return 0;
    if (job->experts && job->topk && g->token_bytes && job->experts % g->ranks == 0) {
        in.experts = job->experts;
        in.topk = job->topk;
        in.unit = (double)g->token_bytes;
    }
    int result = skew_level_of(&r->loads, &in, job->floors);
    if (result == 0) {
        in.loads = receive ? g->send : g->recv;
        in.experts = in.topk = 0; /* how many tokens a source has is nobody's chance */
        result = skew_level_of(&r->source, &in, NULL);
    }
    if (result == -EINVAL) {
        r->why = "no byte was moved";
        result = 0;
    }
    return result;
}

static void *worker(void *context)
{
    struct job *job = context;
    size_t i;

    while ((i = atomic_fetch_add(&job->next, 1)) < job->skew->count) {
        int result = analyse(job, &job->skew->result[i]);
        if (result < 0)
            atomic_store(&job->result, result);
    }
    return NULL;
}

static int on_threads(struct job *job, unsigned threads)
{
    enum { THREADS_MAX = 16 };
    pthread_t started[THREADS_MAX];
    unsigned count = 0;

    if (threads == 0)
        threads = (unsigned)sysconf(_SC_NPROCESSORS_ONLN);
    while (count + 1 < threads && count < THREADS_MAX && count + 1 < job->skew->count &&
           pthread_create(&started[count], NULL, worker, job) == 0)
        count++;
    worker(job);
    while (count > 0)
        pthread_join(started[--count], NULL);
    return job->result;
}

static int judge(struct skew_volume_skew *s, double level)
{
    double *p = malloc((s->count + 1) * 2 * sizeof *p);
    int result = p ? 0 : -ENOMEM;

    for (size_t i = 0; i < s->count && result == 0; i++)
        p[i] = s->result[i].why ? NAN : s->result[i].loads.p_persistent;
    if (result == 0)
        result = skew_holm(p, s->count, p + s->count);
    for (size_t i = 0; i < s->count && result == 0; i++) {
        s->result[i].adjusted_persistent = p[s->count + i];
        s->result[i].persistent = p[s->count + i] < 1 - level;
    }
    free(p);
    return result;
}

int skew_volume_analyse(struct skew_volume_skew **out, const struct skew_volume *volume,
                        uint32_t experts, uint32_t topk, double level, unsigned threads)
{
    size_t count;
    const struct skew_volume_group *const *groups = skew_volume_groups(volume, &count);
    struct skew_volume_skew *s = calloc(1, sizeof *s);
    struct job job = {.skew = s, .experts = experts, .topk = topk, .level = level};
    int result = -ENOMEM;

    *out = NULL;
    if (!s)
        return -ENOMEM;
    s->result = calloc(count + 1, sizeof *s->result);
    if (!s->result || skew_floors_create(&job.floors) < 0)
        goto out;
    s->count = count;
    for (size_t i = 0; i < count; i++)
        s->result[i].group = groups[i];
    result = on_threads(&job, threads);
    if (result == 0)
        result = judge(s, level);

out:
    skew_floors_free(&job.floors);
    if (result < 0)
        skew_volume_skew_free(&s);
    *out = s;
    return result;
}

void skew_volume_skew_free(struct skew_volume_skew **skew)
{
    if (*skew)
        free((*skew)->result);
    free(*skew);
    *skew = NULL;
}

/* ---- from ranks to experts ------------------------------------------------------------------- */

int skew_expert_bounds(enum skew_metric metric, double value, uint32_t ranks, uint32_t experts,
                       double *low, double *high)
{
    if (ranks == 0 || experts % ranks)
        return -EINVAL;
    double g = (double)experts / ranks;
    *low = value;
    switch (metric) {
    case SKEW_METRIC_GINI: /* all of each rank's load on one of its experts */
        *high = 1 - (1 - value) / g;
        break;
    case SKEW_METRIC_MAX_MEAN:
        *high = value * g;
        break;
    case SKEW_METRIC_CV:
        *high = sqrt(fmax(0, g * (1 + value * value) - 1));
        break;
    default: /* entropy falls with imbalance: spread evenly inside the ranks is its highest */
        *low = experts > 1 ? value * log(ranks) / log(experts) : 1;
        *high = experts > 1 ? *low + log(g) / log(experts) : 1;
    }
    return 0;
}

struct skew_estimate skew_expert_moment(const double *cv2, size_t layers, uint32_t ranks,
                                        uint32_t experts, double level)
{
    struct skew_estimate e = skew_estimate_none("there is no layer");
    double sum = 0;
    size_t used = 0;

    if (ranks < 2 || experts % ranks) {
        e.why = "ranks do not divide the experts";
        return e;
    }
    for (size_t i = 0; i < layers; i++) {
        if (isnan(cv2[i]))
            continue;
        sum += cv2[i];
        used++;
    }
    if (!used)
        return e;
    double g = (double)experts / ranks;
    /* Experts are drawn without replacement: nothing is left to chance at g = 1. */
    double df =
        (double)used * (ranks - 1) * (experts > ranks ? (experts - 1.0) / (experts - ranks) : 1);
    double mean = fmax(0, sum / (double)used);
    e.value = sqrt(g > 1 ? mean * g * (experts - 1) / (experts - g) : mean);
    e.n = used;
    e.df = df;
    e.effective = df;
    e.level = level;
    e.why = NULL;
    e.low = g > 1 ? e.value * sqrt(df / skew_chi2_quantile(0.5 + level / 2, df)) : e.value;
    e.high = g > 1 ? e.value * sqrt(df / skew_chi2_quantile(0.5 - level / 2, df)) : e.value;
    return e;
}
