/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The text and the CSV of `skewscope whatif placement`, rendered from its JSON.
 */
#include "whatif_placement.h"
#include "term.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static double real(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);

    return json_is_number(value) ? json_number_value(value) : NAN;
}

static const char *text(const json_t *object, const char *key)
{
    const char *value = json_string_value(json_object_get(object, key));

    return value ? value : "";
}

struct cell {
    char text[40];
};

static struct cell number(double value, const char *format)
{
    struct cell c = {"-"};

    if (isfinite(value))
        snprintf(c.text, sizeof c.text, format, value);
    return c;
}

static struct cell bytes(double value)
{
    struct cell c = {"-"};

    if (isfinite(value))
        skew_bytes_text(c.text, (uint64_t)(value + 0.5));
    return c;
}

static struct cell seconds(double value)
{
    return value < 1e-6   ? number(1e9 * value, "%.1f ns")
           : value < 1e-3 ? number(1e6 * value, "%.1f us")
                          : number(1e3 * value, "%.2f ms");
}

/* ---- one trace --------------------------------------------------------------------------------
 */

static void print_method(const json_t *m)
{
    const json_t *held = json_object_get(m, "held_out"), *in = json_object_get(m, "in_sample");
    const json_t *gain = json_object_get(m, "gain_over_current");
    const json_t *random = json_object_get(m, "gain_over_random");
    struct cell interval = {""};

    printf("  %-12s ", text(m, "method"));
    if (*text(m, "not_possible")) {
        printf("not possible: %s\n", text(m, "not_possible"));
        return;
    }
    if (isfinite(real(gain, "low")))
        snprintf(interval.text, sizeof interval.text, " [%.3f, %.3f]", real(gain, "low"),
                 real(gain, "high"));
    printf(
        "%8s %8s %10s %10s %10s %10s %10s  %s%s%s\n", number(real(held, "max_mean"), "%.3f").text,
        json_is_true(json_object_get(m, "fitted")) ? number(real(in, "max_mean"), "%.3f").text : "",
        bytes(real(held, "rank_bytes")).text, bytes(real(held, "domain_bytes")).text,
        bytes(real(held, "other_bytes")).text, bytes(real(held, "padded_bytes")).text,
        seconds(real(held, "time_s")).text,
        json_is_true(json_object_get(m, "fitted"))
            ? (json_is_object(gain) ? text(gain, "verdict") : "not scored: nothing held out")
            : "",
        interval.text,
        json_is_object(random) && real(random, "mean") <= 0 ? ", no better than random" : "");
}

static void print_once(const json_t *m)
{
    const json_t *held = json_object_get(m, "held_out");
    const json_t *rank = json_object_get(held, "other_bytes_once");
    const json_t *domain = json_object_get(held, "other_bytes_once_a_domain");
    bool exact = json_is_true(json_object_get(held, "ids_known"));
    const json_t *ranges[] = {rank, domain};

    if (!json_is_object(held) || *text(m, "not_possible"))
        return;
    printf("  %-12s ", text(m, "method"));
    for (int i = 0; i < 2; i++) {
        double low = json_number_value(json_array_get(ranges[i], 0));
        double high = json_number_value(json_array_get(ranges[i], 1));
        if (exact)
            printf("  once a %s %s", i ? "domain" : "rank", bytes(low).text);
        else
            printf("  once a %s %s to %s", i ? "domain" : "rank", bytes(low).text,
                   bytes(high).text);
    }
    putchar('\n');
}

static void print_age(const json_t *age)
{
    size_t i;
    json_t *lag;

    if (!json_is_object(age)) {
        printf("  age of the profile: not scored, fewer than 8 calls\n");
        return;
    }
    printf("  age of the profile (lpt; calls later: max/mean, current there):");
    json_array_foreach(json_object_get(age, "lags"), i, lag)
    {
        if (i == 1 || i == 2 || i == 4 || i == 8)
            printf("  %.0f: %.3f, %.3f", real(lag, "lag_calls"), real(lag, "max_mean"),
                   real(lag, "current"));
    }
    double half = real(age, "half_gain_lag_calls");
    printf("\n  half of the gain is gone after: %s calls; drift: p = %.3f (%.0f blocks of %.0f "
           "calls permuted)\n",
           isfinite(half) ? number(half, "%.0f").text : "no number of", real(age, "p_no_drift"),
           real(age, "blocks"), real(age, "calls_a_block"));
}

static void print_layer(const json_t *one)
{
    const json_t *bounds = json_object_get(one, "bounds");
    size_t i;
    json_t *m;
    bool domains = false;

    printf("\nLayer %.0f on %.0f ranks: %.0f experts, %.0f calls (%s)%s%s\n", real(one, "layer"),
           real(one, "ranks"), real(one, "experts"), real(one, "calls"),
           strcmp(text(one, "split"), "none") == 0 ? "one call: nothing can be held out"
                                                   : text(one, "split"),
           real(one, "incomplete_calls") > 0 ? ", incomplete calls left out" : "",
           json_is_true(json_object_get(one, "physical")) ? "; counts are of physical experts"
                                                          : "");
    printf("  bound (no replicas): %s of the sum, %s a call on average\n",
           number(real(bounds, "of_sum"), "%.3f").text,
           number(real(bounds, "mean_of_calls"), "%.3f").text);
    printf("  %-12s %8s %8s %10s %10s %10s %10s %10s  %s\n", "placement", "held out", "itself",
           "same rank", "domain", "other", "padded", "exchange", "gain over current, held out");
    json_array_foreach(json_object_get(one, "methods"), i, m)
    {
        print_method(m);
        domains |= real(json_object_get(m, "held_out"), "other_bytes") > 0;
    }
    if (domains) {
        printf("  bytes to other domains, copies of a token sent once:\n");
        json_array_foreach(json_object_get(one, "methods"), i, m) print_once(m);
    }
    print_age(json_object_get(one, "age"));
}

/* ---- several traces ---------------------------------------------------------------------------
 */

static void print_row(const char *name, const json_t *values)
{
    size_t i;
    json_t *value;

    printf("  %-16.16s", name);
    json_array_foreach(values, i, value) printf(
        " %10s", number(json_is_number(value) ? json_number_value(value) : NAN, "%.3f").text);
    putchar('\n');
}

static void print_cross(const json_t *one)
{
    const json_t *train = json_object_get(one, "train");
    size_t i, a;
    json_t *m, *row, *name;

    printf("\nLayer %.0f on %.0f ranks: max/mean, found on the row, scored on the column\n",
           real(one, "layer"), real(one, "ranks"));
    json_array_foreach(json_object_get(one, "methods"), i, m)
    {
        printf("  %-16s", text(m, "method"));
        json_array_foreach(json_object_get(one, "test"), a, name)
            printf(" %10.10s", json_string_value(name));
        putchar('\n');
        json_array_foreach(json_object_get(m, "max_mean"), a, row)
            print_row(json_string_value(json_array_get(train, a)), row);
        print_row("(current)", json_object_get(one, "current"));
        print_row("(random, mean)", json_object_get(one, "random"));
        printf("  %s: of %.0f on other data %.0f are worse than current, %.0f worse than random\n",
               text(m, "verdict"), real(m, "off_diagonal"), real(m, "worse_than_current"),
               real(m, "worse_than_random"));
    }
}

/* ---- requests ---------------------------------------------------------------------------------
 */

static void print_requests(const json_t *r)
{
    const json_t *g = json_object_get(r, "grouping");
    size_t i;
    json_t *c;

    if (!json_is_object(r))
        return;
    if (*text(r, "note")) {
        printf("\nRequests: %s\n", text(r, "note"));
        return;
    }
    printf("\nRequests: %.0f; a new one is classified by its %s\n", real(r, "requests"),
           text(r, "classified_by"));
    printf("  correlation of %s and the rest of decode, by layer (95 %%, over requests):\n",
           text(r, "classified_by"));
    json_array_foreach(json_object_get(r, "correlation"), i, c)
        printf("    layer %3.0f  %s [%s, %s]  corrected %s\n", real(c, "layer"),
               number(real(c, "pearson"), "%.3f").text, number(real(c, "low"), "%.3f").text,
               number(real(c, "high"), "%.3f").text, number(real(c, "corrected"), "%.3f").text);
    if (*text(g, "note")) {
        printf("  %.0f groups: %s\n", real(g, "groups"), text(g, "note"));
        return;
    }
    printf("  %.0f groups, each with its own domain: %.1f %% of copies leave it, on %.0f requests "
           "not used\n  (%.0f splits, 5th to 95th percentile %.1f to %.1f); random groups %.1f "
           "(%.1f to %.1f), chance %.1f\n",
           real(g, "groups"), 100 * real(g, "leaving"), real(g, "held_out"), real(g, "splits"),
           100 * json_number_value(json_array_get(json_object_get(g, "leaving_range"), 0)),
           100 * json_number_value(json_array_get(json_object_get(g, "leaving_range"), 1)),
           100 * real(g, "leaving_random"),
           100 * json_number_value(json_array_get(json_object_get(g, "leaving_random_range"), 0)),
           100 * json_number_value(json_array_get(json_object_get(g, "leaving_random_range"), 1)),
           100 * real(g, "leaving_by_chance"));
    printf("  %s; better than random in %.0f %% of splits; tokens of groups max/mean %.2f, random "
           "groups %.2f\n",
           text(g, "verdict"), 100 * real(g, "splits_won"), real(g, "max_mean_of_groups"),
           real(g, "max_mean_of_random_groups"));
}

void skew_wp_text(const struct skew_wp *wp, const json_t *all)
{
    size_t i;
    json_t *one;

    printf("A model over recorded counts; nothing here was timed. A placement counts by what it "
           "does on calls\nthat it was not found from.\n");
    if (wp->links.token_bytes > 1)
        printf("A token has %.0f bytes.\n", wp->links.token_bytes);
    else
        printf("Without --token-bytes a token is one byte: bytes are copies of tokens.\n");
    json_array_foreach(json_object_get(all, "layers"), i, one) print_layer(one);
    json_array_foreach(json_object_get(all, "cross"), i, one) print_cross(one);
    const json_t *total = json_object_get(all, "cross_total");
    json_array_foreach(total, i, one)
        printf("\nAll layers and ranks, %s: of %.0f placements on other data %.0f are worse than "
               "current, %.0f worse than random.\n",
               text(one, "method"), real(one, "off_diagonal"), real(one, "worse_than_current"),
               real(one, "worse_than_random"));
    print_requests(json_object_get(all, "requests"));
    json_array_foreach(json_object_get(all, "skipped"), i, one)
        printf("Layer %.0f on %.0f ranks was left out: %s\n", real(one, "layer"),
               real(one, "ranks"), text(one, "why"));
}

/* ---- CSV --------------------------------------------------------------------------------------
 */

static void csv_score(const json_t *layer, const char *train, const char *test, const char *method,
                      const char *sample, const json_t *s)
{
    static const char *const keys[] = {"max_mean",     "worst",       "persistent",   "rank_bytes",
                                       "domain_bytes", "other_bytes", "padded_bytes", "time_s"};

    if (!json_is_object(s))
        return;
    printf("%.0f,%.0f,%s,%s,%s,%s", real(layer, "layer"), real(layer, "ranks"), train, test, method,
           sample);
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        printf(",%s", isfinite(real(s, keys[i])) ? number(real(s, keys[i]), "%.9g").text : "");
    putchar('\n');
}

static void csv_cross(const json_t *one)
{
    const json_t *train = json_object_get(one, "train"), *test = json_object_get(one, "test");
    size_t i, a, b;
    json_t *m, *row, *value;

    json_array_foreach(json_object_get(one, "methods"), i, m)
        json_array_foreach(json_object_get(m, "max_mean"), a, row) json_array_foreach(row, b, value)
    {
        const char *from = json_string_value(json_array_get(train, a));
        const char *to = json_string_value(json_array_get(test, b));
        json_t *score = json_pack("{s:O}", "max_mean", value);
        csv_score(one, from, to, text(m, "method"),
                  strcmp(from, to) == 0 ? "in_sample" : "held_out", score);
        json_decref(score);
    }
    json_array_foreach(test, b, value) for (i = 0; i < 2; i++)
    {
        const char *what = i ? "random" : "current";
        json_t *score =
            json_pack("{s:O}", "max_mean", json_array_get(json_object_get(one, what), b));
        csv_score(one, "", json_string_value(value), what, "not_fitted", score);
        json_decref(score);
    }
}

void skew_wp_csv(const struct skew_wp *wp, const json_t *all)
{
    size_t i, j;
    json_t *one, *m;

    printf("layer,ranks,train,test,method,sample,max_mean,worst,persistent,rank_bytes,domain_bytes,"
           "other_bytes,padded_bytes,time_s\n");
    json_array_foreach(json_object_get(all, "layers"), i, one)
        json_array_foreach(json_object_get(one, "methods"), j, m)
    {
        const char *name = wp->trace[0].name;
        bool fitted = json_is_true(json_object_get(m, "fitted"));
        csv_score(one, fitted ? name : "", name, text(m, "method"),
                  fitted ? "in_sample" : "not_fitted", json_object_get(m, "in_sample"));
        if (fitted)
            csv_score(one, name, name, text(m, "method"), "held_out",
                      json_object_get(m, "held_out"));
    }
    json_array_foreach(json_object_get(all, "cross"), i, one) csv_cross(one);
}
