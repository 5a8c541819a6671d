/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rows and matrices become a trace. Nothing that was not in the files is made up: no times (start
 * times only keep the order), no ranks that nobody named.
 */
#include "import.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../term.h"
#include "../trace_make.h"
#include "write.h"

struct writing {
    const struct skew_import *import;
    struct skew_make *make;
    int64_t run;
    int64_t *comm; /* [groups] */
    char source[64];
};

static int write_run(struct writing *w, const struct skew_import_output *output)
{
    struct skew_make_run run = {
        .key = "import", .argc = output->argc, .argv = (const char *const *)output->argv};
    int result = skew_make_run(w->make, &run, &w->run);

    for (size_t i = 0; i < output->label_count && result == 0; i++) {
        char key[256];
        const char *equals = strchr(output->labels[i], '=');
        snprintf(key, sizeof key, "%.*s", (int)(equals - output->labels[i]), output->labels[i]);
        result = skew_make_run_label(w->make, w->run, key, equals + 1);
    }
    return result;
}

static int write_comms(struct writing *w, uint32_t ranks, uint32_t groups)
{
    int result = 0;

    w->comm = calloc(groups ? groups : 1, sizeof *w->comm);
    if (!w->comm)
        return -ENOMEM;
    for (uint32_t g = 0; g < groups && ranks && result == 0; g++) {
        char key[32];
        snprintf(key, sizeof key, "%016x", 0x10000000u + g);
        result = skew_make_comm(w->make, key, "unknown", ranks, &w->comm[g]);
    }
    return result;
}

static int write_rows(struct writing *w)
{
    const struct skew_import_rows *rows = &w->import->rows;
    uint32_t experts = w->import->options.experts ? w->import->options.experts : rows->experts;
    uint64_t *counts = calloc(experts ? experts : 1, sizeof *counts);
    int result = counts ? 0 : -ENOMEM;

    for (size_t i = 0; i < rows->count && result == 0; i++) {
        const struct skew_import_row *row = &rows->row[i];
        uint32_t topk = row->topk ? row->topk : w->import->options.topk;
        uint64_t sum = 0;
        uint32_t here = experts < rows->width ? experts : rows->width;
        memcpy(counts, skew_import_counts(rows, i), here * sizeof *counts);
        for (uint32_t e = 0; e < here; e++)
            sum += counts[e];
        struct skew_make_routing routing = {
            .comm_id = w->comm[row->key.group],
            .source_rank = row->key.source < 0 ? SKEW_MAKE_NONE : row->key.source,
            .step = row->key.step < 0 ? SKEW_MAKE_NONE : row->key.step,
            .layer = row->key.layer,
            .microbatch = row->key.microbatch < 0 ? SKEW_MAKE_NONE : row->key.microbatch,
            .request = row->key.request < 0 ? SKEW_MAKE_NONE : row->key.request,
            .stage = row->key.stage,
            .experts = experts,
            .topk = topk ? topk : SKEW_MAKE_NONE,
            .tokens = row->tokens >= 0          ? row->tokens
                      : topk && sum % topk == 0 ? (int64_t)(sum / topk)
                                                : SKEW_MAKE_NONE,
            .counts = counts,
            .source = w->source,
            .ids = row->ids,
            .id_count = row->id_count};
        result = skew_make_routing(w->make, &routing);
    }
    free(counts);
    return result;
}

/* ---- matrices ---------------------------------------------------------------------------------
 */

/* One rank of one matrix: a row is what it sends, a column what it receives. */
static int write_exchange(struct writing *w, const struct skew_import_matrix *m, size_t seq,
                          uint32_t rank, int64_t member, uint64_t *column)
{
    uint32_t ranks = w->import->matrix_ranks;
    struct skew_make_exchange exchange = {.member_id = member,
                                          .seq = (int64_t)seq,
                                          .op = 0,
                                          .dtype = 0,
                                          .start_ns = (int64_t)seq + 1,
                                          .thread = 0,
                                          .group_seq = (int64_t)seq};
    int64_t id;

    for (uint32_t from = 0; from < ranks; from++)
        column[from] = m->bytes[(size_t)from * ranks + rank];
    int result = skew_make_vector(w->make, ranks, m->bytes + (size_t)rank * ranks, NULL,
                                  &exchange.send_vector, &exchange.send_unit);
    if (result == 0)
        result = skew_make_vector(w->make, ranks, column, NULL, &exchange.recv_vector,
                                  &exchange.recv_unit);
    if (result == 0)
        result = skew_make_exchange(w->make, &exchange, &id);
    if (result < 0)
        return result;
    int64_t token = w->import->options.token_bytes;
    struct skew_make_label label = {.exchange_id = id,
                                    .role = "dispatch",
                                    .stage = w->import->options.stage,
                                    .step = m->step,
                                    .layer = m->layer,
                                    .microbatch = SKEW_MAKE_NONE,
                                    .token_bytes = token > 1 ? token : SKEW_MAKE_NONE,
                                    .pair_id = SKEW_MAKE_NONE,
                                    .confidence = 1,
                                    .source = w->source};
    return skew_make_label(w->make, &label);
}

static int write_matrices(struct writing *w)
{
    const struct skew_import *import = w->import;
    uint32_t ranks = import->matrix_ranks;
    uint64_t *column = calloc(ranks, sizeof *column);
    int result = column ? 0 : -ENOMEM;

    for (uint32_t r = 0; r < ranks && result == 0; r++) {
        char key[48];
        int64_t process, member;
        snprintf(key, sizeof key, "import-%u", r);
        struct skew_make_process p = {.run_id = w->run,
                                      .key = key,
                                      .pid = (int64_t)r + 1,
                                      .world_rank = (int32_t)r,
                                      .local_rank = -1,
                                      .world_size = (int32_t)ranks,
                                      .started_ns = 1,
                                      .started_real_ns = 1};
        result = skew_make_process(w->make, &p, &process);
        if (result == 0)
            result = skew_make_member(w->make, w->comm[0], (int32_t)r, process, -1, 1, &member);
        for (size_t i = 0; i < import->matrix_count && result == 0; i++)
            result = write_exchange(w, &import->matrices[i], i, r, member, column);
        if (result == 0)
            result = skew_make_process_groups(w->make, process, (int64_t)import->matrix_count,
                                              (int64_t)import->matrix_count,
                                              (int64_t)import->matrix_count + 1);
    }
    free(column);
    return result;
}

/* ---- together ---------------------------------------------------------------------------------
 */

static int write_notes(struct writing *w)
{
    const struct skew_import *import = w->import;
    int result = 0;

    for (size_t i = 0; i < import->note_count && result == 0; i++)
        result = skew_make_diagnostic(w->make, w->run, 0, import->notes[i].severity,
                                      import->notes[i].code, import->notes[i].text);
    return result;
}

int skew_import_write_file(const struct skew_import *import,
                           const struct skew_import_output *output, const char *path)
{
    struct writing w = {.import = import};
    struct skew_make_about about = {.origin = w.source, .host = "import"};
    char why[700];
    uint32_t ranks = import->matrix_ranks;

    snprintf(w.source, sizeof w.source, "import %s", import->format);
    if (ranks == 0)
        ranks = import->options.ranks ? import->options.ranks : import->rows.ranks;
    int result = skew_make_open(&w.make, path, &about, why, sizeof why);
    if (result < 0) {
        skew_tell("%s", why);
        return result;
    }
    result = write_run(&w, output);
    if (result == 0)
        result = write_comms(&w, ranks, import->rows.groups ? import->rows.groups : 1);
    if (result == 0)
        result = write_rows(&w);
    if (result == 0 && import->matrix_count)
        result = write_matrices(&w);
    if (result == 0)
        result = write_notes(&w);
    if (result == 0)
        result = skew_make_finish(w.make);
    if (result < 0)
        skew_tell("%s", *skew_make_why(w.make) ? skew_make_why(w.make) : strerror(-result));
    free(w.comm);
    skew_make_abandon(&w.make);
    return result;
}

int skew_import_write(struct skew_import *import, const struct skew_import_output *output)
{
    return skew_import_write_file(import, output, output->path);
}
