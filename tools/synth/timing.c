/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The course of a synthetic job: when each rank arrives at each exchange and leaves it. The model
 * stands in docs/synth.md; in short, nobody's transfer begins before the last rank has arrived, an
 * edge is through when the busier of its two ports has drained, and a rank leaves when its own
 * edges are through.
 */
#include "synth_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

const char *const skew_synth_role_name[] = {"dispatch", "combine", "combine_bwd", "dispatch_bwd"};

struct course {
    struct skew_synth *synth;
    const struct skew_synth_spec *spec;
    const struct skew_synth_sink *sink;
    double *now;                     /* [ranks] true time, ns */
    uint32_t *to_expert, *to_source; /* [layers or 1][ranks][ranks] tokens, row: sender */
    size_t kept;                     /* layers whose matrices are kept for the backward pass */
    double *port[4];                 /* bytes: sent and received within the node, and beyond */
    uint64_t *load;                  /* [layers or 1][ranks] tokens at the experts */
    int64_t *host, *arrival, *end;   /* [ranks] */
    double *late;                    /* [stragglers] delay in this step, 0: not late */
    double step_noise;
    int64_t seq;
};

double skew_synth_transfer_ns(const struct skew_synth_spec *s, double bytes)
{
    if (s->transfer == SYNTH_NONE)
        return s->alpha_ns + s->none_ns;
    if (s->transfer == SYNTH_PIECEWISE)
        return s->alpha_ns + s->beta_below * fmin(bytes, s->knee_bytes) +
               s->beta * fmax(0, bytes - s->knee_bytes);
    return s->alpha_ns + s->beta * bytes;
}

double skew_synth_expert_ns(const struct skew_synth_spec *s, double tokens)
{
    return s->expert_floor_ns + s->expert_ns * fmax(0, tokens - s->expert_knee);
}

/* Between nodes slope and latency may differ; what a piecewise or flat transfer is stays. */
static double edge_ns(const struct course *c, bool beyond, double bytes)
{
    const struct skew_synth_spec *s = c->spec;
    double within = skew_synth_transfer_ns(s, bytes);

    if (!beyond)
        return within;
    if (s->beta_inter >= 0 && s->transfer == SYNTH_LINEAR)
        within = s->alpha_ns + s->beta_inter * bytes;
    return s->alpha_inter_ns >= 0 ? within - s->alpha_ns + s->alpha_inter_ns : within;
}

/* ---- one exchange ---------------------------------------------------------------------------- */

/* Bytes at the ports, a rank's own copy left out. With one slope everywhere there is one port a
 * direction; with another slope between nodes there are two. */
static void fill_ports(struct course *c, const uint32_t *sent, struct skew_synth_exchange *x)
{
    int64_t ranks = c->spec->ranks,
            node = c->spec->ranks_per_node ? c->spec->ranks_per_node : ranks;
    bool tiers = c->spec->beta_inter >= 0 || c->spec->alpha_inter_ns >= 0;
    double token = (double)x->token_bytes, all = 0, busiest = 0;

    for (int p = 0; p < 4; p++)
        memset(c->port[p], 0, (size_t)ranks * sizeof *c->port[p]);
    for (int64_t i = 0; i < ranks; i++)
        for (int64_t j = 0; j < ranks; j++) {
            if (i == j || !sent[i * ranks + j])
                continue;
            int tier = tiers && i / node != j / node ? 2 : 0;
            double bytes = token * sent[i * ranks + j];
            c->port[tier][i] += bytes;
            c->port[tier + 1][j] += bytes;
            all += bytes;
        }
    for (int64_t i = 0; i < ranks; i++)
        busiest = fmax(busiest, fmax(c->port[0][i] + c->port[2][i], c->port[1][i] + c->port[3][i]));
    x->busiest_bytes = busiest;
    x->mean_bytes = all / (double)ranks;
}

/* When each rank is through, after the last arrival, without noise; in c->now. */
static void drain(struct course *c, const uint32_t *sent, double last)
{
    int64_t ranks = c->spec->ranks,
            node = c->spec->ranks_per_node ? c->spec->ranks_per_node : ranks;
    bool tiers = c->spec->beta_inter >= 0 || c->spec->alpha_inter_ns >= 0;

    for (int64_t i = 0; i < ranks; i++)
        c->now[i] = last + skew_synth_transfer_ns(c->spec, 0);
    for (int64_t i = 0; i < ranks; i++)
        for (int64_t j = 0; j < ranks; j++) {
            if (i == j || !sent[i * ranks + j])
                continue;
            bool beyond = tiers && i / node != j / node;
            int tier = beyond ? 2 : 0;
            double ns = edge_ns(c, beyond, fmax(c->port[tier][i], c->port[tier + 1][j]));
            if (c->synth->factor)
                ns *= c->synth->factor[i * ranks + j];
            c->now[i] = fmax(c->now[i], last + ns);
            c->now[j] = fmax(c->now[j], last + ns + (i < j ? c->spec->asymmetry_ns : 0));
        }
}

static double draw_noise(const struct course *c, const struct skew_synth_exchange *x)
{
    const struct skew_synth_spec *s = c->spec;
    struct rng rng = rng_keyed((uint64_t)s->seed, SYNTH_RNG_NOISE, (uint64_t)x->step,
                               (uint64_t)x->layer, (uint64_t)x->role);
    double noise = s->noise_ns * rng_normal(&rng);

    if (s->tail > 0 && rng_unit(&rng) < s->tail)
        noise = 10 * fabs(noise);
    return noise + c->step_noise;
}

static int exchange(struct course *c, int64_t step, int64_t layer, enum skew_synth_role role)
{
    const struct skew_synth_spec *s = c->spec;
    size_t cells = (size_t)s->ranks * (size_t)s->ranks,
           at = layer < (int64_t)c->kept ? (size_t)layer : 0;
    bool forth = role == SYNTH_DISPATCH || role == SYNTH_COMBINE_BWD;
    const uint32_t *to = c->to_expert + at * cells, *from = c->to_source + at * cells;
    struct skew_synth_exchange x = {.step = step,
                                    .layer = layer,
                                    .seq = c->seq++,
                                    .role = role,
                                    .sent = forth ? to : from,
                                    .received = forth ? from : to,
                                    .token_bytes = s->hidden * s->element_bytes,
                                    .host_ns = c->host,
                                    .arrival_ns = c->arrival,
                                    .end_ns = c->end};
    double last = 0;

    for (int64_t i = 0; i < s->ranks; i++) {
        c->arrival[i] = (int64_t)llround(c->now[i]);
        c->host[i] = c->arrival[i] - (int64_t)s->host_lead_ns;
        last = fmax(last, c->now[i]);
    }
    fill_ports(c, x.sent, &x);
    drain(c, x.sent, last);
    x.noise_ns = draw_noise(c, &x);
    /* A transfer takes a fifth of its latency at the very least, however the noise falls. */
    double least = last + s->alpha_ns / 5 + 1;
    for (int64_t i = 0; i < s->ranks; i++) {
        c->now[i] = fmax(c->now[i] + x.noise_ns, least);
        c->end[i] = (int64_t)llround(c->now[i]);
    }
    return c->sink->exchange ? c->sink->exchange(c->sink->context, &x) : 0;
}

/* ---- computations ---------------------------------------------------------------------------- */

/* Everybody computes `ns[rank]` (or the same for all), with jitter, and stragglers come later. */
static void compute(struct course *c, int64_t step, int64_t layer, enum skew_synth_role role,
                    const double *ns, double same)
{
    const struct skew_synth_spec *s = c->spec;

    struct rng rng = rng_keyed((uint64_t)s->seed, SYNTH_RNG_JITTER, (uint64_t)step, (uint64_t)layer,
                               (uint64_t)role);
    for (int64_t i = 0; i < s->ranks; i++) {
        double jitter = s->jitter_ns > 0 ? s->jitter_ns * rng_normal(&rng) : 0;
        c->now[i] += fmax(0, (ns ? ns[i] : same) + jitter);
    }
    for (size_t k = 0; k < s->straggler_count; k++)
        if (s->stragglers[k].layer < 0 || s->stragglers[k].layer == layer)
            c->now[s->stragglers[k].rank] += c->late[k];
}

static void compute_experts(struct course *c, int64_t step, int64_t layer,
                            enum skew_synth_role role, double factor)
{
    const struct skew_synth_spec *s = c->spec;
    size_t at = layer < (int64_t)c->kept ? (size_t)layer : 0;
    double *ns = c->port[0]; /* scratch: the ports of the exchange before are not needed any more */

    for (int64_t i = 0; i < s->ranks; i++)
        ns[i] =
            factor * skew_synth_expert_ns(s, (double)c->load[at * (size_t)s->ranks + (size_t)i]);
    compute(c, step, layer, role, ns, 0);
}

/* ---- a step ---------------------------------------------------------------------------------- */

static int route(struct course *c, int64_t step, int64_t layer)
{
    const struct skew_synth_spec *s = c->spec;
    const struct synth_router *r = &c->synth->router;
    size_t ranks = (size_t)s->ranks, at = layer < (int64_t)c->kept ? (size_t)layer : 0;
    uint32_t *to = c->to_expert + at * ranks * ranks, *from = c->to_source + at * ranks * ranks;
    const uint32_t *rank_of = skew_synth_rank_of(c->synth, layer);
    uint64_t *load = c->load + at * ranks;

    synth_router_route(&c->synth->router, step, layer);
    memset(to, 0, ranks * ranks * sizeof *to);
    memset(load, 0, ranks * sizeof *load);
    for (size_t i = 0; i < ranks; i++)
        for (size_t e = 0; e < (size_t)s->experts; e++)
            to[i * ranks + rank_of[e]] += r->counts[i * (size_t)s->experts + e];
    for (size_t i = 0; i < ranks; i++)
        for (size_t j = 0; j < ranks; j++) {
            from[j * ranks + i] = to[i * ranks + j];
            load[j] += to[i * ranks + j];
        }
    if (!c->sink->routed)
        return 0;
    return c->sink->routed(c->sink->context,
                           &(struct skew_synth_routed){step, layer, r->counts, r->tokens});
}

static int draw_late(struct course *c, int64_t step)
{
    const struct skew_synth_spec *s = c->spec;
    int result = 0;

    for (size_t k = 0; k < s->straggler_count; k++) {
        const struct skew_synth_straggler *one = &s->stragglers[k];
        struct rng rng =
            rng_keyed((uint64_t)s->seed, SYNTH_RNG_STRAGGLER, (uint64_t)step, (uint64_t)k, 0);
        c->late[k] = rng_unit(&rng) < one->probability ? one->delay_ns : 0;
        if (c->late[k] > 0 && c->sink->late && !result)
            result = c->sink->late(
                c->sink->context,
                &(struct skew_synth_late){step, one->layer, one->rank, one->delay_ns});
    }
    return result;
}

static int forward(struct course *c, int64_t step)
{
    const struct skew_synth_spec *s = c->spec;
    int result = 0;

    for (int64_t l = 0; l < s->layers && !result; l++) {
        result = route(c, step, l);
        compute(c, step, l, SYNTH_DISPATCH, NULL, s->base_ns);
        if (!result)
            result = exchange(c, step, l, SYNTH_DISPATCH);
        compute_experts(c, step, l, SYNTH_COMBINE, 1);
        if (!result)
            result = exchange(c, step, l, SYNTH_COMBINE);
    }
    return result;
}

static int backward(struct course *c, int64_t step)
{
    const struct skew_synth_spec *s = c->spec;
    int result = 0;

    for (int64_t l = s->layers - 1; l >= 0 && !result; l--) {
        compute(c, step, l, SYNTH_COMBINE_BWD, NULL, s->base_ns * s->backward_factor);
        result = exchange(c, step, l, SYNTH_COMBINE_BWD);
        compute_experts(c, step, l, SYNTH_DISPATCH_BWD, s->backward_factor);
        if (!result)
            result = exchange(c, step, l, SYNTH_DISPATCH_BWD);
    }
    return result;
}

static int run_step(struct course *c, int64_t step)
{
    const struct skew_synth_spec *s = c->spec;
    struct rng rng = rng_keyed((uint64_t)s->seed, SYNTH_RNG_STEP_NOISE, (uint64_t)step, 0, 0);
    double fresh = s->noise_step_ns * rng_normal(&rng);

    c->step_noise =
        step == 0 ? fresh
                  : s->noise_phi * c->step_noise + sqrt(1 - s->noise_phi * s->noise_phi) * fresh;
    synth_router_step(&c->synth->router, step);
    int result = draw_late(c, step);
    if (!result)
        result = forward(c, step);
    if (!result && s->backward)
        result = backward(c, step);
    for (int64_t i = 0; i < s->ranks; i++)
        c->now[i] += s->gap_ns;
    return result;
}

int skew_synth_run(struct skew_synth *synth, const struct skew_synth_sink *sink)
{
    const struct skew_synth_spec *s = &synth->spec;
    size_t ranks = (size_t)s->ranks, kept = s->backward ? (size_t)s->layers : 1;
    struct course c = {.synth = synth,
                       .spec = s,
                       .sink = sink,
                       .kept = kept,
                       .now = calloc(ranks, sizeof(double)),
                       .to_expert = malloc(kept * ranks * ranks * sizeof(uint32_t)),
                       .to_source = malloc(kept * ranks * ranks * sizeof(uint32_t)),
                       .load = calloc(kept * ranks, sizeof(uint64_t)),
                       .host = calloc(ranks, sizeof(int64_t)),
                       .arrival = calloc(ranks, sizeof(int64_t)),
                       .end = calloc(ranks, sizeof(int64_t)),
                       .late = calloc(SKEW_SYNTH_STRAGGLERS, sizeof(double))};
    int result = 0;

    for (int p = 0; p < 4; p++)
        if (!(c.port[p] = calloc(ranks, sizeof(double))))
            result = -ENOMEM;
    if (!c.now || !c.to_expert || !c.to_source || !c.load || !c.host || !c.arrival || !c.end ||
        !c.late)
        result = -ENOMEM;
    for (size_t i = 0; i < ranks && !result; i++)
        c.now[i] = 1e9; /* the job begins a second after the clock does */
    for (int64_t step = 0; step < s->steps && !result; step++)
        result = run_step(&c, step);
    for (int p = 0; p < 4; p++)
        free(c.port[p]);
    free(c.now);
    free(c.to_expert);
    free(c.to_source);
    free(c.load);
    free(c.host);
    free(c.arrival);
    free(c.end);
    free(c.late);
    return result;
}
