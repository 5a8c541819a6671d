/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests of known correlation and of known groups: the estimates must find them, their intervals
 * must cover, and where there is nothing to find nothing may be claimed.
 */
#include "check.h"
#include "request_groups.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static double uniform(void)
{
    return ((double)(random_bits() >> 11) + 0.5) / 9007199254740992.0;
}

static double normal(void)
{
    return sqrt(-2 * log(uniform())) * cos(6.283185307179586 * uniform());
}

enum { E = 64, N = 64, TOKENS = 400 };

/* counts[E] of one request: TOKENS draws with these weights, each times a factor of its own. */
static void draw(double *counts, const double *weight)
{
    double cumulative[E], sum = 0;

    for (int e = 0; e < E; e++) {
        sum += weight[e] * exp(0.4 * normal());
        cumulative[e] = sum;
    }
    memset(counts, 0, E * sizeof *counts);
    for (int t = 0; t < TOKENS; t++) {
        double at = uniform() * sum;
        int e = 0;
        while (e < E - 1 && cumulative[e] < at)
            e++;
        counts[e]++;
    }
}

static double pearson(const double *x, const double *y, int n)
{
    double mx = 0, my = 0, xx = 0, yy = 0, xy = 0;

    for (int i = 0; i < n; i++) {
        mx += x[i] / n;
        my += y[i] / n;
    }
    for (int i = 0; i < n; i++) {
        xx += (x[i] - mx) * (x[i] - mx);
        yy += (y[i] - my) * (y[i] - my);
        xy += (x[i] - mx) * (y[i] - my);
    }
    return xy / sqrt(xx * yy);
}

/* The truth is the correlation of the weights themselves. */
static void test_correlation(void)
{
    static double prefill[N * E], decode[N * E];
    const double wanted[] = {0, 0.55, 0.82};

    for (int w = 0; w < 3; w++) {
        int covered = 0, trials = 40;
        double off = 0, corrected = 0;
        for (int trial = 0; trial < trials; trial++) {
            double p[E], q[E];
            struct skew_correlation c;
            for (int e = 0; e < E; e++) {
                double u = normal(), v = wanted[w] * u + sqrt(1 - wanted[w] * wanted[w]) * normal();
                p[e] = exp(0.6 * u);
                q[e] = exp(0.6 * v);
            }
            double truth = pearson(p, q, E);
            for (int r = 0; r < N; r++) {
                draw(prefill + r * E, p);
                draw(decode + r * E, q);
            }
            CHECK(skew_prefill_decode(&c, prefill, decode, N, E, 200, (uint64_t)trial + 1) == 0,
                  "correlation");
            covered += c.low <= truth && truth <= c.high;
            off += (c.pearson - truth) / trials;
            corrected += (c.corrected - truth) / trials;
        }
        CHECK(covered >= 34, "correlation %g: %d of %d intervals cover", wanted[w], covered,
              trials);
        CHECK(fabs(off) < 0.02 && fabs(corrected) < 0.02, "correlation %g: off %g, corrected %g",
              wanted[w], off, corrected);
    }
    /* few requests of few tokens: what noise takes away is given back */
    double p[E], lost = 0, back = 0;
    for (int e = 0; e < E; e++)
        p[e] = exp(0.3 * normal());
    for (int trial = 0; trial < 40; trial++) {
        struct skew_correlation c;
        for (int r = 0; r < 6; r++) {
            draw(prefill + r * E, p);
            draw(decode + r * E, p);
        }
        CHECK(skew_prefill_decode(&c, prefill, decode, 6, E, 50, 1) == 0 && isnan(c.low),
              "6 requests have no interval");
        lost += c.pearson / 40;
        back += c.corrected / 40;
    }
    CHECK(lost < 0.85 && back > 0.93, "truth 1: found %g, corrected %g", lost, back);
    struct skew_correlation c;
    CHECK(skew_prefill_decode(&c, prefill, decode, 1, E, 50, 1) == -ENODATA, "one request");
}

static void test_kmeans(void)
{
    double x[90 * 2], centre[6];
    uint32_t group[90];

    for (int i = 0; i < 90; i++) {
        x[2 * i] = (i % 3) * 10 + normal();
        x[2 * i + 1] = (i % 3 == 1) * 10 + normal();
    }
    CHECK(skew_kmeans(x, 90, 2, 3, 4, 1, group, centre) == 0, "kmeans");
    for (int i = 3; i < 90; i++)
        CHECK(group[i] == group[i % 3], "row %d", i);
    CHECK(group[0] != group[1] && group[1] != group[2] && group[0] != group[2], "three groups");
    CHECK(skew_kmeans(x, 2, 2, 3, 1, 1, group, centre) == -EINVAL, "3 groups of 2");
}

/* Requests of `kinds` kinds, each with hot experts of its own (1 kind: all alike). */
static void make_requests(double *early, double *decode, int kinds)
{
    for (int r = 0; r < N; r++) {
        double weight[E];
        for (int e = 0; e < E; e++)
            weight[e] = kinds > 1 && e % kinds == r % kinds ? 4 : 1;
        draw(early + r * E, weight);
        draw(decode + r * E, weight);
    }
}

static void test_grouping(void)
{
    static double early[N * E], decode[N * E];
    struct skew_request_set set = {
        .requests = N, .layers = 1, .experts = E, .early = early, .decode = decode};
    struct skew_grouping g;

    make_requests(early, decode, 4);
    CHECK(skew_request_grouping(&g, &set, 4, 20, 1) == 0, "grouping");
    /* 16 of 64 experts are 4 times as likely: 64 / (64 + 48) of the copies are at home */
    CHECK(fabs(g.grouped - (1 - 64.0 / 112)) < 0.04, "%g leave", g.grouped);
    CHECK(g.random > 0.65 && g.won == 1 && g.held_out == 12, "random %g, won %g", g.random, g.won);
    make_requests(early, decode, 1);
    CHECK(skew_request_grouping(&g, &set, 4, 20, 1) == 0, "grouping");
    CHECK(fabs(g.grouped - 0.75) < 0.03, "nothing to group: %g leave", g.grouped);
    CHECK(g.won < 0.95, "nothing to group: won %g", g.won);
    CHECK(skew_request_grouping(&g, &set, 13, 20, 1) == -ENODATA, "5 requests a group");
    CHECK(skew_request_grouping(&g, &set, 5, 20, 1) == -ENODATA, "5 groups of 64 experts");
}

int main(void)
{
    test_correlation();
    test_kmeans();
    test_grouping();
    if (failures)
        fprintf(stderr, "%d checks failed\n", failures);
    return failures != 0;
}
