/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What `skewscope skew` shows. Keys of the JSON: docs/router.md.
 */
#include "skew_output.h"
#include "term.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define N(value, digits)    skew_number_text((char[SKEW_ESTIMATE_TEXT]){0}, value, digits)
#define E(estimate, digits) skew_estimate_text((char[SKEW_ESTIMATE_TEXT]){0}, estimate, digits)

/* ---- EP groups beside each other ---------------------------------------------------------------
 */

/* Of one role, over all its layers, by communicator. */
struct beside {
    const char *role, *comm_key;
    uint32_t ranks;
    double bytes, busiest; /* mean over calls */
    size_t calls;
};

/* The groups of each role, where several communicators have it. free() the result. */
static struct beside *side_by_side(const struct skew_volume_skew *s, size_t *count)
{
    struct beside *all = calloc(s->count + 1, sizeof *all);

    *count = 0;
    for (size_t i = 0; i < s->count && all; i++) {
        const struct skew_volume_group *g = s->result[i].group;
        struct beside *b = NULL;
        if (g->calls == 0 || g->ranks < 2)
            continue;
        for (size_t k = 0; k < *count; k++)
            if (strcmp(all[k].role, g->role) == 0 && strcmp(all[k].comm_key, g->comm_key) == 0)
                b = &all[k];
        if (!b) {
            b = &all[(*count)++];
            *b = (struct beside){.role = g->role, .comm_key = g->comm_key, .ranks = g->ranks};
        }
        b->bytes += s->result[i].bytes * (double)g->calls;
        b->busiest += s->result[i].busiest * (double)g->calls;
        b->calls += g->calls;
    }
    for (size_t k = 0; k < *count && all; k++) {
        all[k].bytes /= (double)all[k].calls;
        all[k].busiest /= (double)all[k].calls;
    }
    return all;
}

/* The busiest of those beside `which` (same role and number of ranks); -1: nothing is beside it. */
static long busiest_beside(const struct beside *all, size_t count, size_t which)
{
    size_t most = which, others = 0;

    for (size_t k = 0; k < count; k++) {
        if (strcmp(all[k].role, all[which].role) != 0 || all[k].ranks != all[which].ranks)
            continue;
        others += k != which;
        if (all[k].busiest > all[most].busiest)
            most = k;
    }
    return others ? (long)most : -1;
}

/* ---- JSON ------------------------------------------------------------------------------------ */

static json_t *matrix_json(const struct skew_volume_group *g)
{
    json_t *rows = json_array();

    for (uint32_t i = 0; i < g->ranks; i++) {
        json_t *row = json_array();
        for (uint32_t j = 0; j < g->ranks; j++)
            json_array_append_new(row,
                                  json_integer((json_int_t)g->matrix[(size_t)i * g->ranks + j]));
        json_array_append_new(rows, row);
    }
    return rows;
}

static json_t *result_json(const struct skew_volume_result *r, bool matrices)
{
    const struct skew_volume_group *g = r->group;
    json_t *object = json_pack(
        "{s:s, s:o, s:o, s:i, s:s, s:I, s:I, s:I, s:I, s:b, s:o, s:I, s:o, s:o, s:o}", "comm",
        g->comm_key, "role", *g->role ? json_string(g->role) : json_null(), "layer",
        g->layer < 0 ? json_null() : json_integer(g->layer), "ranks", (int)g->ranks, "loaded_side",
        g->loaded == SKEW_SIDE_SEND ? "send" : "receive", "calls", (json_int_t)g->calls,
        "calls_incomplete", (json_int_t)g->incomplete, "exchanges", (json_int_t)g->exchanges,
        "exchanges_uniform", (json_int_t)g->uniform, "padded", g->padded, "token_bytes",
        g->token_bytes ? json_integer((json_int_t)g->token_bytes) : json_null(), "unit_bytes",
        (json_int_t)g->unit, "confidence", skew_json_real(g->lowest_confidence), "bytes_call",
        skew_json_real(r->bytes), "busiest_bytes_call", skew_json_real(r->busiest));

    if (r->why) {
        json_object_set_new(object, "why", json_string(r->why));
    } else {
        json_object_set_new(object, "load", skew_json_level(&r->loads));
        json_object_set_new(object, "source_side", skew_json_level(&r->source));
        json_object_set_new(object, "p_persistent_adjusted",
                            skew_json_real(r->adjusted_persistent));
        json_object_set_new(object, "persists", json_boolean(r->persistent));
    }
    if (matrices && g->matrix)
        json_object_set_new(object, "matrix", matrix_json(g));
    return object;
}

json_t *skew_volume_json(const struct skew_volume_shown *s)
{
    json_t *array = json_array();

    for (size_t i = 0; i < s->skew->count; i++)
        json_array_append_new(array, result_json(&s->skew->result[i], s->matrices));
    return array;
}

json_t *skew_volume_whole_json(const struct skew_volume_shown *s, json_t *groups)
{
    size_t count;
    struct beside *all = side_by_side(s->skew, &count);
    json_t *beside = json_array();

    for (size_t k = 0; k < count && all; k++) {
        long most = busiest_beside(all, count, k);
        if (most >= 0)
            json_array_append_new(beside,
                                  json_pack("{s:s, s:s, s:i, s:I, s:f, s:f, s:b}", "comm",
                                            all[k].comm_key, "role", all[k].role, "ranks",
                                            (int)all[k].ranks, "calls", (json_int_t)all[k].calls,
                                            "bytes_call", all[k].bytes, "busiest_bytes_call",
                                            all[k].busiest, "busiest", (size_t)most == k));
    }
    free(all);
    return skew_json_with_coverage(json_pack("{s:s, s:f, s:o, s:o}", "analysis", "skew", "level",
                                             s->level, "side_by_side", beside, "exchanges", groups),
                                   &s->coverage);
}

/* ---- text ------------------------------------------------------------------------------------ */

/* What distinguishes rows gets a column; what all of them share is said once, above the table. */
struct columns {
    bool comm, ranks, chance;
};

static struct columns columns_of(const struct skew_volume_skew *s)
{
    struct columns c = {false, false, false};

    for (size_t i = 0; i < s->count; i++) {
        const struct skew_volume_result *r = &s->result[i];
        c.comm |= strcmp(r->group->comm_key, s->result[0].group->comm_key) != 0;
        c.ranks |= r->group->ranks != s->result[0].group->ranks;
        c.chance |= !r->why && isfinite(r->loads.metric[SKEW_METRIC_MAX_MEAN].chance);
    }
    return c;
}

/* Which row it is: of `layer`, a text, since a row may be of several. */
static void print_row_name(const struct skew_volume_group *g, const struct columns *c,
                           const char *layer, size_t calls)
{
    if (c->comm)
        printf("%-9.8s", g->comm_key);
    printf("%-18s %5s", *g->role ? g->role : "-", layer);
    if (c->ranks)
        printf(" %4u", g->ranks);
    printf(" %6zu", calls);
}

static void print_result(const struct skew_volume_result *r, const struct columns *c)
{
    const struct skew_volume_group *g = r->group;
    const struct skew_level_metric *m = &r->loads.metric[SKEW_METRIC_MAX_MEAN];
    char bytes[SKEW_BYTES_TEXT], layer[24] = "-";

    if (g->layer >= 0)
        snprintf(layer, sizeof layer, "%" PRId64, g->layer);
    print_row_name(g, c, layer, g->calls);
    if (r->why) {
        printf("  %s\n", r->why);
        return;
    }
    printf("  %9s  %7.3f %7.3f %7.3f  %-22s", skew_bytes_text(bytes, (uint64_t)r->bytes), m->median,
           m->p95, m->max, E(&m->call, 3));
    if (c->chance)
        printf(" %7s", N(m->chance, 3));
    printf("  %8s  %7.3f", r->persistent ? N(m->persistent.value, 3) : "-",
           r->source.metric[SKEW_METRIC_MAX_MEAN].call.value);
    if (r->loads.hot_count)
        printf("  %u (%.2f)", r->loads.hot[0].item, r->loads.hot[0].share);
    if (g->incomplete)
        printf("  %zu calls incomplete", g->incomplete);
    printf("\n");
}

static void print_beside(const struct skew_volume_skew *s)
{
    size_t count;
    struct beside *all = side_by_side(s, &count);
    bool first = true;

    for (size_t k = 0; k < count && all; k++) {
        long most = busiest_beside(all, count, k);
        char busiest[SKEW_BYTES_TEXT], bytes[SKEW_BYTES_TEXT];
        if (most < 0)
            continue;
        if (first)
            printf(
                "\nGroups beside each other; the busiest rank's bytes a call decide who is waited "
                "for\n");
        first = false;
        printf("%-9.8s %-18s %3u ranks  busiest rank %9s  all %9s%s\n", all[k].comm_key,
               *all[k].role ? all[k].role : "-", all[k].ranks,
               skew_bytes_text(busiest, (uint64_t)all[k].busiest),
               skew_bytes_text(bytes, (uint64_t)all[k].bytes),
               (size_t)most == k ? "  <- busiest" : "");
    }
    free(all);
}

/* Combine, the backward pass and the rest repeat the dispatches' sizes: layer by layer only when
 * asked for. */
static bool in_full(const struct skew_volume_shown *s, const struct skew_volume_result *r)
{
    return s->all || !*r->group->role || strcmp(r->group->role, "dispatch") == 0;
}

/* The rows of one role from `first` on, as one. Returns how many they are. */
static size_t print_summary(const struct skew_volume_skew *skew, const struct columns *c,
                            size_t first)
{
    const struct skew_volume_group *g = skew->result[first].group;
    const struct skew_volume_group *hot = NULL;
    size_t count = 0, told = 0, calls = 0;
    double sum = 0, most = 0, bytes = 0;

    for (size_t i = first; i < skew->count; i++, count++) {
        const struct skew_volume_result *r = &skew->result[i];
        if (strcmp(r->group->comm_key, g->comm_key) != 0 || strcmp(r->group->role, g->role) != 0)
            break;
        calls += r->group->calls;
        if (r->why)
            continue;
        const struct skew_level_metric *m = &r->loads.metric[SKEW_METRIC_MAX_MEAN];
        told++;
        sum += m->median;
        bytes += r->bytes;
        if (m->max > most) {
            most = m->max;
            hot = r->group;
        }
    }
    char layers[24], text[SKEW_BYTES_TEXT];
    snprintf(layers, sizeof layers, "%zu", count);
    print_row_name(g, c, layers, calls);
    if (!told) {
        printf("  %s\n", skew->result[first].why);
        return count;
    }
    printf("  %9s  %7.3f %7s %7.3f  mean of the layers' medians; largest in layer %" PRId64 "\n",
           skew_bytes_text(text, (uint64_t)(bytes / (double)told)), sum / (double)told, "", most,
           hot->layer);
    return count;
}

static void print_summaries(const struct skew_volume_shown *s, const struct columns *c)
{
    bool first = true;

    for (size_t i = 0; i < s->skew->count;) {
        if (in_full(s, &s->skew->result[i])) {
            i++;
            continue;
        }
        if (first)
            printf("the other roles, all layers of each together (--all for one by one)\n");
        first = false;
        i += print_summary(s->skew, c, i);
    }
}

void skew_volume_print(const struct skew_volume_shown *s)
{
    size_t labelled = 0, persistent = 0, told = 0;

    struct columns c = columns_of(s->skew);

    skew_coverage_print(&s->coverage);
    printf("\nmax/mean over ranks of the bytes on the side that experts are on, of each call by "
           "itself");
    if (s->skew->count && !c.comm && !c.ranks)
        printf(" (communicator %.8s, %u ranks)", s->skew->result[0].group->comm_key,
               s->skew->result[0].group->ranks);
    printf(
        "\n%srole               layer%s  calls  bytes/call  median     p95     max  mean [%.0f %%]"
        "           %s  persists  sources  hottest rank (load / mean)\n",
        c.comm ? "comm     " : "", c.ranks ? "    R" : "", 100 * s->level,
        c.chance ? "  chance" : "");
    for (size_t i = 0; i < s->skew->count; i++) {
        const struct skew_volume_result *r = &s->skew->result[i];
        labelled += *r->group->role != '\0';
        told += !r->why;
        persistent += r->persistent;
        if (in_full(s, r))
            print_result(r, &c);
    }
    print_summaries(s, &c);
    print_beside(s->skew);
    printf("\n");
    if (labelled < s->skew->count)
        printf("%zu of %zu rows could not be labelled: they are by communicator alone, and calls "
               "are told "
               "apart by their ordinal.\n",
               s->skew->count - labelled, s->skew->count);
    if (told)
        printf("Skew persists in %zu of %zu rows (tests adjusted by Holm); how much of it is the "
               "router's: "
               "skewscope router.\n",
               persistent, told);
}
