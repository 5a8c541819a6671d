/* SPDX-License-Identifier: Apache-2.0 */
/*
 * skewscope dispatcher: which dispatcher a run selected, which one was at work, whether it could
 * be, and what others advise; or two runs beside each other.
 */
#include "command.h"
#include "coverage.h"
#include "dispatcher/dispatcher.h"
#include "reading.h"
#include "rows.h"
#include "term.h"

#include <stdlib.h>
#include <string.h>

struct arguments {
    const char *path[2], *log[2]; /* what each job printed; NULL: no file of it was given */
    bool json;
};

/* clang-format off */
static const struct argp_option options[] = {
    {"log", 'l', "FILE", 0, "a file that the job's output went to: step time, TFLOP/s, memory, loss and throughput are read from the lines "
     "of Megatron, torchtitan and vLLM in it; once a trace, in their order", 0},
    {"json", 'j', NULL, 0, "as JSON, for machines (docs/dispatcher.md)", 0},
    {0}};
/* clang-format on */

static error_t parse(int key, char *text, struct argp_state *state)
{
    struct arguments *a = state->input;

    switch (key) {
    case 'j':
        a->json = true;
        return 0;
    case 'l':
        if (a->log[1])
            argp_error(state, "--log once a trace: '%s' is one too many", text);
        a->log[a->log[0] != NULL] = text;
        return 0;
    case ARGP_KEY_ARG:
        if (a->path[1])
            argp_error(state, "one trace, or two to compare: '%s' is one too many", text);
        a->path[a->path[0] != NULL] = text;
        return 0;
    case ARGP_KEY_END:
        if (!a->path[0])
            argp_error(state, "which trace? Give its file or directory");
        if (a->log[1] && !a->path[1])
            argp_error(state, "two --log, but one trace");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

const struct argp *skew_argp_dispatcher(void)
{
    static const struct argp argp = {
        options,
        parse,
        "TRACE|DIR [OTHER]",
        "Says which MoE dispatcher (all-to-all or all-gather by NCCL, "
        "DeepEP, HybridEP, NCCL EP and others) a "
        "run selected, which one was seen at work, what is installed, "
        "and what published advice says for this "
        "hardware and EP degree. With two traces: how the runs "
        "differ, and what each dispatcher took on the same "
        "work, or why they cannot be compared."
        "\vWhat was measured here, what was measured elsewhere and "
        "what was not measured are kept apart. Labels of "
        "`skewscope run` say what a trace cannot know: hardware=, "
        "model=, precision=, stage= (bring-up, tuning), step_time=, tflops=, memory=, "
        "loss=; --log reads what the job printed. Exit status: 0; 1 when the selected dispatcher "
        "did "
        "not work, the runs cannot be compared, or a trace "
        "cannot be read; 2 for a wrong command line.",
        NULL,
        NULL,
        NULL};
    return &argp;
}

/* ---- text ---------------------------------------------------------------------------------------
 */

/* What a trace says is untrusted: no control characters reach the terminal. */
static void put(const char *before, const char *text, const char *after)
{
    char *clean = strdup(text ? text : "");
    if (clean)
        skew_term_clean(clean);
    printf("%s%s%s", before, clean ? clean : "", after);
    free(clean);
}

static void print_states(const json_t *facts)
{
    const json_t *state, *text;
    size_t i, k;
    json_array_foreach(json_object_get(facts, "backends"), i, state)
    {
        bool working = json_is_true(json_object_get(state, "working"));
        bool installed = json_is_true(json_object_get(state, "installed")),
             loaded = json_is_true(json_object_get(state, "loaded"));
        if (!working && !loaded && json_array_size(json_object_get(state, "packages")) == 0)
            continue;
        printf("  %-26s %s", skew_row_text(state, "backend"),
               working     ? "at work"
               : loaded    ? "loaded, not seen at work"
               : installed ? "installed, not loaded"
                           : "");
        json_array_foreach(json_object_get(state, "evidence"), k, text)
            put(k ? ", " : ": ", json_string_value(text), "");
        json_array_foreach(json_object_get(state, "packages"), k, text)
        {
            put(k ? ", " : "; installed: ", skew_row_text(text, "name"), " ");
            put("",
                skew_row_null(text, "version") ? "(no version)" : skew_row_text(text, "version"),
                "");
        }
        putchar('\n');
    }
}

static void print_time(const json_t *facts)
{
    static const char *const ways[][2] = {{"to_experts", "to the experts"},
                                          {"from_experts", "back from them"}};
    const json_t *nccl = json_object_get(facts, "nccl");
    double span = (double)json_integer_value(json_object_get(facts, "span_ns"));
    for (size_t i = 0; i < 2; i++) {
        const json_t *way = json_object_get(json_object_get(nccl, "exchanges"), ways[i][0]);
        way = way ? way : json_object_get(json_object_get(nccl, "operations"), ways[i][0]);
        if (!way)
            continue;
        char calls[SKEW_COUNT_TEXT], bytes[SKEW_BYTES_TEXT];
        printf("  %-26s %s calls, %s", ways[i][1],
               skew_count_text(calls, (uint64_t)json_integer_value(json_object_get(way, "calls"))),
               skew_bytes_text(bytes, (uint64_t)json_integer_value(json_object_get(way, "bytes"))));
        json_int_t timed = json_integer_value(json_object_get(way, "timed"));
        double ns = (double)json_integer_value(json_object_get(way, "ns"));
        if (timed)
            printf(", %.3f ms of device time in %lld timed calls", ns / 1e6, (long long)timed);
        else
            printf(", no device time was measured");
        if (timed && span > 0)
            printf(" (%.1f %% of the time between the first and the last call)", 100 * ns / span);
        putchar('\n');
    }
    const json_t *share = json_object_get(facts, "step_share");
    if (share)
        printf("  %-26s %.1f %% (median of %lld steps of processes; %.1f to %.1f %%; what other "
               "streams hide is in it)\n",
               "share of step time", 100 * json_real_value(json_object_get(share, "median")),
               (long long)json_integer_value(json_object_get(share, "steps")),
               100 * json_real_value(json_object_get(share, "least")),
               100 * json_real_value(json_object_get(share, "largest")));
    json_int_t calls = json_integer_value(json_object_get(facts, "exchanges")) +
                       json_integer_value(json_object_get(facts, "operations"));
    if (calls)
        printf("  %-26s %.1f us of host time an exchange or operation, NCCL's own calls included\n",
               "enqueueing",
               (double)json_integer_value(json_object_get(facts, "enqueue_ns")) / 1e3 /
                   (double)calls);
    json_int_t groups = json_integer_value(json_object_get(facts, "own_groups"));
    if (groups)
        printf("  %-26s %.2f us a group of calls, of %lld measured\n", "skewscope's own",
               (double)json_integer_value(json_object_get(facts, "own_ns")) / 1e3 / (double)groups,
               (long long)groups);
}

/* What the run says of itself: by label, and printed into --log. */
static void print_reported(const json_t *facts)
{
    static const char *const keys[] = {"step_time", "tflops", "memory", "loss", "throughput", NULL};
    const json_t *printed = json_object_get(facts, "printed");
    const json_t *values = json_object_get(printed, "values");
    for (const char *const *key = keys; *key; key++) {
        const json_t *one = json_object_get(values, *key);
        if (skew_dispatcher_label(facts, *key)) {
            printf("  %-26s ", *key);
            put("", skew_dispatcher_label(facts, *key), "   (the run's own word, by label)\n");
        }
        if (!one)
            continue;
        printf("  %-26s %.6g %s   (printed by the job, %s: %s of %lld lines)\n", *key,
               json_number_value(json_object_get(one, "value")), skew_row_text(one, "unit"),
               skew_row_text(one, "framework"),
               strcmp(skew_row_text(one, "take"), "mean") == 0 ? "mean without the first"
                                                               : skew_row_text(one, "take"),
               (long long)json_integer_value(json_object_get(one, "lines")));
    }
    if (printed && json_object_size(values) == 0)
        printf("  what the job printed: none of %lld lines is one that is known (Megatron, "
               "torchtitan, "
               "vLLM)\n",
               (long long)json_integer_value(json_object_get(printed, "lines")));
}

static void print_selected(const json_t *facts)
{
    const json_t *one;
    size_t i;
    if (json_array_size(json_object_get(facts, "selected")) == 0)
        puts("selected: nothing that is known here (options of Megatron, torchtitan, vLLM, SGLang, "
             "TensorRT-LLM; "
             "--label dispatcher=)");
    json_array_foreach(json_object_get(facts, "selected"), i, one)
    {
        const char *backend = skew_row_text(one, "backend");
        put("selected: ", backend[0] == '?' ? backend + 1 : backend, "");
        put("   (", skew_row_text(one, "framework"), "");
        put(": ", skew_row_text(one, "option"), "");
        put(" ", skew_row_text(one, "value"), ")\n");
    }
}

static void print_run(const json_t *facts, const struct skew_coverage *coverage)
{
    const json_t *one;
    size_t i;
    put("", skew_row_text(facts, "trace"), "\n");
    print_selected(facts);
    put("verdict:  ", skew_row_text(json_object_get(facts, "gate"), "text"), "\n");
    printf("EP degree: ");
    json_int_t ep = json_integer_value(json_object_get(facts, "ep"));
    if (ep)
        printf("%lld (ranks of the communicator that moves tokens)", (long long)ep);
    else
        put("",
            skew_dispatcher_label(facts, "ep") ? skew_dispatcher_label(facts, "ep") : "not known",
            "");
    size_t hosts = json_array_size(json_object_get(facts, "hosts"));
    printf("; %zu node%s, %lld processes; hardware: ", hosts, hosts == 1 ? "" : "s",
           (long long)json_integer_value(json_object_get(facts, "processes")));
    put("",
        skew_dispatcher_label(facts, "hardware") ? skew_dispatcher_label(facts, "hardware")
                                                 : "not known (--label hardware=)",
        "\n");

    json_array_foreach(json_object_get(facts, "runs"), i, one)
    {
        if (!skew_row_null(one, "exit_signal"))
            printf("ended:    by signal %lld\n", (long long)skew_row_int(one, "exit_signal"));
        else if (!skew_row_null(one, "exit_status"))
            printf("ended:    with status %lld\n", (long long)skew_row_int(one, "exit_status"));
    }
    skew_coverage_print(coverage);
    puts("\nmeasured here");
    if (json_is_true(json_object_get(facts, "standin")))
        puts("  on the stand-in for NCCL and CUDA: no GPU, and times of a model");
    if (json_is_true(json_object_get(facts, "imported")))
        puts("  nothing: the trace is imported; no dispatcher ran here");
    else if (json_integer_value(json_object_get(facts, "comms")) == 0)
        puts("  nothing: no communicator was made");
    print_states(facts);
    print_time(facts);
    print_reported(facts);
    json_array_foreach(json_object_get(facts, "unknown_kernels"), i, one)
        put("  sounds like communication, not known: ", json_string_value(one), "\n");
    puts("\nmeasured elsewhere (advice of others, not a result of this run)");
    json_array_foreach(json_object_get(facts, "guidance"), i, one)
        put("  ", skew_row_text(one, "text"), "\n");
    if (json_array_size(json_object_get(facts, "guidance")))
        put("  source: ",
            skew_row_text(json_array_get(json_object_get(facts, "guidance"), 0), "source"), "\n");
    puts("\nnot measured\n  every other dispatcher on this work: run it, and give both traces to "
         "this command");
}

static void print_comparison(const json_t *c)
{
    const json_t *one, *measured = json_object_get(c, "measured");
    size_t i;
    puts("\ndifferences of the runs (first, second)");
    json_array_foreach(json_object_get(c, "differs"), i, one)
    {
        put("  ", skew_row_text(one, "what"), ": ");
        put("", skew_row_null(one, "a") ? "–" : skew_row_text(one, "a"), ", ");
        put("", skew_row_null(one, "b") ? "–" : skew_row_text(one, "b"), "\n");
    }
    if (json_array_size(json_object_get(c, "differs")) == 0)
        puts("  none that was recorded");
    json_array_foreach(json_object_get(c, "reported"), i, one) printf(
        "%s  %-12s %.6g, %.6g  x %.3f%s\n",
        i ? "" : "\nwhat the runs say of themselves (first, second)\n", skew_row_text(one, "what"),
        json_real_value(json_object_get(one, "a")), json_real_value(json_object_get(one, "b")),
        json_real_value(json_object_get(one, "b_over_a")),
        json_is_true(json_object_get(one, "worse")) ? "  worse" : "");
    if (json_is_true(json_object_get(c, "regressed")))
        puts("the second run is worse by more than 5 %; what differs is listed above: any of it "
             "may be "
             "the cause, and one run a side is no sample");
    putchar('\n');
    json_array_foreach(json_object_get(c, "why_not"), i, one)
        put(i ? "               " : "not comparable: ", json_string_value(one), "\n");
    if (json_is_true(json_object_get(c, "comparable")) && !json_object_size(measured))
        puts("the same work, but device time was not measured for all of it: no comparison of "
             "times");
    if (json_object_size(measured))
        printf("device time of dispatch and combine, all ranks: %.3f and %.3f ms, second over "
               "first %.3f (one run each: "
               "no interval, within-run variation only)\n",
               json_real_value(json_object_get(measured, "a_ms")),
               json_real_value(json_object_get(measured, "b_ms")),
               json_real_value(json_object_get(measured, "b_over_a")));
}

/* ---- the command --------------------------------------------------------------------------------
 */

static json_t *judged(const char *path, const char *log, const json_t *table,
                      struct skew_coverage *coverage)
{
    struct skew_reading reading;
    json_t *printed = log ? skew_dispatcher_log(log, table) : NULL;
    if ((log && !printed) || skew_reading_open(&reading, path) < 0) {
        json_decref(printed);
        return NULL;
    }
    json_t *facts =
        skew_coverage_read(coverage, &reading) == 0 ? skew_dispatcher_facts(&reading) : NULL;
    skew_reading_close(&reading);
    if (facts && printed)
        json_object_set(facts, "printed", printed);
    json_decref(printed);
    if (facts && skew_dispatcher_judge(facts, table) < 0) {
        skew_tell("out of memory");
        json_decref(facts);
        facts = NULL;
    }
    return skew_json_with_coverage(facts, coverage);
}

static int print_json(json_t *a, json_t *b, json_t *comparison)
{
    json_t *root =
        b ? json_pack("{s:[O,O], s:O}", "runs", a, b, "comparison", comparison) : json_incref(a);
    int error = json_dumpf(root, stdout, JSON_INDENT(2) | JSON_ENSURE_ASCII);
    putchar('\n');
    json_decref(root);
    return error;
}

static bool worked(const json_t *facts)
{
    return strcmp(skew_row_text(json_object_get(facts, "gate"), "verdict"), "worked") == 0;
}

int skew_cmd_dispatcher(int argc, char **argv)
{
    struct arguments a = {0};
    struct skew_coverage coverage[2] = {{0}, {0}};
    argp_parse(skew_argp_dispatcher(), argc, argv, 0, NULL, &a);
    json_t *table = skew_dispatcher_table();
    json_t *first = table ? judged(a.path[0], a.log[0], table, &coverage[0]) : NULL,
           *second = first && a.path[1] ? judged(a.path[1], a.log[1], table, &coverage[1]) : NULL;
    json_t *comparison = second ? skew_dispatcher_compare(first, second) : NULL;
    int status = SKEW_EXIT_FAILURE;
    if (first && (!a.path[1] || comparison)) {
        status =
            comparison ? !json_is_true(json_object_get(comparison, "comparable")) : !worked(first);
        if (a.json) {
            status |= print_json(first, second, comparison) != 0;
        } else {
            print_run(first, &coverage[0]);
            if (second) {
                putchar('\n');
                print_run(second, &coverage[1]);
                print_comparison(comparison);
            }
        }
    }
    json_decref(comparison);
    json_decref(second);
    json_decref(first);
    json_decref(table);
    return status ? SKEW_EXIT_FAILURE : SKEW_EXIT_OK;
}
