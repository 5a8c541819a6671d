/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Scores of placements by hand, locality against all assignments of small cases, groups that must
 * stay together, and profiles that age as they were made to.
 */
#include "check.h"
#include "placement_score.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool near(double a, double b)
{
    return fabs(a - b) < 1e-9 * (1 + fabs(b));
}

/* Rank 0: tokens {0,1}, {0,3}, {0,3}; rank 1: {2,3}, {2,0}. Four ranks, one expert each. */
static const uint32_t by_source[4][4] = {{3, 1, 0, 2}, {1, 0, 2, 1}};
static const double counts[4] = {4, 1, 2, 3};
static const uint16_t ids[5][2] = {{0, 1}, {0, 3}, {0, 3}, {2, 3}, {2, 0}};
static const int32_t source[5] = {0, 0, 0, 1, 1};
static const size_t token_at[2] = {0, 5};

static void test_by_hand(void)
{
    struct skew_calls calls = {.calls = 1,
                               .experts = 4,
                               .topk = 2,
                               .counts = counts,
                               .by_source = &by_source[0][0],
                               .sources = 4};
    struct skew_links links = {
        .domain_ranks = 2, .token_bytes = 10, .bandwidth = 5, .up_bandwidth = 100, .latency_s = 1};
    struct skew_placement *p;
    struct skew_score s;
    double per_call;

    CHECK(skew_placement_create(&p, 4, 4, 4) == 0, "create");
    CHECK(skew_placement_score(&s, p, &calls, &links, &per_call) == 0, "score");
    CHECK(near(s.max_mean, 1.6) && near(per_call, 1.6) && near(s.persistent, 1.6), "%g",
          s.max_mean);
    CHECK(near(s.bytes[SKEW_TIER_RANK], 30) && near(s.bytes[SKEW_TIER_DOMAIN], 20) &&
              near(s.bytes[SKEW_TIER_OTHER], 50),
          "%g %g %g", s.bytes[0], s.bytes[1], s.bytes[2]);
    CHECK(near(s.padded, 4 * 3 * 10), "%g", s.padded);
    /* out of rank 1: 3 tokens; into rank 3: 3; 30 bytes at 5 a second */
    CHECK(near(s.time_s, 1 + 30.0 / 5), "%g", s.time_s);
    CHECK(near(s.domain_once_low, 40) && near(s.domain_once_high, 40), "%g %g", s.domain_once_low,
          s.domain_once_high);
    CHECK(s.sources_known && !s.ids_known, "known");

    /* as measured: 30 bytes out of domains, 10 within; then at the largest size that was seen */
    struct skew_links_fit fit = {
        .line = {.base = 1, .above = 0.5}, .most = 100, .z_s = 0.1, .z_most = 100};
    links.fit = &fit;
    CHECK(skew_placement_score(&s, p, &calls, &links, NULL) == 0 &&
              near(s.time_s, 1 + 0.5 * 30 + 0.1 * 10) && s.clamped == 0,
          "%g", s.time_s);
    fit.most = 20;
    CHECK(skew_placement_score(&s, p, &calls, &links, NULL) == 0 &&
              near(s.time_s, 1 + 0.5 * 20 + 0.1 * 10) && s.clamped == 1,
          "%g", s.time_s);
    /* without domains all ports count alike: rank 1 sends 4, a port has 7 / 4 on average */
    fit.most = 100;
    links.domain_ranks = 0;
    CHECK(skew_placement_score(&s, p, &calls, &links, NULL) == 0 &&
              near(s.time_s, 1 + 0.5 * 40 + 0.1 * 17.5),
          "%g", s.time_s);
    links.fit = NULL;

    /* one domain of two experts a rank: {0,1} on rank 0, and so on */
    struct skew_placement *two;
    CHECK(skew_placement_create(&two, 4, 2, 4) == 0, "create");
    links.domain_ranks = 0;
    calls.sources = 2;
    calls.ids = &ids[0][0];
    calls.source = source;
    calls.token_at = token_at;
    CHECK(skew_placement_score(&s, two, &calls, &links, NULL) == 0 && s.ids_known, "score");
    CHECK(near(s.bytes[SKEW_TIER_RANK], 70) && near(s.bytes[SKEW_TIER_OTHER], 30), "%g %g",
          s.bytes[0], s.bytes[2]);
    CHECK(near(s.rank_once_low[SKEW_TIER_RANK], 50) && near(s.rank_once_high[SKEW_TIER_OTHER], 30),
          "%g %g", s.rank_once_low[0], s.rank_once_high[2]);
    double exact = s.rank_once_low[SKEW_TIER_RANK];
    calls.ids = NULL;
    CHECK(skew_placement_score(&s, two, &calls, &links, NULL) == 0 && !s.ids_known, "score");
    CHECK(s.rank_once_low[SKEW_TIER_RANK] <= exact && exact <= s.rank_once_high[SKEW_TIER_RANK],
          "%g not in [%g, %g]", exact, s.rank_once_low[0], s.rank_once_high[0]);

    /* sources unknown: evenly spread */
    calls.by_source = NULL;
    CHECK(skew_placement_score(&s, two, &calls, &links, NULL) == 0 && !s.sources_known, "score");
    CHECK(near(s.bytes[SKEW_TIER_RANK], 50) && near(s.bytes[SKEW_TIER_OTHER], 50), "%g",
          s.bytes[0]);
    links.domain_ranks = 3;
    CHECK(skew_placement_score(&s, p, &calls, &links, NULL) == -EINVAL, "3 of 4 ranks");
    skew_placement_free(&p);
    skew_placement_free(&two);
}

/* Bounds without ids must hold what ids say, whatever the placement. */
static void test_bounds_hold(void)
{
    enum { E = 16, K = 4, R = 4, T = 64 };
    uint32_t from[R][E];
    double sum[E];
    uint16_t token[T][K];
    int32_t where[T];
    size_t at[2] = {0, T};
    uint64_t seed = 3;
    struct skew_placement *p;
    struct skew_links links = {
        .domain_ranks = 2, .token_bytes = 1, .bandwidth = 1, .up_bandwidth = 1};

    CHECK(skew_placement_create(&p, E, R, E) == 0, "create");
    for (int trial = 0; trial < 200; trial++) {
        memset(from, 0, sizeof from);
        memset(sum, 0, sizeof sum);
        for (int t = 0; t < T; t++) {
            where[t] = t % R;
            for (int k = 0; k < K; k++) {
                bool again;
                do {
                    token[t][k] = (uint16_t)random_below(trial % 2 ? E : 6);
                    again = false;
                    for (int j = 0; j < k; j++)
                        again |= token[t][j] == token[t][k];
                } while (again);
                from[where[t]][token[t][k]]++;
                sum[token[t][k]]++;
            }
        }
        struct skew_calls calls = {1, E, K, sum, &from[0][0], R, at, token[0], where};
        struct skew_score exact, bounds;
        skew_placement_random(p, &seed);
        CHECK(skew_placement_score(&exact, p, &calls, &links, NULL) == 0, "score");
        calls.ids = NULL;
        CHECK(skew_placement_score(&bounds, p, &calls, &links, NULL) == 0, "score");
        for (int tier = 0; tier < SKEW_TIERS; tier++)
            CHECK(bounds.rank_once_low[tier] <= exact.rank_once_low[tier] &&
                      exact.rank_once_low[tier] <= bounds.rank_once_high[tier],
                  "trial %d, tier %d", trial, tier);
        CHECK(bounds.domain_once_low <= exact.domain_once_low &&
                  exact.domain_once_low <= bounds.domain_once_high,
              "trial %d", trial);
    }
    skew_placement_free(&p);
}

/* ---- locality ---------------------------------------------------------------------------------
 */

static double stays(const struct skew_placement *p, const double *from, uint32_t domain)
{
    double sum = 0;

    for (uint32_t s = 0; s < p->slots; s++)
        for (uint32_t r = 0; r < p->ranks; r++)
            if (r / domain == s / p->per_rank / domain)
                sum += from[r * p->experts + p->expert[s]];
    return sum;
}

/* Most tokens that stay among all placements of 8 experts on 4 ranks with no rank above `limit`. */
static double best_within(const double *from, const double *load, double limit, uint32_t at,
                          uint32_t *rank, double *rank_load)
{
    double best = -1;

    if (at == 8) {
        double sum = 0;
        for (uint32_t e = 0; e < 8; e++)
            for (uint32_t r = 0; r < 4; r++)
                sum += r / 2 == rank[e] / 2 ? from[r * 8 + e] : 0;
        return sum;
    }
    for (uint32_t r = 0; r < 4; r++) {
        uint32_t here = 0;
        for (uint32_t e = 0; e < at; e++)
            here += rank[e] == r;
        if (here == 2 || rank_load[r] + load[at] > limit * (1 + 1e-12))
            continue;
        rank[at] = r;
        rank_load[r] += load[at];
        best = fmax(best, best_within(from, load, limit, at + 1, rank, rank_load));
        rank_load[r] -= load[at];
    }
    return best;
}

static void test_locality(void)
{
    struct skew_placement *p;
    double reached = 0;

    CHECK(skew_placement_create(&p, 8, 4, 8) == 0, "create");
    for (int trial = 0; trial < 100; trial++) {
        double from[4 * 8], load[8] = {0}, best = 0;
        for (int i = 0; i < 32; i++)
            from[i] = pow(random_below(100), 2) / 100;
        for (int i = 0; i < 32; i++)
            load[i % 8] += from[i];
        for (unsigned set = 0; set < 256; set++) { /* which four experts are in domain 0 */
            double sum = 0;
            if (__builtin_popcount(set) != 4)
                continue;
            for (int e = 0; e < 8; e++)
                for (int r = 0; r < 4; r++)
                    if ((set >> e & 1) == (r < 2))
                        sum += from[r * 8 + e];
            best = fmax(best, sum);
        }
        CHECK(skew_placement_locality(p, from, 2, 0, 1e9) == 0, "locality");
        CHECK(near(stays(p, from, 2), best), "trial %d: %g of %g", trial, stays(p, from, 2), best);
        /* a capacity costs locality and is kept where that is easy */
        skew_placement_lpt(p, load);
        double lpt = skew_placement_max_mean(p, load);
        CHECK(skew_placement_locality(p, from, 2, 0, 1.01 * lpt) == 0, "locality");
        CHECK(skew_placement_max_mean(p, load) <= 1.01 * lpt + 1e-9, "trial %d: %g above %g", trial,
              skew_placement_max_mean(p, load), 1.01 * lpt);
        double total = 0, rank_load[4] = {0};
        uint32_t rank[8];
        for (int e = 0; e < 8; e++)
            total += load[e];
        double most = best_within(from, load, 1.01 * lpt * total / 4, 0, rank, rank_load);
        CHECK(stays(p, from, 2) <= most + 1e-9, "trial %d", trial);
        reached += stays(p, from, 2) / most / 100;
    }
    CHECK(reached > 0.985, "%.4f of the locality that the capacity leaves", reached);
    CHECK(skew_placement_locality(p, (double[32]){0}, 3, 0, 1) == -EINVAL, "3 of 4 ranks");
    skew_placement_free(&p);
}

static void test_groups(void)
{
    struct skew_placement *p, *q;
    uint64_t seed = 5;
    double better = 0;

    CHECK(skew_placement_create(&p, 64, 16, 64) == 0 && skew_placement_create(&q, 64, 16, 64) == 0,
          "create");
    for (int trial = 0; trial < 30; trial++) {
        double load[64], from[16 * 64];
        for (int e = 0; e < 64; e++)
            load[e] = pow(random_below(100), 1 + trial % 3);
        for (int i = 0; i < 16 * 64; i++)
            from[i] = random_below(100);
        CHECK(skew_placement_random_groups(p, 8, 4, &seed) == 0, "random");
        CHECK(skew_placement_keeps_groups(p, 8, 4), "trial %d: random", trial);
        CHECK(skew_placement_lpt_groups(p, load, 8, 4) == 0, "lpt");
        CHECK(skew_placement_keeps_groups(p, 8, 4), "trial %d: lpt", trial);
        CHECK(skew_placement_eplb(q, load, 8, 4) == 0, "eplb");
        CHECK(skew_placement_keeps_groups(q, 8, 4), "trial %d: eplb", trial);
        double lpt = skew_placement_max_mean(p, load), eplb = skew_placement_max_mean(q, load);
        CHECK(lpt <= eplb + 1e-9, "trial %d: %g, EPLB %g", trial, lpt, eplb);
        better += eplb - lpt;
        CHECK(skew_placement_locality(p, from, 4, 8, 2) == 0, "locality");
        CHECK(skew_placement_keeps_groups(p, 8, 4), "trial %d: locality", trial);
        skew_placement_contiguous(p);
        p->expert[0] = 63;
        p->expert[63] = 0;
        CHECK(!skew_placement_keeps_groups(p, 8, 4), "a group is torn");
    }
    CHECK(better > 0, "swaps never helped");
    CHECK(skew_placement_lpt_groups(p, (double[64]){1}, 7, 1) == -EINVAL, "7 groups");
    skew_placement_free(&p);
    skew_placement_free(&q);
}

/* ---- ageing -----------------------------------------------------------------------------------
 */

/* Calls of which expert e draws with weight w[e]; after `turn` calls the weights are reversed. */
static double *make_calls(size_t calls, uint32_t experts, size_t turn)
{
    double *made = calloc(calls * experts, sizeof *made);

    for (size_t c = 0; c < calls; c++)
        for (int token = 0; token < 800; token++) {
            uint32_t a = random_below(experts), b = random_below(experts);
            uint32_t e = a < b ? a : b; /* low ones are hotter */
            made[c * experts + (c < turn ? e : (e * 5 + 7) % experts)]++;
        }
    return made;
}

static void test_drift(void)
{
    struct skew_fit_options o = {.ranks = 8, .seed = 1};
    struct skew_drift drift;
    int alarms = 0;

    for (int trial = 0; trial < 20; trial++) {
        double *made = make_calls(128, 32, 128);
        struct skew_calls calls = {.calls = 128, .experts = 32, .counts = made};
        CHECK(skew_placement_drift(&drift, &calls, &o, 16) == 0, "drift");
        alarms += drift.p <= 0.05;
        CHECK(drift.lag[1].max_mean < drift.lag[1].current - 0.3, "a gain: %g, %g",
              drift.lag[1].max_mean, drift.lag[1].current);
        CHECK(drift.half_life == 0, "nothing ages: %zu", drift.half_life);
        free(drift.lag);
        free(made);
    }
    CHECK(alarms <= 4, "%d false alarms of 20", alarms);
    double *made = make_calls(128, 32, 64);
    struct skew_calls calls = {.calls = 128, .experts = 32, .counts = made};
    CHECK(skew_placement_drift(&drift, &calls, &o, 16) == 0, "drift");
    CHECK(drift.p <= 0.01, "the shares turned over: p = %g", drift.p);
    CHECK(drift.half_life > 0 && drift.half_life <= 8, "%zu", drift.half_life);
    free(drift.lag);
    calls.calls = 7;
    CHECK(skew_placement_drift(&drift, &calls, &o, 16) == -ENODATA, "7 calls");
    free(made);
}

/* Coverage is tests/coverage's; here what is left out, and when there is no interval. */
static void test_gain(void)
{
    double before[40], after[40];

    for (int i = 0; i < 40; i++) {
        before[i] = 2 + (i % 2 ? 0.1 : -0.1);
        after[i] = i % 4 == 3 ? NAN : 1.5;
    }
    struct skew_estimate e = skew_placement_gain(before, after, 40);
    CHECK(e.n == 30 && fabs(e.value - 0.5 + 0.1 / 3) < 1e-12, "%zu, %g", e.n, e.value);
    CHECK(e.level > 0 && e.low < e.value && e.value < e.high, "%g … %g", e.low, e.high);
    e = skew_placement_gain(before, after, 25);
    CHECK(e.level == 0 && isnan(e.low) && e.why, "19 values have no interval");
    for (int i = 0; i < 40; i++)
        after[i] = NAN;
    CHECK(isnan(skew_placement_gain(before, after, 40).value), "nothing was scored");
}

int main(void)
{
    test_by_hand();
    test_bounds_hold();
    test_locality();
    test_groups();
    test_drift();
    test_gain();
    if (failures)
        fprintf(stderr, "%d checks failed\n", failures);
    return failures != 0;
}
