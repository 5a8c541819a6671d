/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ledger: of each exchange on the critical path, what makes it as long as it is, and how much
 * sooner it would be over if that alone went away. Every all-to-all is a barrier, so the critical
 * path goes through the last rank to arrive and through the transfer; savings of one exchange
 * overlap (they are not shares), those of different exchanges add up.
 */
#include "time_private.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

const char *const skew_time_cause_name[SKEW_CAUSES] = {"late rank", "load",    "skew",
                                                       "volume",    "latency", "unexplained"};

/* Everybody who is late here would come with the last of the others. */
static double without_late(const struct skew_time_work *w, size_t i)
{
    uint32_t ranks = w->times->ranks;
    double others = -INFINITY;

    for (uint32_t r = 0; r < ranks; r++)
        if (!w->late[i * ranks + r] && !isnan(w->arrival[i * ranks + r]))
            others = fmax(others, w->arrival[i * ranks + r]);
    return isfinite(others) ? -others : 0;
}

/* Every rank would have computed the mean load, each with its own deviation as it was. */
static double without_uneven_load(const struct skew_time_work *w, size_t i)
{
    const struct skew_time_exchange *x = &w->result->exchanges[i];
    const struct skew_time_fit *fit = &w->result->load[x->role];
    uint32_t ranks = w->times->ranks, count = 0;
    double mean = 0, last = -INFINITY;

    if (!skew_time_after_experts(x->role) || !(fit->slope.value > 0))
        return 0;
    for (uint32_t r = 0; r < ranks; r++)
        if (!isnan(w->gap_load[i * ranks + r])) {
            mean += w->gap_load[i * ranks + r];
            count++;
        }
    mean /= fmax(1, count);
    for (uint32_t r = 0; r < ranks; r++) {
        double load = w->gap_load[i * ranks + r], arrival = w->arrival[i * ranks + r];
        if (isnan(load) || isnan(arrival))
            continue;
        last =
            fmax(last, arrival - skew_time_fit_at(fit, load, 0) + skew_time_fit_at(fit, mean, 0));
    }
    return isfinite(last) ? fmax(0, -last) : 0;
}

/* What makes it longer than a balanced exchange of punctual ranks; where that is next to nothing,
 * what such an exchange consists of. */
static enum skew_time_cause cause_of(const struct skew_time_exchange *x)
{
    static const enum skew_time_cause avoidable[] = {SKEW_CAUSE_LATE, SKEW_CAUSE_LOAD,
                                                     SKEW_CAUSE_SKEW, SKEW_CAUSE_UNEXPLAINED};
    enum skew_time_cause cause = SKEW_CAUSE_LATE;

    for (size_t i = 1; i < sizeof avoidable / sizeof *avoidable; i++)
        if (x->saves[avoidable[i]] > x->saves[cause])
            cause = avoidable[i];
    if (x->saves[cause] >= 0.05 * x->exposed.high)
        return cause;
    return x->saves[SKEW_CAUSE_LATENCY] > x->saves[SKEW_CAUSE_VOLUME] ? SKEW_CAUSE_LATENCY
                                                                      : SKEW_CAUSE_VOLUME;
}

double skew_time_avoidable(const struct skew_time_exchange *x)
{
    bool itself = x->cause == SKEW_CAUSE_VOLUME || x->cause == SKEW_CAUSE_LATENCY;
    return itself ? 0 : x->saves[x->cause];
}

static int add_steps(struct skew_time_result *out)
{
    struct skew_time_step *s = NULL;

    out->steps = calloc(out->complete + 1, sizeof *out->steps);
    if (!out->steps)
        return -ENOMEM;
    for (size_t i = 0; i < out->complete && out->unlabelled == 0; i++) {
        const struct skew_time_exchange *x = &out->exchanges[i];
        if (!s || s->step != x->step) {
            s = &out->steps[out->step_count++];
            *s = (struct skew_time_step){.step = x->step, .first = i, .worst = i};
        }
        s->count++;
        s->exposed.low += x->exposed.low;
        s->exposed.high += x->exposed.high;
        for (int cause = 0; cause < SKEW_CAUSES; cause++)
            s->saves[cause] += x->saves[cause];
        s->avoidable += skew_time_avoidable(x);
        if (skew_time_avoidable(x) > skew_time_avoidable(&out->exchanges[s->worst]))
            s->worst = i;
    }
    return 0;
}

int skew_time_ledger(struct skew_time_work *w)
{
    for (size_t i = 0; i < w->result->complete; i++) {
        struct skew_time_exchange *x = &w->result->exchanges[i];
        double *saves = x->saves;

        x->late = w->late[i * w->times->ranks + x->last_rank];
        saves[SKEW_CAUSE_LATE] = x->late ? without_late(w, i) : 0;
        saves[SKEW_CAUSE_LOAD] = without_uneven_load(w, i);
        saves[SKEW_CAUSE_SKEW] = fmax(0, x->skew);
        saves[SKEW_CAUSE_VOLUME] = fmax(0, x->balanced);
        saves[SKEW_CAUSE_LATENCY] = fmax(0, x->latency);
        saves[SKEW_CAUSE_UNEXPLAINED] =
            fmax(0, x->unexplained) +
            fmax(0, x->lag - fmax(saves[SKEW_CAUSE_LATE], saves[SKEW_CAUSE_LOAD]));
        x->cause = cause_of(x);
    }
    return add_steps(w->result);
}
