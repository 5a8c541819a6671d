/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Labels of a whole database: lane by lane, then the summary a communicator. See label.h and
 * docs/labels.md.
 */
#include "label_lane.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "label_store.h"

static const char *const role_names[SKEW_LABEL_ROLES] = {NULL,
                                                         "dispatch",
                                                         "combine",
                                                         "probs",
                                                         "combine_bwd",
                                                         "dispatch_bwd",
                                                         "probs_bwd",
                                                         "dispatch_recompute",
                                                         "combine_recompute",
                                                         "probs_recompute",
                                                         "count",
                                                         "pipeline",
                                                         "sequence",
                                                         "other"};

const char *skew_label_role_name(int role)
{
    return role > 0 && role < SKEW_LABEL_ROLES ? role_names[role] : NULL;
}

int skew_label_role_of(const char *name)
{
    for (int i = 1; i < SKEW_LABEL_ROLES; i++)
        if (name && strcmp(role_names[i], name) == 0)
            return i;
    return -1;
}

const char *skew_label_stage_name(int stage)
{
    static const char *const names[] = {NULL, "train", "prefill", "decode"};
    return stage > 0 && stage <= SKEW_STAGE_DECODE ? names[stage] : NULL;
}

/* ---- lanes -------------------------------------------------------------------------------------
 */

static void free_lane(struct skew_labelling *lane)
{
    free(lane->uses);
    free(lane->payload);
    free(lane->leader_of);
    free(lane->items);
    free(lane->blocks);
    free(lane->firsts);
    free(lane->passes);
    free(lane->losses);
    free(lane->begun);
    free(lane->ended);
    free(lane->marks);
    free(lane->marked_layer);
}

/* Notes of a lane go to the communicators that carry its blocks. */
static void note(struct skew_labels *labels, const struct skew_labelling *lane)
{
    bool others = false;

    for (uint32_t c = 0; c < lane->rows->comm_count; c++)
        others |= lane->uses[c].moe || lane->uses[c].collective;
    for (uint32_t c = 0; c < lane->rows->comm_count; c++) {
        struct skew_label_comm *comm = &labels->comms[c];
        if (lane->uses[c].payload && !lane->uses[c].sizes && !lane->uses[c].moe && !others &&
            !*comm->note)
            snprintf(
                comm->note, sizeof comm->note,
                "all sizes are equal and nothing tells them before, so capacity-padded dispatch "
                "and "
                "sequence parallelism look alike; if these are experts' exchanges, give --layers");
        if (!lane->uses[c].moe && !lane->uses[c].collective)
            continue;
        const char *why = lane->no_layers  ? lane->no_layers
                          : lane->no_steps ? lane->no_steps
                          : lane->note     ? lane->note
                                           : lane->no_stage;
        if (why && !*comm->note)
            snprintf(comm->note, sizeof comm->note, "%s", why);
    }
}

/* Events that the user calls the end of a step. */
static int find_marks(struct skew_labelling *lane, const struct skew_label_marker *marker)
{
    if (!marker->ops && !marker->site_count)
        return 0;
    lane->marks = calloc((size_t)lane->event_count + 1, 1);
    if (!lane->marks)
        return -ENOMEM;
    for (uint32_t i = 0; i < lane->event_count; i++) {
        const struct skew_rows_event *e = &lane->events[i];
        const struct skew_rows_exchange *x = skew_lane_exchange(lane, i);
        const struct skew_rows_operation *o = x ? NULL : &lane->rows->operations[e->first];
        const struct skew_rows_member *m = &lane->rows->members[x ? x->member : o->member];
        int64_t bytes = x ? (int64_t)x->send_bytes : o->bytes;
        lane->marks[i] = skew_label_marks(marker, x ? x->op : o->op, bytes, m->member->comm->key,
                                          x ? x->site : o->site);
    }
    return 0;
}

static int label_lane(struct skew_labels *labels, struct skew_rows *rows, size_t index,
                      const struct skew_label_options *options,
                      const struct skew_label_marker *marker)
{
    struct skew_labelling lane = {.rows = rows,
                                  .options = options,
                                  .events = rows->events + rows->lanes[index].first,
                                  .event_count = (uint32_t)rows->lanes[index].count,
                                  .process = rows->lanes[index].process,
                                  .exchange_labels = labels->exchanges,
                                  .operation_labels = labels->operations};
    int result = find_marks(&lane, marker);

    if (result == 0)
        result = skew_lane_scan(&lane);
    if (result == 0)
        result = skew_lane_blocks(&lane);
    if (result == 0)
        result = skew_lane_links(&lane);
    if (result == 0)
        result = skew_lane_passes(&lane);
    if (result == 0)
        result = skew_lane_steps(&lane);
    if (result == 0)
        result = skew_lane_stages(&lane);
    if (result == 0) {
        skew_lane_write(&lane);
        note(labels, &lane);
    }
    free_lane(&lane);
    return result;
}

/* ---- all ---------------------------------------------------------------------------------------
 */

static void blank(struct skew_label *label, int64_t id)
{
    *label = (struct skew_label){
        .id = id, .step = -1, .layer = -1, .microbatch = -1, .pass = -1, .expert = -1};
}

static int make_blanks(struct skew_labels *labels, const struct skew_rows *rows)
{
    labels->exchanges = calloc(rows->exchange_count + 1, sizeof *labels->exchanges);
    labels->operations = calloc(rows->operation_count + 1, sizeof *labels->operations);
    labels->comms = calloc(rows->comm_count + 1, sizeof *labels->comms);
    if (!labels->exchanges || !labels->operations || !labels->comms)
        return -ENOMEM;
    labels->exchange_count = rows->exchange_count;
    labels->operation_count = rows->operation_count;
    labels->comm_count = rows->comm_count;
    for (size_t i = 0; i < rows->exchange_count; i++)
        blank(&labels->exchanges[i], rows->exchanges[i].id);
    for (size_t i = 0; i < rows->operation_count; i++)
        blank(&labels->operations[i], rows->operations[i].id);
    for (size_t i = 0; i < rows->comm_count; i++)
        labels->comms[i].comm = rows->comms[i].comm;
    return 0;
}

static void summarise(struct skew_labels *labels, const struct skew_rows *rows)
{
    for (size_t i = 0; i < rows->exchange_count; i++)
        skew_label_comm_add(&labels->comms[rows->members[rows->exchanges[i].member].comm],
                            &labels->exchanges[i], false);
    for (size_t i = 0; i < rows->operation_count; i++)
        skew_label_comm_add(&labels->comms[rows->members[rows->operations[i].member].comm],
                            &labels->operations[i], true);
    for (size_t i = 0; i < rows->comm_count; i++)
        skew_label_comm_finish(&labels->comms[i]);
}

/* The other markers name NVTX ranges or nothing. */
static int check_markers(const struct skew_rows *rows, const struct skew_label_options *o,
                         struct skew_error *error)
{
    const struct {
        const char *name, *text;
        enum skew_mark_kind kind;
        bool numbered;
    } markers[] = {{"layer-marker", o->layer_marker, SKEW_MARK_LAYER, true},
                   {"prefill-marker", o->prefill_marker, SKEW_MARK_PREFILL, false},
                   {"decode-marker", o->decode_marker, SKEW_MARK_DECODE, false}};

    for (size_t i = 0; i < sizeof markers / sizeof *markers; i++) {
        if (!markers[i].text || skew_rows_any_marked(rows, markers[i].kind, markers[i].numbered))
            continue;
        skew_error_set(error, "%s: --%s: no NVTX range of this trace begins with '%s'%s",
                       skew_trace_path(rows->trace), markers[i].name, markers[i].text,
                       markers[i].numbered ? " and has a number behind it" : "");
        return -ENOENT;
    }
    return 0;
}

int skew_label_trace(struct skew_trace *trace, const struct skew_label_options *options,
                     struct skew_labels **out, struct skew_error *error)
{
    static const struct skew_label_options none;
    struct skew_label_marker marker = {0};
    struct skew_labels *labels = NULL;
    struct skew_rows rows;
    int result = skew_rows_load(&rows, trace, error);

    *out = NULL;
    if (result < 0)
        return result;
    options = options ? options : &none;
    result = skew_rows_load_ranges(&rows, options, error);
    if (result == 0)
        result = check_markers(&rows, options, error);
    if (result == 0)
        result = skew_label_marker_find(&marker, trace, options->step_marker,
                                        skew_rows_any_marked(&rows, SKEW_MARK_STEP, false), error);
    if (result < 0)
        goto out;
    rows.step_ranges = marker.ranges;
    labels = calloc(1, sizeof *labels);
    if (!labels || make_blanks(labels, &rows) < 0)
        result = -ENOMEM;
    for (size_t i = 0; i < rows.lane_count && result == 0; i++)
        result = label_lane(labels, &rows, i, options, &marker);
    if (result == 0)
        summarise(labels, &rows);
    else
        skew_error_set(error, "%s: out of memory", skew_trace_path(trace));
out:
    skew_label_marker_free(&marker);
    skew_rows_free(&rows);
    if (result < 0)
        skew_labels_free(&labels);
    *out = labels;
    return result;
}
