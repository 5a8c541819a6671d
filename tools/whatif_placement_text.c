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

/* max/mean, bytes by tier, padded bytes and time of a score; "*": sizes that were never seen. */
static void print_score(const json_t *s, const char *itself)
{
    printf(" %8s %8s %10s", number(real(s, "max_mean"), "%.3f").text, itself,
           bytes(real(s, "rank_bytes")).text);
    printf(" %10s %10s %10s %10s%c", bytes(real(s, "domain_bytes")).text,
           bytes(real(s, "other_bytes")).text, bytes(real(s, "padded_bytes")).text,
           seconds(real(s, "time_s")).text, real(s, "clamped") > 0 ? '*' : ' ');
}

/* Without sources the tiers say nothing of placements. */
static void print_sources(const json_t *score)
{
    if (json_is_object(score) && !json_is_true(json_object_get(score, "sources_known")))
        printf("  source ranks are not known: taken to be spread evenly, so that placements do not "
               "change tiers\n");
}

static void print_method(const json_t *m)
{
    const json_t *held = json_object_get(m, "held_out"), *in = json_object_get(m, "in_sample");
    const json_t *gain = json_object_get(m, "gain_over_current");
    const json_t *random = json_object_get(m, "gain_over_random");
    bool fitted = json_is_true(json_object_get(m, "fitted"));

    if (*text(m, "not_possible"))
        return;
    printf("  %-11s", text(m, "method"));
    print_score(held, fitted ? number(real(in, "max_mean"), "%.3f").text : "");
    if (fitted)
        printf(" %s", json_is_object(gain) ? text(gain, "verdict") : "not scored");
    if (isfinite(real(gain, "low")))
        printf(" [%.3f, %.3f]", real(gain, "low"), real(gain, "high"));
    printf("%s\n",
           json_is_object(random) && real(random, "mean") <= 0 ? ", no better than random" : "");
}

/* Those that cannot be had, by reason. */
static void print_not_possible(const json_t *methods)
{
    size_t i, j;
    json_t *m, *other;

    json_array_foreach(methods, i, m)
    {
        const char *why = text(m, "not_possible");
        bool told = !*why;
        json_array_foreach(methods, j, other) told |=
            j < i && strcmp(text(other, "not_possible"), why) == 0;
        if (told)
            continue;
        printf("  not possible: ");
        const char *comma = "";
        json_array_foreach(methods, j, other)
        {
            if (strcmp(text(other, "not_possible"), why) != 0)
                continue;
            printf("%s%s", comma, text(other, "method"));
            comma = ", ";
        }
        printf(" (%s)\n", why);
    }
}

static void print_once(const json_t *m, bool domains)
{
    static const char *const keys[] = {"other_bytes_once", "other_bytes_once_a_domain"};
    const json_t *held = json_object_get(m, "held_out");
    bool exact = json_is_true(json_object_get(held, "ids_known"));

    if (!json_is_object(held) || *text(m, "not_possible"))
        return;
    printf("  %-11s", text(m, "method"));
    for (int i = 0; i < 1 + domains; i++) {
        const json_t *range = json_object_get(held, keys[i]);
        double low = json_number_value(json_array_get(range, 0));
        double high = json_number_value(json_array_get(range, 1));
        printf("  once a %s %s", i ? "domain" : "rank", bytes(low).text);
        if (!exact)
            printf(" to %s", bytes(high).text);
    }
    putchar('\n');
}

static void print_age(const json_t *age)
{
    size_t i;
    json_t *lag;

    if (!json_is_object(age)) {
        printf("  age of the profile: fewer than 8 calls\n");
        return;
    }
    printf("  age of the profile, lpt: max/mean so many calls later (current there)\n   ");
    json_array_foreach(json_object_get(age, "lags"), i, lag)
    {
        if (i == 1 || i == 2 || i == 4 || i == 8)
            printf("  %.0f: %.3f (%.3f)", real(lag, "lag_calls"), real(lag, "max_mean"),
                   real(lag, "current"));
    }
    double half = real(age, "half_gain_lag_calls");
    if (isfinite(half))
        printf("\n    half of the gain is gone after %.0f calls", half);
    else
        printf("\n    half of the gain is still there at the largest age");
    printf("; drift: p = %.3f (%.0f blocks of %.0f calls permuted)\n", real(age, "p_no_drift"),
           real(age, "blocks"), real(age, "calls_a_block"));
}

static void print_layer(const json_t *one)
{
    const json_t *bounds = json_object_get(one, "bounds");
    size_t i;
    json_t *m;
    bool others = false, domains = false;

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
    printf("  %-11s %8s %8s %10s %10s %10s %10s %10s  %s\n", "placement", "held out", "itself",
           "same rank", "domain", "other", "padded", "exchange", "max/mean gained");
    json_array_foreach(json_object_get(one, "methods"), i, m)
    {
        print_method(m);
        others |= real(json_object_get(m, "held_out"), "other_bytes") > 0;
        domains |= real(json_object_get(m, "held_out"), "domain_bytes") > 0;
    }
    print_sources(json_object_get(json_array_get(json_object_get(one, "methods"), 0), "in_sample"));
    print_not_possible(json_object_get(one, "methods"));
    if (others) {
        printf("  bytes to %s, copies of a token sent once:\n",
               domains ? "other domains" : "other ranks");
        json_array_foreach(json_object_get(one, "methods"), i, m) print_once(m, domains);
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

/* Mean of a number of scores. */
static json_t *mean_of(const json_t *scores)
{
    json_t *mean = json_object(), *score, *value;
    double n = (double)json_array_size(scores);
    size_t i;
    const char *key;

    json_array_foreach(scores, i, score) json_object_foreach(score, key, value)
    {
        double so_far = i ? real(mean, key) : 0;
        if (json_is_number(value))
            json_object_set_new(mean, key, skew_wp_real(so_far + json_number_value(value) / n));
    }
    return mean;
}

/* Bytes and time on other data, beside current and random there. */
static void print_cross_scores(const json_t *one)
{
    static const char *const keys[] = {"current_scores", "random_scores"};
    size_t i;
    json_t *m;

    printf("  means on other data\n  %-11s %8s %8s %10s %10s %10s %10s %10s\n", "placement",
           "max/mean", "", "same rank", "domain", "other", "padded", "exchange");
    for (i = 0; i < 2; i++) {
        json_t *mean = mean_of(json_object_get(one, keys[i]));
        printf("  %-11s", i ? "random" : "current");
        print_score(mean, "");
        putchar('\n');
        json_decref(mean);
    }
    json_array_foreach(json_object_get(one, "methods"), i, m)
    {
        if (!json_is_object(json_object_get(m, "mean_off_diagonal")))
            continue;
        printf("  %-11s", text(m, "method"));
        print_score(json_object_get(m, "mean_off_diagonal"), "");
        putchar('\n');
    }
    print_sources(json_array_get(json_object_get(one, "current_scores"), 0));
}

static void print_cross_method(const json_t *one, const json_t *m)
{
    const json_t *train = json_object_get(one, "train");
    size_t a;
    json_t *row, *name;

    if (json_integer_value(json_object_get(m, "off_diagonal")) == 0)
        return;
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

static void print_cross(const json_t *one)
{
    size_t i;
    json_t *m;

    printf("\nLayer %.0f on %.0f ranks: max/mean, found on the row, scored on the column\n",
           real(one, "layer"), real(one, "ranks"));
    json_array_foreach(json_object_get(one, "methods"), i, m) print_cross_method(one, m);
    print_cross_scores(one);
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
        printf("\nRequests\n  not looked at: %s\n", text(r, "note"));
        return;
    }
    printf("\nRequests\n  %.0f requests; a new one is classified by its %s\n", real(r, "requests"),
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
    printf("  %s;\n  better than random in %.0f %% of splits; tokens of groups max/mean %.2f, "
           "random groups "
           "%.2f\n",
           text(g, "verdict"), 100 * real(g, "splits_won"), real(g, "max_mean_of_groups"),
           real(g, "max_mean_of_random_groups"));
}

void skew_wp_text(const struct skew_wp *wp, const json_t *all)
{
    size_t i;
    json_t *one;

    printf("A model over recorded counts; nothing here was timed. A placement counts by what it "
           "does on calls\nthat it was not found from.\n");
    skew_wp_model_print(wp);
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
    static const char *const unfitted[] = {"current", "random"};
    const json_t *train = json_object_get(one, "train"), *test = json_object_get(one, "test");
    char key[24];
    size_t i, a, b;
    json_t *m, *row, *score;

    json_array_foreach(json_object_get(one, "methods"), i, m)
        json_array_foreach(json_object_get(m, "scores"), a, row) json_array_foreach(row, b, score)
    {
        const char *from = json_string_value(json_array_get(train, a));
        const char *to = json_string_value(json_array_get(test, b));
        csv_score(one, from, to, text(m, "method"),
                  strcmp(from, to) == 0 ? "in_sample" : "held_out", score);
    }
    for (i = 0; i < 2; i++) {
        snprintf(key, sizeof key, "%s_scores", unfitted[i]);
        json_array_foreach(json_object_get(one, key), b, score) csv_score(
            one, "", json_string_value(json_array_get(test, b)), unfitted[i], "not_fitted", score);
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
