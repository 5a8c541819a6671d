/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The command line: one table gives name, type, default, range and help of every option; parsing,
 * --help and the error messages all follow from it. Runs once in the launching process.
 */
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "options.h"
#include "pattern.h"

enum kind { HEAD, UINT, U64, REAL, TEXT, FLAG, CHOICE };

struct option_row {
    const char *name, *arg, *initial;
    enum kind kind;
    size_t offset;
    double min, max;
    const char *choices; /* separated by '|', for CHOICE */
    const char *help;
};

#define AT(field) offsetof(struct skew_options, field)
#define SECTION(title)                                                                             \
    {                                                                                              \
        .kind = HEAD, .help = title                                                                \
    }
#define NUMBER(name, field, arg, initial, min, max, help)                                          \
    {                                                                                              \
        name, arg, initial, UINT, AT(field), min, max, NULL, help                                  \
    }
#define TEXTUAL(name, field, arg, initial, help)                                                   \
    {                                                                                              \
        name, arg, initial, TEXT, AT(field), 0, 0, NULL, help                                      \
    }
#define SWITCH(name, field, help)                                                                  \
    {                                                                                              \
        name, NULL, NULL, FLAG, AT(field), 0, 0, NULL, help                                        \
    }
#define CHOOSE(name, field, choices, help)                                                         \
    {                                                                                              \
        name, choices, NULL, CHOICE, AT(field), 0, 0, choices, help                                \
    }

static const struct option_row table[] = {
    SECTION("Job"),
    NUMBER("ranks", ranks, "R", "0", 1, 4096,
           "ranks to start; without it RANK and WORLD_SIZE of a launcher count, or else 8"),
    TEXTUAL("pattern", pattern, "NAME", "megatron", "whose calls to make (see the list below)"),
    NUMBER("several-ep-groups", ep_groups, "N", "1", 1, 4096,
           "N EP groups of R/N ranks side by side, made by ncclCommSplit"),
    SWITCH("threads", threads, "ranks are threads of one process, not processes"),
    SWITCH("share-gpu", share_gpu, "several ranks may share a GPU (an NCCL_HOSTID for each)"),
    SWITCH("nonblocking", nonblocking, "non-blocking communicators"),
    CHOOSE("comm-init", comm_init, "id|split",
           "each communicator from its own id, or split off one world communicator"),
    SECTION("Model"),
    NUMBER("experts", experts, "E", "0", 1, 65535,
           "experts; default 8, or what the routing file needs"),
    NUMBER("topk", topk, "K", "0", 1, 255, "experts a token; default 2, or what the file says"),
    NUMBER("layers", layers, "L", "0", 1, 65535, "MoE layers; default 2, or what the file says"),
    NUMBER("hidden", hidden, "H", "64", 1, 1 << 20, "elements of a token"),
    TEXTUAL("dtype", dtype, "TYPE", "bf16", "fp32, fp16, bf16, fp8 (as uint8), fp8e4m3, fp8e5m2"),
    NUMBER("tokens", tokens, "T", "64", 1, 1 << 24,
           "tokens a rank in a micro-batch; decode positions a micro-batch for request arrays"),
    {"tokens-spread", "F", "0", REAL, AT(tokens_spread), 0, 1, NULL,
     "rank r of R gets T - floor(F*T*r/R) tokens (synthetic routing)"},
    {"steps", "S|all", "1", UINT, AT(steps), 0, 1 << 24, NULL,
     "steps; all: as many as the routing file holds"},
    NUMBER("microbatches", micro_batches, "M", "1", 1, 255, "micro-batches a step"),
    {"seed", "N", "1", U64, AT(seed), 0, 0, NULL, "seed of everything random"},
    SECTION("Routing"),
    TEXTUAL("routing", routing, "KIND", "uniform",
            "uniform, balanced, zipf:S, hot-expert:P, hot-rank:P, bursts[:P[:PERIOD[:LENGTH]]], "
            "npy:FILE, "
            "counts:FILE"),
    TEXTUAL("npy-axes", npy_axes, "LIST", NULL,
            "names of the array's axes, of request, token, layer, k; default by number of axes: "
            "request,token,layer,k or layer,token,k"),
    TEXTUAL("counts-select", counts_select, "COL=VALUE,…", NULL,
            "rows of the counts file to use, e.g. model=Mixtral-8x7B-v0.1,domain=book"),
    TEXTUAL("placement", placement, "FILE", NULL,
            "lines 'expert rank' or 'layer expert rank'; default contiguous"),
    SECTION("Training"),
    CHOOSE("mode", mode, "auto|train|infer", "backward or not; auto: as the pattern is used"),
    CHOOSE("recompute", recompute, "none|selective|full",
           "full: every layer's forward again before its backward; selective: every second layer"),
    CHOOSE("schedule", schedule, "1f1b|interleaved|gpipe", "order of the micro-batches' passes"),
    NUMBER("pp-stages", pp_stages, "P", "1", 1, 1024, "pipeline depth that the schedule assumes"),
    NUMBER("pp-stage", pp_stage, "I", "0", 0, 1023, "the stage that these ranks are"),
    NUMBER("pp-chunks", pp_chunks, "V", "1", 1, 1024, "model chunks a stage (interleaved)"),
    {"capacity-factor", "F", "1.25", REAL, AT(capacity_factor), 0.01, 1000, NULL,
     "of the padded patterns"},
    TEXTUAL("serve", serve, "P:D[:M]", NULL,
            "inference: every P-th step is a prefill of up to T tokens, the others decode D tokens "
            "a rank; after every "
            "M-th prefill comes a mixed step of T"),
    SECTION("Other traffic"),
    SWITCH("sequence-parallel", sequence_parallel, "Ulysses: four ncclAlltoAll a layer and pass"),
    SWITCH("pipeline-p2p", pipeline_p2p, "activations passed round a ring at each micro-batch"),
    SWITCH("bias-allreduce", bias_allreduce, "all-reduce of the expert counts once a step"),
    NUMBER("graph", graph, "N", "0", 0, 1 << 24,
           "after the steps, capture one step's forward in a CUDA graph and replay it N times"),
    SECTION("Variants"),
    CHOOSE("gatherv", gatherv, "always|auto",
           "vllm: a group of broadcasts always, or ncclAllGather when sizes are equal"),
    CHOOSE("alltoall", alltoall, "native|sendrecv",
           "ncclAlltoAll, or the group that PyTorch built before NCCL 2.28 makes of it"),
    CHOOSE("nvtx", nvtx, "off|step|layer|mark",
           "NVTX ranges (through NVTX 3): 'step N', in it 'micro-batch N' and 'layer N' of the "
           "forward passes; or a mark 'step N'"),
    SECTION("Results"),
    TEXTUAL("truth", truth, "FILE", NULL, "write one JSON line an exchange, ranks in order"),
    SWITCH("brief", brief, "print what ran and what was checked, without the tables"),
    SWITCH("timing", timing, "also print the time taken (stdout then differs between runs)"),
    TEXTUAL("rendezvous", rendezvous, "PATH", NULL,
            "under a launcher: a fresh path prefix that all ranks see; default in TMPDIR"),
    TEXTUAL("corrupt", corrupt, "STEP:LAYER:RANK", NULL,
            "damage a dispatched row there: the job must then fail (a check of the checks)"),
};

#define ROWS (sizeof table / sizeof table[0])

static void print_row(const struct option_row *row)
{
    char left[64];
    if (row->kind == HEAD) {
        printf("\n%s:\n", row->help);
        return;
    }
    snprintf(left, sizeof left, "--%s%s%s", row->name, row->arg ? " " : "",
             row->arg ? row->arg : "");
    printf("  %-34s %s", left, row->help);
    if (row->kind == CHOICE)
        printf(" [%.*s]", (int)strcspn(row->choices, "|"), row->choices);
    else if (row->initial && strcmp(row->initial, "0") != 0)
        printf(" [%s]", row->initial);
    printf("\n");
}

static void print_help(void)
{
    printf("usage: skewscope-workload [options]\n\n"
           "A Mixture-of-Experts expert-parallel job that calls NCCL just as the frameworks do,\n"
           "checks that every token arrives where its router sent it, and prints what it\n"
           "exchanged.\n");
    for (size_t i = 0; i < ROWS; i++)
        print_row(&table[i]);
    printf("\nPatterns:\n");
    for (const struct skew_pattern *const *p = skew_patterns; *p; p++)
        printf("  %-18s %s\n", (*p)->name, (*p)->help);
    printf("\nExit status: 0 all checks passed, 1 a check or a call failed, 2 wrong usage.\n");
}

static int complain(const struct option_row *row, const char *value, const char *what)
{
    fprintf(stderr, "skewscope-workload: --%s: '%s' %s\n", row->name, value, what);
    return -EINVAL;
}

static int set_number(const struct option_row *row, const char *value, void *field)
{
    char *end, range[96];
    errno = 0;
    if (row->offset == AT(steps) && !strcmp(value, "all")) {
        *(unsigned *)field = SKEW_STEPS_ALL;
        return 0;
    }
    if (row->kind == REAL) {
        double v = strtod(value, &end);
        snprintf(range, sizeof range, "is not a number from %g to %g", row->min, row->max);
        if (end == value || *end || errno || !(v >= row->min && v <= row->max))
            return complain(row, value, range);
        *(double *)field = v;
        return 0;
    }
    unsigned long long v = strtoull(value, &end, 0);
    bool bad = end == value || *end || errno || strchr(value, '-');
    if (row->kind == U64) {
        if (bad)
            return complain(row, value, "is not a whole number");
        *(uint64_t *)field = v;
        return 0;
    }
    snprintf(range, sizeof range, "is not a whole number from %.0f to %.0f", row->min, row->max);
    if (bad || v < row->min || v > row->max)
        return complain(row, value, range);
    *(unsigned *)field = (unsigned)v;
    return 0;
}

static int set_choice(const struct option_row *row, const char *value, int *field)
{
    int index = 0;
    for (const char *c = row->choices; c; index++) {
        size_t len = strcspn(c, "|");
        if (strlen(value) == len && !strncmp(c, value, len)) {
            *field = index;
            return 0;
        }
        c = c[len] ? c + len + 1 : NULL;
    }
    char what[160];
    snprintf(what, sizeof what, "is none of %s", row->choices);
    return complain(row, value, what);
}

static int set_value(const struct option_row *row, const char *value, struct skew_options *opt)
{
    void *field = (char *)opt + row->offset;
    switch (row->kind) {
    case UINT:
    case U64:
    case REAL:
        return set_number(row, value, field);
    case TEXT:
        *(const char **)field = value;
        return 0;
    case FLAG:
        *(bool *)field = true;
        return 0;
    case CHOICE:
        return set_choice(row, value, field);
    case HEAD:
        break;
    }
    return -EINVAL;
}

static void set_defaults(struct skew_options *opt)
{
    memset(opt, 0, sizeof *opt);
    for (size_t i = 0; i < ROWS; i++) {
        struct option_row free_of_range = table[i];
        free_of_range.min = 0; /* "0" as a default means: not given */
        if (table[i].initial)
            set_value(&free_of_range, table[i].initial, opt);
    }
}

int skew_options_parse(struct skew_options *opt, int argc, char **argv)
{
    struct option options[ROWS + 2];
    int rows[ROWS + 2], n = 0, c, at = -1;
    for (size_t i = 0; i < ROWS; i++) {
        if (table[i].kind == HEAD)
            continue;
        rows[n] = (int)i;
        options[n++] = (struct option){table[i].name, table[i].kind != FLAG, NULL, 1};
    }
    options[n++] = (struct option){"help", 0, NULL, 'h'};
    options[n] = (struct option){NULL, 0, NULL, 0};

    set_defaults(opt);
    while ((c = getopt_long(argc, argv, "h", options, &at)) != -1) {
        if (c == 'h') {
            print_help();
            return 1;
        }
        if (c != 1)
            return -EINVAL; /* getopt has said what is wrong */
        if (set_value(&table[rows[at]], optarg, opt))
            return -EINVAL;
    }
    if (optind < argc) {
        fprintf(stderr, "skewscope-workload: '%s' is not an option; see --help\n", argv[optind]);
        return -EINVAL;
    }
    return 0;
}
