/* SPDX-License-Identifier: Apache-2.0 */
/*
 * skewscope label: what each exchange is for, communicator by communicator, and what could not be
 * told.
 */
#include "command.h"
#include "coverage.h"
#include "labelling.h"
#include "term.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

struct arguments {
    const char *path;
    struct skew_label_options options;
    bool json, save;
};

static const struct argp_option option_table[] = {
    {"json", 'j', NULL, 0, "as JSON, for machines (docs/labels.md)", 2},
    {"save", 's', NULL, 0,
     "write the labels into the trace (tables exchange_label and operation_label), where SQL and "
     "other "
     "commands find them",
     2},
    {0}};

static error_t parse(int key, char *text, struct argp_state *state)
{
    struct arguments *a = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &a->options;
        return 0;
    case 'j':
        a->json = true;
        return 0;
    case 's':
        a->save = true;
        return 0;
    case ARGP_KEY_ARG:
        if (a->path)
            argp_error(state, "one trace at a time: '%s' and '%s' are two", a->path, text);
        a->path = text;
        return 0;
    case ARGP_KEY_END:
        if (!a->path)
            argp_error(state, "which trace? Give its file or directory");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

const struct argp *skew_argp_label(void)
{
    static const struct argp_child children[] = {{&skew_label_options_argp, 0, NULL, 1}, {0}};
    static const struct argp argp = {option_table,
                                     parse,
                                     "TRACE|DIR",
                                     "Finds what each exchange is for: dispatch, combine, their "
                                     "backward twins, recomputation, counts, "
                                     "pipeline, sequence parallelism; of which step, layer and "
                                     "micro-batch; how large a token is. What "
                                     "could not be told is said."
                                     "\vLabels are found anew, whatever is saved. Exit status: 0, "
                                     "or 1 when the trace cannot be read or "
                                     "written, or 2 for a wrong command line.",
                                     children,
                                     NULL,
                                     NULL};
    return &argp;
}

/* ---- JSON --------------------------------------------------------------------------------------
 */

static json_t *count_or_null(int64_t value)
{
    return value ? json_integer(value) : json_null();
}

static json_t *roles_json(const uint64_t *roles)
{
    json_t *all = json_object();

    for (int r = 0; r < SKEW_LABEL_ROLES; r++)
        if (roles[r])
            json_object_set_new(all, r ? skew_label_role_name(r) : "unknown",
                                json_integer((json_int_t)roles[r]));
    return all;
}

static json_t *stages_json(const uint64_t *stages)
{
    json_t *all = json_object();

    for (int s = 0; s <= SKEW_STAGE_DECODE; s++)
        if (stages[s])
            json_object_set_new(all, s ? skew_label_stage_name(s) : "unknown",
                                json_integer((json_int_t)stages[s]));
    return all;
}

static json_t *comm_json(const struct skew_label_comm *c)
{
    return json_pack(
        "{s:I, s:s, s:I, s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:I, s:I, s:I, s:b, s:f, "
        "s:o}",
        "comm_id", (json_int_t)c->comm->id, "key", c->comm->key, "ranks",
        (json_int_t)c->comm->ranks, "exchanges", (json_int_t)c->exchanges, "operations",
        (json_int_t)c->operations, "roles", roles_json(c->roles), "operation_roles",
        roles_json(c->operation_roles), "stages", stages_json(c->stages), "layers",
        count_or_null(c->layers), "steps", count_or_null(c->steps), "microbatches",
        count_or_null(c->microbatches), "token_bytes", count_or_null((int64_t)c->token_bytes),
        "without_step", (json_int_t)c->without_step, "without_layer", (json_int_t)c->without_layer,
        "without_microbatch", (json_int_t)c->without_microbatch, "skew_not_observable", c->uniform,
        "confidence", (double)c->confidence, "note", *c->note ? json_string(c->note) : json_null());
}

static int print_json(const struct skew_reading *reading, const struct skew_labelling *l,
                      const struct skew_coverage *coverage)
{
    json_t *traces = json_array();

    for (size_t i = 0; i < l->count; i++) {
        size_t count;
        const struct skew_label_comm *comms = skew_labels_comms(l->labels[i], &count);
        json_t *all = json_array();
        for (size_t c = 0; c < count; c++)
            json_array_append_new(all, comm_json(&comms[c]));
        json_array_append_new(traces,
                              json_pack("{s:s, s:o}", "trace", skew_trace_path(reading->traces[i]),
                                        "communicators", all));
    }
    json_t *root = skew_json_with_coverage(json_pack("{s:o}", "traces", traces), coverage);
    int result = root ? json_dumpf(root, stdout, JSON_INDENT(2)) : -1;
    putchar('\n');
    json_decref(root);
    return result < 0 ? -ENOMEM : 0;
}

/* ---- text --------------------------------------------------------------------------------------
 */

static void print_roles(const char *title, const uint64_t *roles)
{
    char text[SKEW_COUNT_TEXT];
    bool any = false;

    for (int r = 1; r <= SKEW_LABEL_ROLES; r++) {
        int role = r % SKEW_LABEL_ROLES; /* what could not be told comes last */
        if (!roles[role])
            continue;
        printf("%s%s %s", any ? ", " : title, role ? skew_label_role_name(role) : "not told",
               skew_count_text(text, roles[role]));
        any = true;
    }
    if (any)
        putchar('\n');
}

static void print_number(const char *name, int64_t value, const char *unit)
{
    if (value)
        printf("%s %" PRId64 "%s", name, value, unit);
    else
        printf("%s not told", name);
}

static bool of_layers(const struct skew_label_comm *c)
{
    uint64_t sum = 0;

    for (int r = SKEW_LABEL_DISPATCH; r <= SKEW_LABEL_COUNT; r++)
        sum += c->roles[r] + c->operation_roles[r];
    return sum;
}

static void print_comm(const struct skew_label_comm *c)
{
    char text[SKEW_COUNT_TEXT];

    printf("communicator %" PRId64 " (key %s), %u ranks, %u of them here\n", c->comm->id,
           c->comm->key, c->comm->ranks, c->comm->members);
    print_roles("  exchanges    ", c->roles);
    print_roles("  operations   ", c->operation_roles);
    if (of_layers(c)) {
        print_number("  layers", c->layers, "");
        print_number(", steps", c->steps, "");
        print_number(", micro-batches", c->microbatches, "");
        print_number(", token", (int64_t)c->token_bytes, " bytes");
        printf(", confidence %.2f\n", (double)c->confidence);
    }
    for (int s = SKEW_STAGE_PREFILL; s <= SKEW_STAGE_DECODE; s++)
        if (c->stages[s])
            printf("  %s %s\n", skew_label_stage_name(s), skew_count_text(text, c->stages[s]));
    if (of_layers(c) && c->without_layer)
        printf("  without layer %s", skew_count_text(text, c->without_layer));
    if (of_layers(c) && c->without_step)
        printf("%swithout step %s", c->without_layer ? ", " : "  ",
               skew_count_text(text, c->without_step));
    if (of_layers(c) && (c->without_layer || c->without_step))
        putchar('\n');
    if (c->uniform)
        puts("  capacity-padded: the skew is not observable from sizes");
    if (*c->note)
        printf("  note: %s\n", c->note);
}

static void print_text(const struct skew_reading *reading, const struct skew_labelling *l)
{
    for (size_t i = 0; i < l->count; i++) {
        size_t count;
        const struct skew_label_comm *comms = skew_labels_comms(l->labels[i], &count);
        if (l->count > 1)
            printf("%s%s:\n", i ? "\n" : "", skew_trace_path(reading->traces[i]));
        for (size_t c = 0; c < count; c++)
            if (comms[c].exchanges || comms[c].operations)
                print_comm(&comms[c]);
    }
}

/* ---- the command -------------------------------------------------------------------------------
 */

static int label_all(struct skew_labelling *l, const struct skew_reading *reading,
                     const struct skew_label_options *options)
{
    struct skew_error error = {"out of memory"};
    int result = 0;

    *l = (struct skew_labelling){.labels = calloc(reading->count + 1, sizeof *l->labels)};
    if (!l->labels)
        result = -ENOMEM;
    for (; result == 0 && l->count < reading->count; l->count += result == 0)
        result = skew_label_trace(reading->traces[l->count], options, &l->labels[l->count], &error);
    if (result < 0)
        skew_tell("%s", error.text);
    return result;
}

int skew_cmd_label(int argc, char **argv)
{
    struct arguments a = {0};
    struct skew_reading reading;
    struct skew_labelling labelling;
    struct skew_coverage coverage = {0};

    argp_parse(skew_argp_label(), argc, argv, 0, NULL, &a);
    if (skew_reading_open(&reading, a.path) < 0)
        return SKEW_EXIT_FAILURE;
    int result = label_all(&labelling, &reading, &a.options);
    if (result == 0)
        result = skew_coverage_read(&coverage, &reading);
    if (result == 0 && a.json) {
        result = print_json(&reading, &labelling, &coverage);
    } else if (result == 0) {
        print_text(&reading, &labelling);
        skew_coverage_print(&coverage);
    }
    for (size_t i = 0; result == 0 && a.save && i < labelling.count; i++)
        result = skew_labels_save(skew_trace_path(reading.traces[i]), labelling.labels[i]);
    skew_labelling_close(&labelling, &reading);
    skew_reading_close(&reading);
    return result < 0 ? SKEW_EXIT_FAILURE : SKEW_EXIT_OK;
}
