/* SPDX-License-Identifier: Apache-2.0 */
/* See coverage.h. */
#include "coverage.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct row {
    char interval[48], scenario[64];
    size_t count;
    double *value, *low, *high, *truth; /* [seeds] */
    double common;                      /* truth of all; NaN: their own, or the mean */
    double stated, least, most;         /* shares; least and most NaN: as for all */
    const char *why;
};

struct share {
    char what[80], scenario[64];
    size_t hits, of;
    double least, most;
};

struct cover {
    const char *part;
    bool is_long;
    size_t seeds, rows, shares;
    struct row *row;
    struct share *share;
};

static void *must(void *memory)
{
    if (!memory) {
        fprintf(stderr, "out of memory\n");
        abort();
    }
    return memory;
}

struct cover *cover_open(const char *part, size_t few)
{
    const char *value = getenv("SKEWSCOPE_TEST_LONG");
    struct cover *c = must(calloc(1, sizeof *c));

    c->part = part;
    c->is_long = value && *value && strcmp(value, "0") != 0;
    c->seeds = c->is_long ? 1000 : few;
    return c;
}

size_t cover_seeds(const struct cover *c)
{
    return c->seeds;
}

static struct row *find(const struct cover *c, const char *interval, const char *scenario)
{
    for (size_t i = 0; i < c->rows; i++)
        if (strcmp(c->row[i].interval, interval) == 0 && strcmp(c->row[i].scenario, scenario) == 0)
            return &c->row[i];
    return NULL;
}

static struct row *row_of(struct cover *c, const char *interval, const char *scenario)
{
    struct row *row = find(c, interval, scenario);

    if (row)
        return row;
    c->row = must(realloc(c->row, (c->rows + 1) * sizeof *c->row));
    row = &c->row[c->rows++];
    *row = (struct row){.common = NAN, .stated = 0.9, .least = NAN, .most = NAN};
    snprintf(row->interval, sizeof row->interval, "%s", interval);
    snprintf(row->scenario, sizeof row->scenario, "%s", scenario);
    row->value = must(malloc(c->seeds * 4 * sizeof *row->value));
    row->low = row->value + c->seeds;
    row->high = row->low + c->seeds;
    row->truth = row->high + c->seeds;
    return row;
}

static void add(struct cover *c, const char *interval, const char *scenario, double value,
                double low, double high, double truth)
{
    struct row *row = row_of(c, interval, scenario);
    size_t at = row->count;

    if (at == c->seeds) {
        fprintf(stderr, "%s, %s: more than one estimate a seed\n", interval, scenario);
        abort();
    }
    row->count++;
    row->value[at] = value;
    row->low[at] = low;
    row->high[at] = high;
    row->truth[at] = truth;
}

void cover_add(struct cover *c, const char *interval, const char *scenario,
               const struct skew_estimate *e, double truth)
{
    bool given = e->level > 0;
    add(c, interval, scenario, e->value, given ? e->low : NAN, given ? e->high : NAN, truth);
}

void cover_add_time(struct cover *c, const char *interval, const char *scenario,
                    const struct skew_time_estimate *e, double truth)
{
    add(c, interval, scenario, e->value, e->low, e->high, truth);
}

void cover_truth(struct cover *c, const char *interval, const char *scenario, double truth)
{
    row_of(c, interval, scenario)->common = truth;
}

double cover_mean(const struct cover *c, const char *interval, const char *scenario)
{
    const struct row *row = find(c, interval, scenario);
    double sum = 0;
    size_t count = 0;

    for (size_t i = 0; row && i < row->count; i++)
        if (isfinite(row->value[i])) {
            sum += row->value[i];
            count++;
        }
    return count ? sum / (double)count : NAN;
}

void cover_stated(struct cover *c, const char *interval, const char *scenario, double least)
{
    row_of(c, interval, scenario)->stated = least;
}

void cover_known(struct cover *c, const char *interval, const char *scenario, double least,
                 double most, const char *why)
{
    struct row *row = row_of(c, interval, scenario);
    row->least = least;
    row->most = most;
    row->why = why;
}

void cover_share(struct cover *c, const char *what, const char *scenario, size_t hits, size_t of,
                 double least, double most)
{
    c->share = must(realloc(c->share, (c->shares + 1) * sizeof *c->share));
    struct share *s = &c->share[c->shares++];
    *s = (struct share){.hits = hits, .of = of, .least = least, .most = most};
    snprintf(s->what, sizeof s->what, "%s", what);
    snprintf(s->scenario, sizeof s->scenario, "%s", scenario);
}

/* ---- the table ------------------------------------------------------------------------------- */

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

struct seen {
    size_t stated, covered;
    double coverage, width;
};

static struct seen look(const struct cover *c, const struct row *row)
{
    struct seen s = {0};
    double *widths = must(malloc((row->count + 1) * sizeof *widths)), squares = 0;
    double mean = cover_mean(c, row->interval, row->scenario);
    size_t errors = 0;

    for (size_t i = 0; i < row->count; i++) {
        double truth = isfinite(row->truth[i]) ? row->truth[i]
                       : isfinite(row->common) ? row->common
                                               : mean;
        if (isfinite(row->value[i])) {
            squares += (row->value[i] - truth) * (row->value[i] - truth);
            errors++;
        }
        if (!isfinite(row->low[i]) || !isfinite(row->high[i]))
            continue;
        widths[s.stated++] = row->high[i] - row->low[i];
        s.covered += row->low[i] <= truth && truth <= row->high[i];
    }
    qsort(widths, s.stated, sizeof *widths, compare);
    s.coverage = s.stated ? (double)s.covered / (double)s.stated : NAN;
    double known = 2 * 1.959964 * sqrt(squares / (double)errors);
    double middle = s.stated ? widths[s.stated / 2] : 0;
    s.width = s.stated && known > 0.01 * middle ? middle / known : NAN;
    free(widths);
    return s;
}

/* NULL: the row is as it should be. */
static const char *wrong(const struct cover *c, const struct row *row, const struct seen *s)
{
    double n = (double)s->stated, slack = 4 * sqrt(0.05 * 0.95 / n); /* of some 300 rows */
    double low = 0.93, high = 0.97;

    if (n < row->stated * (double)row->count)
        return "too few intervals";
    if (s->stated == 0)
        return NULL;
    if (!c->is_long) { /* what chance does with so few, around 95 % */
        low = 0.95 - slack;
        high = 0.95 + slack;
    }
    if (isfinite(row->least)) {
        low = row->least - (c->is_long ? 0 : slack);
        high = row->most + (c->is_long ? 0 : slack);
    }
    if (s->coverage < low || (s->coverage > high && high < 1))
        return "coverage";
    /* The width of a known one is only as well known as a standard deviation of so many is. */
    double widest = c->is_long ? 1.5 : 1.5 * (1 + 3 / sqrt(2 * (double)row->count));
    return s->width > widest && !row->why ? "width" : NULL;
}

static int print_row(const struct cover *c, const struct row *row)
{
    struct seen s = look(c, row);
    const char *bad = wrong(c, row, &s);
    char coverage[16] = "–", width[16] = "–";

    if (s.stated) {
        snprintf(coverage, sizeof coverage, "%.1f %%", 100 * s.coverage);
        if (isfinite(s.width)) /* else every estimate was the truth itself */
            snprintf(width, sizeof width, "%.2f", s.width);
    }
    printf("| %s | %s | %zu | %.1f %% | %s | %s | %s%s |\n", row->interval, row->scenario,
           row->count, 100 * (double)s.stated / (double)row->count, coverage, width,
           bad ? "WRONG: " : "",
           bad        ? bad
           : row->why ? row->why
                      : "");
    return bad != NULL;
}

static int print_share(const struct cover *c, const struct share *s)
{
    double rate = (double)s->hits / (double)s->of;
    double slack = c->is_long ? 0 : 4 * sqrt(0.05 * 0.95 / (double)s->of);
    bool bad = s->of == 0 || rate < s->least - slack || rate > s->most + slack;

    printf("| %s | %s | %zu of %zu | %.1f %% | %s |\n", s->what, s->scenario, s->hits, s->of,
           100 * rate, bad ? "WRONG" : "");
    return bad;
}

int cover_close(struct cover *c)
{
    int failures = 0;

    printf("%s\n\n| interval | scenario | seeds | given | coverage | width | |\n"
           "|---|---|---|---|---|---|---|\n",
           c->part);
    for (size_t i = 0; i < c->rows; i++) {
        failures += print_row(c, &c->row[i]);
        free(c->row[i].value);
    }
    if (c->shares)
        printf("\n| what | scenario | | | |\n|---|---|---|---|---|\n");
    for (size_t i = 0; i < c->shares; i++)
        failures += print_share(c, &c->share[i]);
    printf("\n%zu rows, %d wrong\n\n", c->rows + c->shares, failures);
    fflush(stdout);
    free(c->row);
    free(c->share);
    free(c);
    return failures;
}
