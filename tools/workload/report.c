/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The report on stdout, printed once by the process that started the ranks (or by rank 0 under a
 * launcher). It holds nothing that differs between two runs of one command, unless --timing.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "pattern.h"
#include "rendezvous.h"
#include "results.h"
#include "routing.h"

#define WIDEST_MATRIX 16

static struct skew_results *results(const struct skew_job *job, unsigned rank)
{
    return skew_rendezvous_results(job->rendezvous, rank);
}

static void print_head(const struct skew_job *job)
{
    const struct skew_options *opt = job->opt;
    printf("skewscope-workload: pattern %s, %u ranks", opt->pattern, opt->ranks);
    if (opt->ep_groups > 1)
        printf(" in %u EP groups of %u", opt->ep_groups, job->ep_size);
    printf("\nmodel: E=%u experts, K=%u, R=%u, L=%u layers, H=%u, %s\n", opt->experts, opt->topk,
           job->ep_size, opt->layers, opt->hidden, opt->dtype);
    printf("routing: %s, seed %" PRIu64 "\n", job->routing->source, opt->seed);
    printf("steps: %u of %u micro-batch(es), %s\n", opt->steps, opt->micro_batches,
           job->backward ? "forward and backward" : "forward only");
    if (opt->graph)
        printf("graph: one step captured, launched %u times\n", opt->graph);
}

static void print_matrix(const struct skew_job *job, unsigned group, int role)
{
    const struct skew_options *opt = job->opt;
    unsigned n = job->ep_size;
    for (unsigned s = 0; s < n; s++) {
        uint64_t *sent = skew_results_sent(results(job, group * n + s), opt, role);
        printf("  %4u |", s);
        for (unsigned d = 0; d < n; d++)
            printf(" %11" PRIu64, sent[d]);
        printf("\n");
    }
}

static void print_loads(const struct skew_job *job, unsigned group, int role)
{
    const struct skew_options *opt = job->opt;
    unsigned n = job->ep_size;
    for (unsigned r = 0; r < n; r++) {
        uint64_t sends = 0, receives = 0;
        for (unsigned p = 0; p < n; p++) {
            sends += skew_results_sent(results(job, group * n + r), opt, role)[p];
            receives += skew_results_sent(results(job, group * n + p), opt, role)[r];
        }
        printf("  %4u | sends %14" PRIu64 "  receives %14" PRIu64 "\n", r, sends, receives);
    }
}

static void print_role(const struct skew_job *job, int role)
{
    const struct skew_options *opt = job->opt;
    uint64_t calls = 0, sent = 0, collective = 0;
    for (unsigned r = 0; r < opt->ranks; r++) {
        calls += results(job, r)->calls[role];
        collective += results(job, r)->collective_bytes[role];
        for (unsigned p = 0; p < opt->ranks; p++)
            sent += skew_results_sent(results(job, r), opt, role)[p];
    }
    if (!calls)
        return;
    printf("\n%s: %" PRIu64 " exchanges over all ranks", skew_role_name((enum skew_role)role),
           calls);
    if (collective)
        printf(", %" PRIu64 " bytes given to collectives", collective);
    if (sent)
        printf(", %" PRIu64 " bytes sent", sent);
    printf("\n");
    if (!sent || role == SKEW_ROLE_PIPELINE)
        return;
    for (unsigned g = 0; g < opt->ep_groups; g++) {
        if (opt->ep_groups > 1)
            printf("  EP group %u\n", g);
        if (job->ep_size <= WIDEST_MATRIX)
            print_matrix(job, g, role);
        else
            print_loads(job, g, role);
    }
}

static int ascending(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Gini = sum_i (2i-n-1) x_i / (n sum x) over ascending x, and max/mean. */
static void print_layer(const struct skew_job *job, unsigned layer, uint64_t *tokens)
{
    unsigned n = job->opt->experts, hottest = 0;
    double sum = 0, weighted = 0;
    for (unsigned e = 0; e < n; e++) {
        tokens[e] = 0;
        for (unsigned r = 0; r < job->opt->ranks; r++)
            tokens[e] += skew_results_tokens(results(job, r), job->opt, layer)[e];
        if (tokens[e] > tokens[hottest])
            hottest = e;
    }
    qsort(tokens, n, sizeof *tokens, ascending);
    for (unsigned i = 0; i < n; i++) {
        sum += (double)tokens[i];
        weighted += (2.0 * (i + 1) - n - 1) * (double)tokens[i];
    }
    if (sum > 0)
        printf("  %5u  %12.0f  %.6f  %9.6f  %7u\n", layer, sum, weighted / (n * sum),
               n * (double)tokens[n - 1] / sum, hottest);
    else
        printf("  %5u  %12d  no tokens\n", layer, 0);
}

static void print_tables(const struct skew_job *job)
{
    const struct skew_options *opt = job->opt;
    uint64_t *tokens = skew_xrealloc(NULL, opt->experts * sizeof *tokens);
    printf("\nexperts, all ranks and steps together:\n  layer   assignments      Gini   max/mean  "
           "hottest\n");
    for (unsigned l = 0; l < opt->layers; l++)
        print_layer(job, l, tokens);
    printf("\nbytes sent, rows are sources, columns destinations:\n");
    for (int role = 0; role < SKEW_ROLES; role++)
        print_role(job, role);
    free(tokens);
}

void skew_report(const struct skew_job *job)
{
    const struct skew_options *opt = job->opt;
    uint64_t rows = 0, dropped = 0, launches = 0, slowest = 0;
    for (unsigned r = 0; r < opt->ranks; r++) {
        rows += results(job, r)->rows_sent;
        dropped += results(job, r)->rows_dropped;
        launches += results(job, r)->launches;
        slowest = results(job, r)->wall_ns > slowest ? results(job, r)->wall_ns : slowest;
    }
    print_head(job);
    if (!opt->brief)
        print_tables(job);
    printf("\nchecked: %" PRIu64 " token copies reached their experts and came back",
           rows - dropped);
    if (dropped)
        printf("; %" PRIu64 " did not fit into the capacity", dropped);
    if (launches)
        printf("; %" PRIu64 " graph launches", launches);
    printf("\n");
    if (opt->timing)
        printf("time: %.3f s in steps, slowest rank\n", (double)slowest / 1e9);
}
