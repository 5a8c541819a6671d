/* SPDX-License-Identifier: Apache-2.0 */
/*
 * skewscope import: routing or matrices that others recorded become a trace. The command line is
 * here; a reader for each format, the checks and the writer are in import/.
 */
#include "command.h"
#include "import/import.h"
#include "option_values.h"
#include "term.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* X(name on the command line, reader, what its files are) */
#define FORMATS(X)                                                                                 \
    X("megatron", skew_import_megatron, "--moe-routing-trace-path, one .jsonl a rank")             \
    X("vllm", skew_import_vllm, "routed experts [tokens, layers, k], one .npy a request")          \
    X("sglang", skew_import_sglang, "logical_count [steps, layers, experts], .npy or .json")       \
    X("trtllm", skew_import_trtllm, "the directory of EXPERT_STATISTIC_PATH")                      \
    X("nccl-tests", skew_import_nccl_tests, "a square matrix of bytes a file")                     \
    X("matrices", skew_import_matrices, "a series of matrices of tokens, .npy or text")            \
    X("topk", skew_import_topk, "expert ids of tokens, .npy with --axes")                          \
    X("counts", skew_import_counts_csv, "CSV with columns layer, expert, count, ...")

static const struct format {
    const char *name;
    int (*read)(struct skew_import *import, const char *file);
} formats[] = {
#define X(name, read, what) {name, read},
    FORMATS(X)
#undef X
};
enum { FORMAT_COUNT = sizeof formats / sizeof *formats };

struct arguments {
    const struct format *format;
    const char *output, *into;
    char **files;
    size_t file_count;
    const char *labels[64];
    size_t label_count;
    struct skew_import_options options;
    char **argv;
    int argc;
};

enum {
    KEY_LABEL = 0x100,
    KEY_INTO,
    KEY_STAGE,
    KEY_RANKS,
    KEY_ASSIGN,
    KEY_AXES,
    KEY_EXPERTS,
    KEY_TOPK,
    KEY_WHERE,
    KEY_BY,
    KEY_STEP_TOKENS,
    KEY_PROMPT,
    KEY_SKIP_STEPS,
    KEY_SKIP_TOKENS,
    KEY_LAYER,
    KEY_TOKEN_BYTES,
    KEY_IDS
};

/* clang-format off */
static const struct argp_option options[] = {
    {"output", 'o', "OUT", 0, "the trace to make: a .db file, or a directory for trace.db", 1},
    {"label", KEY_LABEL, "KEY=VALUE", 0, "what the data is, as skewscope run --label", 1},
    {"into", KEY_INTO, "TRACE", 0,
     "make OUT a copy of this trace, with the counts joined to it by rank, layer and step", 1},
    {NULL, 0, NULL, 0, "What the files hold:", 2},
    {"stage", KEY_STAGE, "STAGE", 0, "prefill, decode or train", 2},
    {"experts", KEY_EXPERTS, "N", 0, "experts of a layer (default: the largest id + 1)", 2},
    {"topk", KEY_TOPK, "K", 0, "experts of a token, where the file does not say", 2},
    {"axes", KEY_AXES, "A,B,...", 0,
     "dimensions of an .npy, outermost first: request, step, token, layer, rank, k; for matrices "
     "step, layer, src, dst", 2},
    {"layer-base", KEY_LAYER, "N", 0, "number of the first layer, where the file has none (0)", 2},
    {"where", KEY_WHERE, "COLUMN=VALUE", 0, "of a CSV only these lines", 2},
    {"prompt-tokens", KEY_PROMPT, "N", 0, "a request's first N tokens are prefill, the rest decode", 2},
    {"token-bytes", KEY_TOKEN_BYTES, "N", 0, "size of a token, for matrices of tokens (default 1)", 2},
    {NULL, 0, NULL, 0, "How it becomes rows:", 3},
    {"ranks", KEY_RANKS, "R", 0, "ranks that the tokens come from, where the file has none", 3},
    {"assign", KEY_ASSIGN, "RULE", 0,
     "which tokens (or requests) come from which rank: contiguous (default) or round-robin", 3},
    {"by", KEY_BY, "WHAT", 0, "keep apart: step, request, both (default), or none", 3},
    {"step-tokens", KEY_STEP_TOKENS, "N", 0,
     "tokens of a request that make a step (default 16 with requests, else all together)", 3},
    {"skip-steps", KEY_SKIP_STEPS, "N", 0, "leave out steps before N, as a warm-up", 3},
    {"skip-tokens", KEY_SKIP_TOKENS, "N", 0, "leave out the first N tokens", 3},
    {"keep-ids", KEY_IDS, NULL, 0, "keep each token's experts too, for bytes without duplicates", 3},
    {0}};
/* clang-format on */

static void parse_where(struct argp_state *state, struct skew_import_options *o, char *text)
{
    char *equals = strchr(text, '=');

    if (!equals || equals == text)
        argp_error(state, "--where: '%s' is not COLUMN=VALUE", text);
    if (o->wheres == sizeof o->where / sizeof *o->where)
        argp_error(state, "--where: not more than %zu times", o->wheres);
    *equals = '\0';
    o->where[o->wheres++] = (struct skew_import_where){text, equals + 1};
}

static void parse_by(struct argp_state *state, struct skew_import_options *o, const char *text)
{
    static const char *const names[] = {"none", "step", "request", "both", NULL};
    int by = skew_option_choice(state, "by", text, names);

    o->keep_steps = by & 1;
    o->keep_requests = by & 2;
}

static void parse_format(struct argp_state *state, struct arguments *a, const char *text)
{
    const char *names[FORMAT_COUNT + 1] = {NULL};

    for (size_t i = 0; i < FORMAT_COUNT; i++)
        names[i] = formats[i].name;
    for (size_t i = 0; i < FORMAT_COUNT; i++)
        if (strcmp(text, names[i]) == 0)
            a->format = &formats[i];
    if (!a->format) {
        const char *nearest = skew_nearest(text, names);
        argp_error(state, "there is no format '%s'%s%s%s", text, nearest ? "; did you mean '" : "",
                   nearest ? nearest : "", nearest ? "'?" : "; see --help");
    }
}

static void check(struct argp_state *state, struct arguments *a)
{
    struct skew_import_options *o = &a->options;

    if (!a->format)
        argp_error(state, "which format? Give it before the files");
    if (a->file_count == 0)
        argp_error(state, "which files?");
    if (!a->output)
        argp_error(state, "where to? Give -o OUT");
    if (o->experts && o->ranks && o->experts % o->ranks != 0)
        argp_error(state, "--ranks %u does not divide --experts %u", o->ranks, o->experts);
}

static bool parse_number(int key, const char *text, struct argp_state *state,
                         struct skew_import_options *o)
{
    switch (key) {
    case KEY_EXPERTS:
        o->experts =
            (uint32_t)skew_option_integer(state, "experts", text, 1, SKEW_IMPORT_EXPERTS_MAX);
        return true;
    case KEY_TOPK:
        o->topk = (uint32_t)skew_option_integer(state, "topk", text, 1, SKEW_IMPORT_TOPK_MAX);
        return true;
    case KEY_RANKS:
        o->ranks = (uint32_t)skew_option_integer(state, "ranks", text, 1, SKEW_IMPORT_RANKS_MAX);
        return true;
    case KEY_LAYER:
        o->layer_base = skew_option_integer(state, "layer-base", text, 0, 100000);
        return true;
    case KEY_PROMPT:
        o->prompt_tokens = skew_option_integer(state, "prompt-tokens", text, 0, INT32_MAX);
        return true;
    case KEY_TOKEN_BYTES:
        o->token_bytes = skew_option_integer(state, "token-bytes", text, 1, 1 << 22);
        return true;
    case KEY_STEP_TOKENS:
        o->step_tokens = skew_option_integer(state, "step-tokens", text, 1, INT32_MAX);
        return true;
    case KEY_SKIP_STEPS:
        o->skip_steps = skew_option_integer(state, "skip-steps", text, 0, INT64_MAX / 2);
        return true;
    case KEY_SKIP_TOKENS:
        o->skip_tokens = skew_option_integer(state, "skip-tokens", text, 0, INT64_MAX / 2);
        return true;
    default:
        return false;
    }
}

static error_t parse(int key, char *text, struct argp_state *state)
{
    static const char *const stages[] = {"prefill", "decode", "train", NULL};
    static const char *const rules[] = {"contiguous", "round-robin", NULL};
    struct arguments *a = state->input;
    struct skew_import_options *o = &a->options;

    if (parse_number(key, text, state, o))
        return 0;
    switch (key) {
    case 'o':
        a->output = text;
        return 0;
    case KEY_LABEL:
        if (!strchr(text, '=') || *text == '=')
            argp_error(state, "--label: '%s' is not KEY=VALUE", text);
        if (a->label_count == sizeof a->labels / sizeof *a->labels)
            argp_error(state, "--label: not more than 64 times");
        a->labels[a->label_count++] = text;
        return 0;
    case KEY_INTO:
        a->into = text;
        return 0;
    case KEY_STAGE:
        o->stage = stages[skew_option_choice(state, "stage", text, stages)];
        return 0;
    case KEY_ASSIGN:
        o->assign = (enum skew_import_assign)skew_option_choice(state, "assign", text, rules);
        return 0;
    case KEY_AXES:
        o->axes = text;
        return 0;
    case KEY_WHERE:
        parse_where(state, o, text);
        return 0;
    case KEY_BY:
        parse_by(state, o, text);
        return 0;
    case KEY_IDS:
        o->keep_ids = true;
        return 0;
    case ARGP_KEY_ARG:
        if (!a->format)
            parse_format(state, a, text);
        else
            a->files[a->file_count++] = text;
        return 0;
    case ARGP_KEY_END:
        check(state, a);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

const struct argp *skew_argp_import(void)
{
    static const struct argp argp = {
        options,
        parse,
        "FORMAT FILE... -o OUT",
        "Makes a trace of routing or matrices that others recorded, so that every analysis runs on "
        "it. FORMAT is one of:\n"
#define X(name, read, what) "\n  " name ": " what
        FORMATS(X)
#undef X
            "\vNothing is made up: no times, and no ranks unless --ranks asks for them. What looks "
            "wrong "
            "in the data (a warm-up, layers that are copies, loops) is told and stored, not "
            "removed. "
            "docs/import.md describes the formats.",
        NULL,
        NULL,
        NULL};
    return &argp;
}

/* ---- what was imported ------------------------------------------------------------------------
 */

static int check_experts(struct skew_import *import)
{
    const struct skew_import_options *o = &import->options;
    uint32_t experts = o->experts ? o->experts : import->rows.experts;

    if (import->matrix_count)
        return 0;
    if (import->rows.count == 0) {
        skew_tell("nothing is left to import: --skip-steps or --skip-tokens leave out all of it");
        return -EINVAL;
    }
    if (experts < import->rows.experts) {
        skew_tell("expert %u is in the files, where --experts says %u", import->rows.experts - 1,
                  experts);
        return -EINVAL;
    }
    if (o->ranks && import->rows.ranks > o->ranks) {
        skew_tell("rank %u is in the files, where --ranks says %u", import->rows.ranks - 1,
                  o->ranks);
        return -EINVAL;
    }
    uint32_t ranks = o->ranks ? o->ranks : import->rows.ranks;
    if (!o->experts && ranks && experts % ranks != 0) {
        skew_tell("the largest expert id is %u, and %u ranks do not divide %u experts: say how "
                  "many there are with --experts",
                  experts - 1, ranks, experts);
        return -EINVAL;
    }
    return 0;
}

/* What was decided for the user is in the trace too. */
static int note_rules(struct skew_import *import)
{
    const struct skew_import_options *o = &import->options;
    int result = 0;

    if (import->matrix_count)
        result = skew_import_note(import, "info", "import_no_times",
                                  "matrices have no times: start_ns only keeps their order");
    if (result == 0 && o->ranks && !import->matrix_count)
        result = skew_import_note(
            import, "info", "import_ranks",
            "tokens were given to %u ranks by rule where the file names none: %s", o->ranks,
            o->assign == SKEW_ASSIGN_ROUND_ROBIN
                ? "request (or token of a step) i comes from rank i mod R"
                : "requests (or the tokens of a step) in order, as many from each rank");
    if (result == 0 && !o->experts && !import->matrix_count)
        result = skew_import_note(import, "info", "import_experts",
                                  "number of experts taken from the largest id: %u",
                                  import->rows.experts);
    return result;
}

static void tell(const struct skew_import *import, const char *path)
{
    char rows[SKEW_COUNT_TEXT];

    for (size_t i = 0; i < import->note_count; i++)
        if (strcmp(import->notes[i].severity, "info") != 0)
            skew_tell("%s: %s", import->notes[i].severity, import->notes[i].text);
    if (import->matrix_count)
        skew_tell("imported %s matrices of %u ranks -> %s",
                  skew_count_text(rows, import->matrix_count), import->matrix_ranks, path);
    else
        skew_tell("imported %s rows of %u experts -> %s", skew_count_text(rows, import->rows.count),
                  import->options.experts ? import->options.experts : import->rows.experts, path);
}

/* OUT.db is a file; anything else a directory, made when it is not there. */
static int output_path(const char *output, char *path, size_t size)
{
    size_t length = strlen(output);

    if (length > 3 && strcmp(output + length - 3, ".db") == 0) {
        snprintf(path, size, "%s", output);
        return 0;
    }
    if (mkdir(output, 0700) < 0 && errno != EEXIST) {
        int result = -errno;
        skew_tell("%s: cannot be made: %s", output, strerror(errno));
        return result;
    }
    snprintf(path, size, "%s%strace.db", output, output[length - 1] == '/' ? "" : "/");
    return 0;
}

/* Requests of several files, in order, as many from each rank: how many there are must be known
 * before the first is taken. */
static int count_requests(struct arguments *a, struct skew_import *import)
{
    bool of_ids = a->format->read == skew_import_vllm || a->format->read == skew_import_topk;
    int result = 0;

    if (!of_ids || a->file_count < 2 || import->options.ranks == 0 ||
        import->options.assign != SKEW_ASSIGN_CONTIGUOUS)
        return 0;
    import->counting = true;
    for (size_t i = 0; i < a->file_count && result == 0; i++)
        result = a->format->read(import, a->files[i]);
    import->counting = false;
    return result;
}

static int run(struct arguments *a, struct skew_import *import)
{
    char path[4096];
    struct skew_import_output output = {.path = path,
                                        .labels = a->labels,
                                        .label_count = a->label_count,
                                        .argc = a->argc,
                                        .argv = a->argv};
    int result = count_requests(a, import);

    for (size_t i = 0; i < a->file_count && result == 0; i++)
        result = a->format->read(import, a->files[i]);
    if (result == 0)
        result = check_experts(import);
    if (result == 0)
        result = skew_import_check(import);
    if (result == 0)
        result = skew_import_fill(import);
    if (result == 0)
        result = note_rules(import);
    if (result == 0)
        result = output_path(a->output, path, sizeof path);
    if (result == 0)
        result = a->into ? skew_import_join(import, &output, a->into)
                         : skew_import_write(import, &output);
    if (result == 0)
        tell(import, path);
    return result;
}

int skew_cmd_import(int argc, char **argv)
{
    struct arguments a = {.options = {.keep_steps = true,
                                      .keep_requests = true,
                                      .prompt_tokens = -1,
                                      .step_tokens = -1,
                                      .token_bytes = 1},
                          .argc = argc,
                          .argv = calloc((size_t)argc + 1, sizeof *a.argv),
                          .files = calloc((size_t)argc, sizeof *a.files)};
    struct skew_import import = {0};
    int result = -ENOMEM;

    if (a.files && a.argv) {
        for (int i = 0; i < argc; i++)
            a.argv[i] = strdup(argv[i]); /* argp permutes, --where cuts */
        argp_parse(skew_argp_import(), argc, argv, 0, NULL, &a);
        import.format = a.format->name;
        import.options = a.options;
        import.rows.keep_ids = a.options.keep_ids;
        result = run(&a, &import);
        for (int i = 0; i < argc; i++)
            free(a.argv[i]);
    } else {
        skew_tell("out of memory");
    }
    skew_import_free(&import);
    free(a.argv);
    free(a.files);
    return result < 0 ? SKEW_EXIT_FAILURE : SKEW_EXIT_OK;
}
