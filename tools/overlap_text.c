/* SPDX-License-Identifier: Apache-2.0 */
/* See overlap_output.h. */
#include "overlap_output.h"

#include "rows.h"
#include "term.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* "12.3", "12.3 – 14.0", or "not known", in units of `unit` ns. */
static const char *between_of(char text[48], const json_t *from, const char *key, double unit)
{
    const json_t *o = json_object_get(from, key);
    double low = json_number_value(json_object_get(o, "low")) / unit,
           high = json_number_value(json_object_get(o, "high")) / unit;
    if (!json_is_object(o))
        snprintf(text, 48, "not known");
    else if (high - low < 0.05)
        snprintf(text, 48, "%.1f", high);
    else
        snprintf(text, 48, "%.1f – %.1f", low, high);
    return text;
}

static const char *between(char text[48], const json_t *from, const char *key)
{
    return between_of(text, from, key, 1e3);
}

static const char *micro(char text[24], const json_t *from, const char *key)
{
    const json_t *o = json_object_get(from, key);
    if (json_is_number(o))
        snprintf(text, 24, "%.1f", json_number_value(o) / 1e3);
    else
        snprintf(text, 24, "–");
    return text;
}

/* Names come from the trace: no control characters reach the terminal. */
static void put_clean(const char *format, const char *text)
{
    char *clean = strdup(text ? text : "");
    if (clean)
        skew_term_clean(clean);
    printf(format, clean ? clean : "");
    free(clean);
}

static void print_roles(const json_t *roles)
{
    char a[24], b[48], c[48];
    const json_t *one;
    size_t i;
    puts("exchanges: on the device, and what of it kernels of other streams hide (means, µs)");
    printf("  %-18s %-18s %9s %9s %10s  %-20s %s\n", "communicator", "role", "timed", "known",
           "took", "hidden", "exposed");
    json_array_foreach(roles, i, one)
    {
        const char *role = skew_row_null(one, "role") ? "no label" : skew_row_text(one, "role");
        put_clean("  %-18s ", skew_row_text(one, "comm"));
        printf("%-18s %9" PRId64 " %9" PRId64 " %10s  %-20s %s\n", role,
               skew_row_int(one, "exchanges"), skew_row_int(one, "known"),
               micro(a, one, "duration_ns"), between(b, one, "overlapped_ns"),
               between(c, one, "exposed_ns"));
    }
}

static void print_expert_line(const char *rank, const char *way, const json_t *e)
{
    char a[24], b[48], c[48];
    double tokens = json_number_value(json_object_get(e, "tokens"));
    printf("  %-6s %-20s %7" PRId64 " of %-7" PRId64 " %10s  %-20s ", rank, way,
           skew_row_int(e, "known"), skew_row_int(e, "pairs"), micro(a, e, "gap_ns"),
           between(b, e, "kernels_ns"));
    if (tokens > 0)
        printf("%10.1f  %s\n", tokens, between_of(c, e, "token_ns", 1));
    else
        printf("%10s\n", "–");
}

static void print_experts(const json_t *roles)
{
    const json_t *one, *rank;
    size_t i, k;
    bool any = false;
    json_array_foreach(roles, i, one) any |= json_object_get(one, "experts") != NULL;
    if (!any)
        return;
    puts("\nexperts: kernels between an exchange's end and the start of the one that brings its "
         "tokens back (means, µs)");
    printf("  %-6s %-20s %18s %10s  %-20s %10s  %s\n", "rank", "after", "pairs", "gap", "kernels",
           "tokens", "ns a token");
    json_array_foreach(roles, i, one)
    {
        const char *role = skew_row_text(one, "role");
        if (!json_object_get(one, "experts"))
            continue;
        print_expert_line("all", role, json_object_get(one, "experts"));
        json_array_foreach(json_object_get(one, "ranks"), k, rank)
        {
            char number[24];
            snprintf(number, sizeof number, "%" PRId64, skew_row_int(rank, "rank"));
            if (json_object_get(rank, "experts"))
                print_expert_line(number, role, json_object_get(rank, "experts"));
        }
    }
}

static void print_backends(const json_t *root)
{
    const json_t *one;
    size_t i;
    char a[24], b[48];
    if (json_array_size(json_object_get(root, "backends")))
        puts("\ndevice-initiated backends, by their kernels; their bytes are not observable (µs)");
    json_array_foreach(json_object_get(root, "backends"), i, one)
    {
        double kernels = (double)skew_row_int(one, "kernels");
        printf("  rank %-4" PRId64 " %-40s %-10s %9" PRId64 " kernels, mean %.1f",
               skew_row_int(one, "world_rank"), skew_row_text(one, "backend"),
               skew_row_text(one, "does"), skew_row_int(one, "kernels"),
               (double)skew_row_int(one, "total_ns") / kernels / 1e3);
        if (json_object_get(one, "most_ns"))
            printf(" (%.1f … %.1f)", (double)skew_row_int(one, "least_ns") / 1e3,
                   (double)skew_row_int(one, "most_ns") / 1e3);
        putchar('\n');
    }
    json_array_foreach(json_object_get(root, "backend_experts"), i, one)
        printf("  rank %-4" PRId64 " %-40s experts: kernels %s in gaps of %s, %" PRId64
               " of %" PRId64 " rounds known\n",
               skew_row_int(one, "world_rank"), skew_row_text(one, "backend"),
               between(b, one, "kernels_ns"), micro(a, one, "gap_ns"), skew_row_int(one, "known"),
               skew_row_int(one, "rounds"));
    json_array_foreach(json_object_get(root, "unknown_kernels"), i, one)
        put_clean("  sounds like communication, not known: %s\n", json_string_value(one));
}

static void print_fit(const char *what, const json_t *fit, const char *x)
{
    const json_t *slope = json_object_get(fit, "slope_ns");
    const char *model = skew_row_text(fit, "model");

    printf("    %-9s ", what);
    if (strcmp(model, "linear") != 0 && strcmp(model, "piecewise") != 0) {
        printf("%s\n", skew_row_text(fit, "why"));
        return;
    }
    printf("%.1f µs + %.3f [%.3f, %.3f] ns a copy %s",
           json_number_value(json_object_get(json_object_get(fit, "intercept_ns"), "value")) / 1e3,
           json_number_value(json_object_get(slope, "value")),
           json_number_value(json_object_get(slope, "low")),
           json_number_value(json_object_get(slope, "high")), x);
    if (strcmp(model, "piecewise") == 0)
        printf(" beyond %.0f", json_number_value(json_object_get(fit, "knee")));
    printf(" (%.0f to %.0f seen)\n", json_number_value(json_object_get(fit, "least")),
           json_number_value(json_object_get(fit, "most")));
}

/* What counts of experts, imported or tapped, add to kernels whose bytes nobody sees. */
static void print_joined(const json_t *joined)
{
    const json_t *one;
    size_t i;

    if (json_array_size(joined))
        puts("\nwith the counts of experts in this trace, a round of each rank a call");
    json_array_foreach(joined, i, one)
    {
        if (*skew_row_text(one, "why")) {
            printf("  %s: not joined: %s\n", skew_row_text(one, "backend"),
                   skew_row_text(one, "why"));
            continue;
        }
        printf("  %s: %" PRId64 " calls, token copies on average %.0f of the busiest port, %.0f "
               "received by a rank%s\n",
               skew_row_text(one, "backend"), skew_row_int(one, "calls"),
               json_number_value(json_object_get(one, "busiest_copies")),
               json_number_value(json_object_get(one, "received_copies")),
               json_is_true(json_object_get(one, "one_clock"))
                   ? ""
                   : "; on several clocks a transfer is the shortest duration");
        print_fit("dispatch", json_object_get(one, "dispatch"), "of the busiest port");
        print_fit("combine", json_object_get(one, "combine"), "of the busiest port");
        print_fit("experts", json_object_get(one, "experts"), "received");
    }
}

void skew_overlap_print(const json_t *root)
{
    const json_t *roles = json_object_get(root, "roles");
    if (json_array_size(roles)) {
        print_roles(roles);
        print_experts(roles);
    } else {
        puts("no exchange has a time on the device");
    }
    print_backends(root);
    print_joined(json_object_get(root, "joined"));
    if (skew_row_int(root, "kernel_rows") == 0)
        puts("\nno kernels are recorded, so what they hide is not known: SKEWSCOPE_TIMING=cupti "
             "records them");
    if (skew_row_int(root, "untimed"))
        printf("\n%" PRId64 " exchanges have no time on the device and are left out\n",
               skew_row_int(root, "untimed"));
    if (skew_row_int(root, "cupti_dropped"))
        printf("\n%" PRId64
               " CUPTI records were dropped: kernels ran for at least the times shown, "
               "and more is hidden than shown\n",
               skew_row_int(root, "cupti_dropped"));
    if (skew_row_int(root, "partial"))
        printf("\n%" PRId64
               " exchanges are parts of a dispatch: no experts' time is told of these\n",
               skew_row_int(root, "partial"));
}
