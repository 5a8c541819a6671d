/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The formats of `skewscope matrix`: see matrix_output.h.
 */
#include "matrix_output.h"
#include "heatmap.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct scale {
    const char *unit;
    double bytes; /* of one unit */
    bool whole;   /* all numbers come out as integers */
};

static double largest_total(const struct skew_matrix *m)
{
    double most = 0;

    for (uint32_t i = 0; i < m->ranks; i++) {
        double row = 0, col = 0;
        for (uint32_t j = 0; j < m->ranks; j++) {
            row += (double)skew_matrix_at(m, i, j);
            col += (double)skew_matrix_at(m, j, i);
        }
        most = fmax(most, fmax(row, col));
    }
    return most;
}

static int choose_scale(const struct skew_matrix_output *o, const struct skew_matrix *m,
                        struct scale *scale)
{
    static const struct scale units[] = {
        {"B", 1, true}, {"KiB", 1024, false}, {"MiB", 1048576, false}, {"GiB", 1073741824, false}};
    size_t count = sizeof units / sizeof *units;

    if (strcmp(o->unit, "tokens") == 0) {
        uint64_t bytes = o->token_bytes ? o->token_bytes : m->unit_gcd;
        *scale =
            (struct scale){"tokens", bytes ? (double)bytes : 1, bytes && m->unit_gcd % bytes == 0};
        return 0;
    }
    bool choose = strcmp(o->unit, "auto") == 0;
    double most = largest_total(m);
    *scale = units[0];
    for (size_t i = 0; i < count; i++)
        if (choose ? o->format == SKEW_FORMAT_TEXT && most >= units[i].bytes * 20
                   : strcmp(o->unit, units[i].unit) == 0)
            *scale = units[i];
    return 0;
}

/* One cell as it is shown. NaN: the sender's records are not here, so nobody knows. */
static double shown_value(const struct skew_matrix_output *o, const struct skew_matrix_shown *s,
                          const struct scale *scale, uint32_t from, uint32_t to)
{
    double value = (double)skew_matrix_at(s->matrix, from, to) / scale->bytes;

    if (!o->here[from])
        return NAN;
    if (o->how == SKEW_HOW_MEAN && s->summary->exchanges)
        value /= (double)s->summary->exchanges;
    return value;
}

static bool shown_whole(const struct skew_matrix_output *o, const struct scale *scale)
{
    return scale->whole && o->how != SKEW_HOW_MEAN;
}

/* A number for machines: all digits that it has. Bytes beyond 2^53 stay exact. Unknown is no
 * number. */
static void print_value(const struct skew_matrix_output *o, const struct skew_matrix_shown *s,
                        const struct scale *scale, uint32_t from, uint32_t to)
{
    if (!o->here[from])
        fputs(o->format == SKEW_FORMAT_JSON ? "null" : "", stdout);
    else if (shown_whole(o, scale))
        printf("%" PRIu64, skew_matrix_at(s->matrix, from, to) / (uint64_t)scale->bytes);
    else if (o->format == SKEW_FORMAT_NCCL_TESTS) /* which reads whole numbers only */
        printf("%.0f", shown_value(o, s, scale, from, to));
    else
        printf("%.17g", shown_value(o, s, scale, from, to));
}

/* ---- text ---------------------------------------------------------------------------------- */

static const char *how_word(const struct skew_matrix_output *o)
{
    return o->how == SKEW_HOW_SUM ? "sum of" : o->how == SKEW_HOW_MEAN ? "mean of" : "each of";
}

static void print_skew(const struct skew_matrix_output *o, const struct skew_matrix_shown *s)
{
    const struct skew_summary *y = s->summary;
    char count[SKEW_COUNT_TEXT];

    if (o->absent) {
        printf(
            "skew: not known, since only %u of %u ranks are in this trace; what the others sent is "
            "unknown (?), and the totals are without it\n",
            o->comm->ranks - o->absent, o->comm->ranks);
        return;
    }
    if (isnan(y->median)) {
        printf("skew: none, %s\n",
               y->complete == 0 ? "no exchange is here from every rank" : "no bytes were received");
        return;
    }
    if (y->complete - y->empty == 1)
        printf("skew (" SKEW_SKEW_FORMULA "): %.3f, rank %u\n", y->max, y->max_rank);
    else
        printf("skew of each exchange (" SKEW_SKEW_FORMULA "): median %.3f, max %.3f (seq %" PRId64
               ", rank %u), over %s exchanges\n",
               y->median, y->max, y->max_seq, y->max_rank,
               skew_count_text(count, y->complete - y->empty));
}

static void print_doubts(const struct skew_matrix_output *o, const struct skew_matrix_shown *s)
{
    const struct skew_summary *y = s->summary;
    const struct skew_coverage *c = &o->coverage;
    char a[SKEW_COUNT_TEXT], b[SKEW_COUNT_TEXT];

    if (y->unequal)
        printf("doubt: in %s of %s exchanges what was sent is not what was received: the ranks' "
               "ordinals differ (groups skipped by some ranks, or losses), so the skew of single "
               "exchanges is unreliable; the %s is not affected\n",
               skew_count_text(a, y->unequal), skew_count_text(b, y->complete),
               o->how == SKEW_HOW_EACH ? "sum over all" : "matrix");
    if (y->complete < y->exchanges && !o->absent)
        printf("doubt: %s of %s exchanges are not here from every rank\n",
               skew_count_text(a, y->exchanges - y->complete), skew_count_text(b, y->exchanges));
    if (s->matrix->outside)
        printf("doubt: %s sends are left out, since their ranks are not known\n",
               skew_count_text(a, s->matrix->outside));
    if (c->stored < c->returned)
        printf("doubt: the trace holds %s of %s groups; skewscope info tells where the rest went\n",
               skew_count_text(a, c->stored), skew_count_text(b, c->returned));
}

static int print_text(struct skew_matrix_output *o, const struct skew_matrix_shown *s,
                      const struct scale *scale)
{
    const struct skew_matrix *m = s->matrix;
    double *cells = malloc((size_t)m->ranks * m->ranks * sizeof *cells);
    char text[SKEW_COUNT_TEXT];

    if (!cells) {
        skew_tell("out of memory");
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < m->ranks; i++)
        for (uint32_t j = 0; j < m->ranks; j++)
            cells[(size_t)i * m->ranks + j] = shown_value(o, s, scale, i, j);
    if (o->printed)
        putchar('\n');
    if (s->seq >= 0)
        printf("exchange %" PRId64, s->seq);
    else
        printf("%s %s exchange%s", how_word(o), skew_count_text(text, s->summary->exchanges),
               s->summary->exchanges == 1 ? "" : "s");
    if (strcmp(scale->unit, "tokens") == 0)
        printf(", tokens of %.0f B%s\n", scale->bytes,
               o->token_bytes ? ""
                              : " (the greatest common divisor of all sizes; see --token-bytes)");
    else
        printf(", %s\n", scale->unit);
    skew_heatmap_print(stdout, &(struct skew_heatmap){.ranks = m->ranks,
                                                      .cells = cells,
                                                      .unit = scale->unit,
                                                      .whole = shown_whole(o, scale),
                                                      .colour = o->colour,
                                                      .logarithmic = o->logarithmic,
                                                      .columns = o->columns});
    free(cells);
    print_skew(o, s);
    print_doubts(o, s);
    return 0;
}

/* ---- for machines -------------------------------------------------------------------------- */

static void print_csv(const struct skew_matrix_output *o, const struct skew_matrix_shown *s,
                      const struct scale *scale)
{
    if (!o->printed)
        printf("%ssrc_rank,dst_rank,%s\n", s->seq >= 0 ? "seq," : "",
               strcmp(scale->unit, "B") == 0 ? "bytes" : scale->unit);
    for (uint32_t i = 0; i < s->matrix->ranks; i++) {
        for (uint32_t j = 0; j < s->matrix->ranks; j++) {
            if (s->seq >= 0)
                printf("%" PRId64 ",", s->seq);
            printf("%u,%u,", i, j);
            print_value(o, s, scale, i, j);
            putchar('\n');
        }
    }
}

static void print_rows(const struct skew_matrix_output *o, const struct skew_matrix_shown *s,
                       const struct scale *scale, const char *open, const char *between,
                       const char *close)
{
    for (uint32_t i = 0; i < s->matrix->ranks; i++) {
        fputs(open, stdout);
        for (uint32_t j = 0; j < s->matrix->ranks; j++) {
            if (j)
                fputs(between, stdout);
            print_value(o, s, scale, i, j);
        }
        printf("%s%s\n", close, *close && i + 1 < s->matrix->ranks ? "," : "");
    }
}

static void print_json_string(const char *text)
{
    json_t *value = json_string(text);

    if (!value) /* not UTF-8 */
        value = json_string("?");
    json_dumpf(value, stdout, JSON_ENCODE_ANY);
    json_decref(value);
}

static void json_number(const char *key, double value, const char *after)
{
    if (isnan(value))
        printf("\"%s\": null%s", key, after);
    else
        printf("\"%s\": %.9g%s", key, value, after);
}

static void print_json(const struct skew_matrix_output *o, const struct skew_matrix_shown *s,
                       const struct scale *scale)
{
    const struct skew_summary *y = s->summary;

    printf("%s\n  {", o->printed ? "," : "");
    if (s->seq >= 0)
        printf("\"seq\": %" PRId64 ", ", s->seq);
    printf("\"exchanges\": %" PRIu64 ", \"unit\": \"%s\", ", y->exchanges, scale->unit);
    if (strcmp(scale->unit, "tokens") == 0)
        printf("\"token_bytes\": %.0f, ", scale->bytes);
    bool known = !o->absent;
    printf("\"skew\": {\"formula\": \"" SKEW_SKEW_FORMULA "\", ");
    json_number("median", known ? y->median : NAN, ", ");
    json_number("max", known ? y->max : NAN, ", ");
    printf("\"max_seq\": %" PRId64 ", \"max_rank\": %u, \"complete_exchanges\": %" PRIu64
           ", \"unequal_exchanges\": %" PRIu64 "},\n   \"sends_left_out\": %" PRIu64
           ", \"matrix\": [\n",
           y->max_seq, y->max_rank, y->complete, y->unequal, s->matrix->outside);
    print_rows(o, s, scale, "    [", ", ", "]");
    fputs("   ]}", stdout);
}

/* ---- all ----------------------------------------------------------------------------------- */

int skew_matrix_output_begin(struct skew_matrix_output *o)
{
    static const char *const hows[] = {"sum", "mean", "each"};

    if (o->format == SKEW_FORMAT_NCCL_TESTS && o->absent) {
        skew_tell("--format nccl-tests has no way to say unknown, and only %u of %u ranks are in "
                  "this trace: the "
                  "others' sends would be replayed as zero; give all databases of the job, or use "
                  "--format csv",
                  o->comm->ranks - o->absent, o->comm->ranks);
        return -ENODATA;
    }
    if (o->format == SKEW_FORMAT_JSON) {
        printf("{\"communicator\": {\"id\": %" PRId64 ", \"key\": ", o->comm->id);
        print_json_string(o->comm->key);
        printf(", \"ranks\": %u, \"ranks_here\": %u},\n \"groups\": {\"captured\": %" PRIu64
               ", \"of\": %" PRIu64 ", \"lost\": %" PRIu64 "},\n \"own_cost\": ",
               o->comm->ranks, o->comm->ranks - o->absent, o->coverage.stored, o->coverage.returned,
               o->coverage.lost);
        json_t *cost = skew_json_own_cost(&o->coverage);
        json_dumpf(cost, stdout, JSON_PRESERVE_ORDER);
        json_decref(cost);
        printf(",\n \"how\": \"%s\",\n \"matrices\": [", hows[o->how]);
    }
    if (o->format == SKEW_FORMAT_TEXT)
        printf("communicator %" PRId64 " (key %s), %u ranks%s%s\n", o->comm->id, o->comm->key,
               o->comm->ranks, o->chosen ? ": " : "", o->chosen ? o->chosen : "");
    else if (o->chosen && o->format != SKEW_FORMAT_JSON)
        skew_tell("communicator %" PRId64 " (key %s): %s", o->comm->id, o->comm->key, o->chosen);
    return 0;
}

int skew_matrix_output_add(struct skew_matrix_output *o, const struct skew_matrix_shown *s)
{
    struct scale scale;
    int result = choose_scale(o, s->matrix, &scale);

    if (result < 0)
        return result;
    switch (o->format) {
    case SKEW_FORMAT_TEXT:
        result = print_text(o, s, &scale);
        break;
    case SKEW_FORMAT_CSV:
        print_csv(o, s, &scale);
        break;
    case SKEW_FORMAT_JSON:
        print_json(o, s, &scale);
        break;
    case SKEW_FORMAT_NCCL_TESTS:
        print_rows(o, s, &scale, "", " ", "");
        break;
    }
    o->printed++;
    return result;
}

void skew_matrix_output_end(struct skew_matrix_output *o)
{
    if (o->format == SKEW_FORMAT_JSON)
        fputs("\n ]}\n", stdout);
    else if (o->format == SKEW_FORMAT_TEXT)
        skew_coverage_print(&o->coverage);
}
