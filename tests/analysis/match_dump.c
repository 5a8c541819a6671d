/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Prints what analysis/match.h finds, a line each, for test_match.py: `group DATABASE EXCHANGE
 * ORDINAL RANK:EXCHANGE…`, `mismatch KIND SRC DST NTH SENT EXPECTED SEND RECV` and `edges N`.
 * usage: match_dump DATABASE…
 */
#include "match.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include <sqlite3.h>

static void print_groups(const struct skew_matches *m, struct skew_trace *trace, uint32_t index)
{
    const struct skew_match_exchange *group;
    sqlite3_stmt *s;
    int64_t ordinal;

    if (sqlite3_prepare_v2(skew_trace_db(trace),
                           "SELECT exchange_id FROM exchange ORDER BY exchange_id", -1, &s, NULL))
        exit(1);
    while (sqlite3_step(s) == SQLITE_ROW) {
        int64_t id = sqlite3_column_int64(s, 0);
        size_t n = skew_matches_group(m, index, id, &group, &ordinal);
        printf("group %u %" PRId64 " %" PRId64, index, id, ordinal);
        for (size_t i = 0; i < n; i++)
            printf(" %d:%u:%" PRId64, group[i].rank, group[i].trace, group[i].exchange);
        putchar('\n');
    }
    sqlite3_finalize(s);
}

int main(int argc, char **argv)
{
    struct skew_trace **traces = calloc((size_t)argc, sizeof *traces);
    struct skew_matches *m;
    struct skew_error error;
    size_t count;
    uint64_t total;

    for (int i = 1; i < argc; i++)
        if (skew_trace_open(&traces[i - 1], argv[i], &error) < 0)
            return fprintf(stderr, "%s\n", error.text), 1;
    if (skew_matches_find(traces, (size_t)argc - 1, &m, &error) < 0)
        return fprintf(stderr, "%s\n", error.text), 1;
    for (int i = 1; i < argc; i++)
        print_groups(m, traces[i - 1], (uint32_t)i - 1);
    const struct skew_mismatch *all = skew_matches_mismatches(m, &count, &total);
    for (size_t i = 0; i < count; i++)
        printf("mismatch %d %u %u %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRId64 " %" PRId64 "\n",
               all[i].kind, all[i].src, all[i].dst, all[i].nth, all[i].sent_bytes,
               all[i].expected_bytes, all[i].send.exchange, all[i].recv.exchange);
    printf("edges %" PRIu64 "\n", skew_matches_edges(m));
    skew_matches_free(&m);
    for (int i = 1; i < argc; i++)
        skew_trace_close(&traces[i - 1]);
    free(traces);
    return 0;
}
