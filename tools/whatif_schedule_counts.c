/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Matrices for `skewscope whatif schedule` from per-expert counts, where no exchange was captured:
 * each call of each layer, with experts where the trace has them (else contiguous).
 */
#include "whatif_schedule.h"
#include "counts.h"
#include "rows.h"
#include "term.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

uint32_t skew_whatif_counts_comm(const struct skew_reading *reading, const char *asked,
                                 char key[80])
{
    struct skew_error error;
    uint32_t ranks = 0;

    for (size_t i = 0; i < reading->count && ranks == 0; i++) {
        json_t *rows =
                   skew_rows(reading->traces[i],
                             "SELECT key, ranks FROM communicator WHERE ranks > 0 AND comm_id IN "
                             "(SELECT DISTINCT comm_id FROM routing) ORDER BY comm_id",
                             &error),
               *row;
        size_t r;
        json_array_foreach(rows, r, row)
        {
            const char *found = skew_row_text(row, "key");
            if (ranks || (asked && strcmp(asked, found) != 0))
                continue;
            snprintf(key, 80, "%s", found);
            ranks = (uint32_t)skew_row_int(row, "ranks");
        }
        json_decref(rows);
    }
    return ranks;
}

static int refuse(const char *path, int result)
{
    if (result == -ENOMEM)
        skew_tell("out of memory");
    else if (result == -EINVAL)
        skew_tell("%s: its ranks do not divide the experts, and no placement is in it", path);
    else if (result == -ENODATA)
        skew_tell(
            "%s: there are no exchanges in it, and its counts do not say which rank tokens came "
            "from: import with --ranks and --assign",
            path);
    return result;
}

/* One call as bytes. */
static int make_matrix(struct skew_matrix **out, const struct skew_routing_at *at, double token)
{
    uint32_t ranks = at->layer->ranks;
    size_t cells = (size_t)ranks * ranks;
    double *copies = malloc((cells + 1) * sizeof *copies);
    int result = copies ? skew_routing_matrix(at, copies) : -ENOMEM;

    if (result == 0)
        result = skew_matrix_create(out, ranks);
    for (size_t i = 0; i < cells && result == 0; i++)
        (*out)->bytes[i] = (uint64_t)llround(copies[i] * token);
    free(copies);
    return result;
}

static int each(const struct skew_routing *routing, const char *path,
                const struct skew_filter *filter, double token, skew_whatif_matrix_fn *take,
                void *context)
{
    struct skew_routing_at *at;
    size_t count;
    int result = skew_routing_in_time(routing, &at, &count);

    for (size_t i = 0; i < count && result == 0; i++) {
        struct skew_matrix *matrix = NULL;
        if (filter->by_seq && ((int64_t)i < filter->seq_from || (int64_t)i > filter->seq_to))
            continue;
        if (at[i].layer->ranks != at[0].layer->ranks ||
            strcmp(at[i].layer->comm_key, at[0].layer->comm_key) != 0) {
            skew_tell("%s: counts of several EP groups (communicators %s and %s): choose one with "
                      "--comm",
                      path, at[0].layer->comm_key, at[i].layer->comm_key);
            result = -EINVAL;
            break;
        }
        result = refuse(path, make_matrix(&matrix, &at[i], token));
        if (result == 0)
            result = take(context, matrix, (int64_t)i);
        skew_matrix_free(&matrix);
    }
    free(at);
    return result;
}

int skew_whatif_counts(const struct skew_reading *reading, const char *path, const char *comm_key,
                       const struct skew_filter *filter, double token, skew_whatif_matrix_fn *take,
                       void *context)
{
    struct skew_counts_options options = {.filter = {.comm_key = comm_key},
                                          .keep = SKEW_ROUTING_CUBE};
    struct skew_routing *routing;
    size_t layers = 0;

    options.filter.by_layer = filter->by_layer;
    options.filter.layer = filter->layer;
    options.filter.by_step = filter->by_step;
    options.filter.step_from = options.filter.step_to = filter->step;
    if ((filter->role && strcmp(filter->role, "dispatch") != 0) || filter->ops ||
        filter->count_layers) {
        skew_tell(
            "%s: holds no exchange; per-expert counts stand for its dispatches and are chosen "
            "by --layer, --step, --seq and --comm alone",
            path);
        return -EINVAL;
    }
    int result = skew_counts_read(&routing, reading, &options);
    if (result < 0)
        return result;
    skew_routing_layers(routing, &layers);
    if (layers == 0) {
        skew_tell("%s: holds no all-to-all exchange and no per-expert counts that are selected; "
                  "skewscope info %s tells what it holds",
                  path, path);
        result = -ENOENT;
    } else if (token <= 0) {
        skew_tell(
            "%s: holds no exchange, but per-expert counts; to schedule these, give the size of "
            "a token: --token-bytes",
            path);
        result = -EINVAL;
    } else {
        result = each(routing, path, filter, token, take, context);
    }
    skew_routing_free(&routing);
    return result;
}
