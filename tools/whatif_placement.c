/* SPDX-License-Identifier: Apache-2.0 */
/*
 * skewscope whatif placement: what other placements of the experts would have meant for routing
 * that was recorded. The command line; the rest is in whatif_placement_*.c and
 * analysis/placement*.
 */
#include "whatif_placement.h"
#include "command.h"
#include "coverage.h"
#include "option_values.h"
#include "term.h"
#include "whatif.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
    KEY_RANKS = 0x100,
    KEY_METHODS,
    KEY_LAYER,
    KEY_STAGE,
    KEY_COMM,
    KEY_LABEL,
    KEY_TRAIN,
    KEY_TEST,
    KEY_DOMAIN,
    KEY_REDUNDANT,
    KEY_GROUPS,
    KEY_NODES,
    KEY_CAPACITY,
    KEY_RANDOM,
    KEY_SEED,
    KEY_TOKEN,
    KEY_BANDWIDTH,
    KEY_UP,
    KEY_LATENCY,
    KEY_REQUEST_GROUPS,
    KEY_EARLY,
    KEY_JSON,
    KEY_CSV,
    KEY_WRITE,
    KEY_FIRST,
    KEY_MODEL
};

/* clang-format off */
static const struct argp_option options[] = {
    {"ranks", KEY_RANKS, "R,...", 0, "expert-parallel ranks (default: those of the trace)", 1},
    {"layer", KEY_LAYER, "N", 0, "of this layer alone", 1},
    {"stage", KEY_STAGE, "STAGE", 0, "of prefill, decode or train alone", 1},
    {"comm", KEY_COMM, "KEY", 0, "of this communicator alone", 1},
    {NULL, 0, NULL, 0, "Several traces:", 2},
    {"label", KEY_LABEL, "KEY", 0, "a run label that names the traces (default: their files)", 2},
    {"train", KEY_TRAIN, "A,...", 0, "find placements on these (default: on each)", 2},
    {"test", KEY_TEST, "B,...", 0, "score them on these (default: on each)", 2},
    {NULL, 0, NULL, 0, "Placements:", 3},
    {"methods", KEY_METHODS, "A,B,...", 0,
     "of current, contiguous, random, lpt, eplb, eplb-groups, lpt-groups, locality (default: all "
     "that can be)", 3},
    {"redundant", KEY_REDUNDANT, "N", 0, "redundant experts of a layer, for EPLB", 3},
    {"groups", KEY_GROUPS, "G", 0, "group-limited routing: G groups of experts, each on one node", 3},
    {"nodes", KEY_NODES, "N", 0, "nodes of the groups (default: domains, else 1)", 3},
    {"domain-ranks", KEY_DOMAIN, "N", 0, "N consecutive ranks share an NVLink domain", 3},
    {"capacity", KEY_CAPACITY, "X", 0,
     "locality: no rank above X times the mean (default: 1.05 times what lpt reaches)", 3},
    {"random", KEY_RANDOM, "N", 0, "random placements to average over (default 32; 2000 where traces have few calls)", 3},
    {"seed", KEY_SEED, "N", 0, "of all that is random (default 1)", 3},
    {NULL, 0, NULL, 0, "Cost model:", 4},
    {"token-bytes", KEY_TOKEN, "N", 0, "size of a token (default: of the labelled dispatches, else 1: bytes are copies)", 4},
    {"bandwidth", KEY_BANDWIDTH, "GB/S|measured", 0, "of a rank's port, each direction (default: as the trace's exchanges took, where it tells, else 50)", 4},
    {"up-bandwidth", KEY_UP, "GB/S", 0, "of its port inside the domain (default: as measured, else 450)", 4},
    {"latency-us", KEY_LATENCY, "US|measured", 0, "of an exchange, whatever it carries (default: measured where the bandwidth is, else 0)", 4},
    {NULL, 0, NULL, 0, "Requests:", 5},
    {"request-groups", KEY_REQUEST_GROUPS, "K", 0, "groups of requests (default: the domains, else 2)", 5},
    {"early-steps", KEY_EARLY, "N", 0,
     "without prefill: steps that a request is classified by (default: a quarter)", 5},
    {NULL, 0, NULL, 0, "Output:", 6},
    {"json", KEY_JSON, NULL, 0, "JSON; its keys are in docs/placement.md", 6},
    {"csv", KEY_CSV, NULL, 0, "CSV, a line for each score", 6},
    {"write", KEY_WRITE, "FORMAT:FILE", 0,
     "the placement that all calls give, as sglang, eplb, vllm, trtllm or csv", 6},
    {"first-layer", KEY_FIRST, "N", 0, "--write: MoE layer 0 is this layer of the model (default 0)", 6},
    {"model-layers", KEY_MODEL, "N", 0, "--write: layers of the model", 6},
    {0}};
/* clang-format on */

static void parse_ranks(struct argp_state *state, struct skew_wp *wp, const char *text)
{
    char *copy = strdup(text), *rest = copy, *one;

    wp->rank_count = 0;
    while (copy && (one = strsep(&rest, ","))) {
        if (wp->rank_count == sizeof wp->ranks / sizeof *wp->ranks)
            argp_error(state, "--ranks: not more than %zu numbers",
                       sizeof wp->ranks / sizeof *wp->ranks);
        wp->ranks[wp->rank_count++] = (uint32_t)skew_option_integer(state, "ranks", one, 1, 65536);
    }
    free(copy);
}

static void parse_methods(struct argp_state *state, struct skew_wp *wp, const char *text)
{
    const char *names[SKEW_PLACE_COUNT + 1] = {NULL};
    char *copy = strdup(text), *rest = copy, *one;

    for (int m = 0; m < SKEW_PLACE_COUNT; m++) {
        names[m] = skew_placement_method_name(m);
        wp->methods[m] = false;
    }
    while (copy && (one = strsep(&rest, ",")))
        wp->methods[skew_option_choice(state, "methods", one, names)] = true;
    free(copy);
}

static void parse_write(struct argp_state *state, struct skew_wp *wp, char *text)
{
    char *colon = strchr(text, ':');

    if (!colon || !colon[1])
        argp_error(state, "--write: '%s' is not FORMAT:FILE", text);
    *colon = '\0';
    wp->write_format = text;
    wp->write_file = colon + 1;
    (void)skew_option_choice(state, "write", text, skew_wp_formats);
}

static bool parse_fit(int key, const char *text, struct argp_state *state, struct skew_wp *wp)
{
    struct skew_fit_options *f = &wp->fit;

    switch (key) {
    case KEY_REDUNDANT:
        f->redundant = (uint32_t)skew_option_integer(state, "redundant", text, 0, 65535);
        return true;
    case KEY_GROUPS:
        f->groups = (uint32_t)skew_option_integer(state, "groups", text, 1, 65535);
        return true;
    case KEY_NODES:
        f->nodes = (uint32_t)skew_option_integer(state, "nodes", text, 1, 65535);
        return true;
    case KEY_DOMAIN:
        f->domain_ranks = (uint32_t)skew_option_integer(state, "domain-ranks", text, 1, 65536);
        return true;
    case KEY_CAPACITY:
        f->capacity = skew_option_real(state, "capacity", text, 1, 1e6);
        return true;
    case KEY_SEED:
        f->seed = (uint64_t)skew_option_integer(state, "seed", text, 0, INT64_MAX);
        return true;
    case KEY_RANDOM:
        wp->random_draws = (uint32_t)skew_option_integer(state, "random", text, 1, 100000);
        return true;
    case KEY_TOKEN:
        wp->links.token_bytes = (double)skew_option_integer(state, "token-bytes", text, 1, 1 << 24);
        wp->model.token_origin = SKEW_ORIGIN_GIVEN;
        return true;
    case KEY_BANDWIDTH:
        wp->model.bandwidth.value = skew_option_measured(state, "bandwidth", text, 1e-6, 1e9, 1e9,
                                                         &wp->model.bandwidth_wish);
        return true;
    case KEY_UP:
        wp->links.up_bandwidth = 1e9 * skew_option_real(state, "up-bandwidth", text, 1e-6, 1e9);
        wp->model.up_given = true;
        return true;
    case KEY_LATENCY:
        wp->model.latency.value =
            skew_option_measured(state, "latency-us", text, 0, 1e12, 1e-6, &wp->model.latency_wish);
        return true;
    default:
        return false;
    }
}

static void check(struct argp_state *state, struct skew_wp *wp)
{
    if (wp->path_count == 0)
        argp_error(state, "which trace? Give its file or directory");
    if (wp->json && wp->csv)
        argp_error(state, "choose one of --json and --csv");
    wp->links.domain_ranks = wp->fit.domain_ranks;
    if (wp->model.up_given && wp->model.bandwidth_wish == SKEW_WISH_MEASURED)
        argp_error(state, "--bandwidth measured prices ports inside the domain as well: leave out "
                          "--up-bandwidth");
    if (wp->write_file && wp->rank_count > 1)
        argp_error(state, "--write holds one placement: give one number to --ranks");
}

static error_t parse(int key, char *text, struct argp_state *state)
{
    static const char *const stages[] = {"prefill", "decode", "train", NULL};
    struct skew_wp *wp = state->input;

    if (parse_fit(key, text, state, wp))
        return 0;
    switch (key) {
    case KEY_RANKS:
        parse_ranks(state, wp, text);
        return 0;
    case KEY_METHODS:
        parse_methods(state, wp, text);
        return 0;
    case KEY_WRITE:
        parse_write(state, wp, text);
        return 0;
    case KEY_STAGE:
        wp->stage = stages[skew_option_choice(state, "stage", text, stages)];
        return 0;
    case KEY_LAYER:
        wp->by_layer = true;
        wp->layer = skew_option_integer(state, "layer", text, 0, INT32_MAX);
        return 0;
    case KEY_REQUEST_GROUPS:
        wp->request_groups = (uint32_t)skew_option_integer(state, "request-groups", text, 2, 256);
        return 0;
    case KEY_EARLY:
        wp->early_steps = skew_option_integer(state, "early-steps", text, 1, INT32_MAX);
        return 0;
    case KEY_FIRST:
        wp->first_layer = skew_option_integer(state, "first-layer", text, 0, 10000);
        return 0;
    case KEY_MODEL:
        wp->model_layers = skew_option_integer(state, "model-layers", text, 1, 10000);
        return 0;
    case KEY_COMM:
        wp->comm = text;
        return 0;
    case KEY_LABEL:
        wp->label = text;
        return 0;
    case KEY_TRAIN:
        wp->train = text;
        return 0;
    case KEY_TEST:
        wp->test = text;
        return 0;
    case KEY_JSON:
        wp->json = true;
        return 0;
    case KEY_CSV:
        wp->csv = true;
        return 0;
    case ARGP_KEY_ARG:
        wp->paths[wp->path_count++] = text;
        return 0;
    case ARGP_KEY_END:
        check(state, wp);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

const struct argp *skew_whatif_argp_placement(void)
{
    static const struct argp argp = {
        options,
        parse,
        "TRACE|DIR...",
        "Scores placements of the experts on routing that was recorded: always on calls that they "
        "were not found from, against the current placement and against random ones. One trace is "
        "halved in time; of several, each placement is scored on all the others."
        "\vA model over counts: nothing is timed. Needs per-expert counts, from the tap or from "
        "skewscope import. Exit status: 0, or 1 when there is nothing to score, or 2 for a wrong "
        "command line.",
        NULL,
        NULL,
        NULL};
    return &argp;
}

/* ---- all layers -------------------------------------------------------------------------------
 */

static void skip(json_t *skipped, int64_t layer, uint32_t ranks, const char *why)
{
    json_array_append_new(skipped, json_pack("{s:I, s:i, s:s}", "layer", (json_int_t)layer, "ranks",
                                             (int)ranks, "why", why));
}

/* Sums the counts of worse placements over all cross tables, by method. */
static json_t *cross_total(const json_t *cross)
{
    json_t *all = json_array();

    for (int m = 0; m < SKEW_PLACE_COUNT; m++) {
        json_int_t off = 0, worse = 0, random = 0;
        size_t i, j;
        json_t *one, *method;
        json_array_foreach(cross, i, one)
            json_array_foreach(json_object_get(one, "methods"), j, method)
        {
            if (strcmp(json_string_value(json_object_get(method, "method")),
                       skew_placement_method_name(m)) != 0)
                continue;
            off += json_integer_value(json_object_get(method, "off_diagonal"));
            worse += json_integer_value(json_object_get(method, "worse_than_current"));
            random += json_integer_value(json_object_get(method, "worse_than_random"));
        }
        if (off)
            json_array_append_new(all, json_pack("{s:s, s:I, s:I, s:I}", "method",
                                                 skew_placement_method_name(m), "off_diagonal", off,
                                                 "worse_than_current", worse, "worse_than_random",
                                                 random));
    }
    return all;
}

static json_t *everything(struct skew_wp *wp)
{
    json_t *layers = json_array(), *cross = json_array(), *skipped = json_array();
    json_t *requests = json_null();
    const char *why;

    for (size_t l = 0; l < wp->trace[0].layers; l++)
        for (size_t r = 0; r < wp->rank_count; r++) {
            const struct skew_wp_layer *one = &wp->trace[0].layer[l];
            json_t *result = wp->traces == 1 ? skew_wp_study(wp, one, wp->ranks[r], &why)
                                             : skew_wp_cross(wp, one->layer, one->calls.experts,
                                                             wp->ranks[r], &why);
            if (result)
                json_array_append_new(wp->traces == 1 ? layers : cross, result);
            else
                skip(skipped, one->layer, wp->ranks[r], why);
        }
    if (wp->traces == 1)
        requests = skew_wp_requests(wp, &wp->trace[0], wp->ranks[0]);
    json_t *total = cross_total(cross);
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o}", "model", skew_wp_model_json(wp), "layers",
                     layers, "cross", cross, "cross_total", total, "requests", requests, "skipped",
                     skipped);
}

/* What depends on the trace: its ranks, and that they fit. */
static int settle(struct skew_wp *wp)
{
    const struct skew_routing_layer *of = wp->trace[0].layer[0].of;
    uint32_t domain = wp->fit.domain_ranks;

    if (wp->rank_count == 0) {
        if (of->ranks == 0) {
            skew_tell("%s: its routing names no ranks: say how many with --ranks R",
                      wp->trace[0].path);
            return -EINVAL;
        }
        wp->ranks[wp->rank_count++] = of->ranks;
    }
    for (size_t r = 0; r < wp->rank_count; r++) {
        uint32_t ranks = wp->ranks[r];
        if (domain && ranks % domain != 0) {
            skew_tell("--domain-ranks %u does not divide %u ranks", domain, ranks);
            return -EINVAL;
        }
        if (wp->rank_count == 1 && !wp->trace[0].layer[0].current && of->experts % ranks != 0 &&
            (of->experts + wp->fit.redundant) % ranks != 0) {
            skew_tell("--ranks %u does not divide the %u experts of layer %lld", ranks, of->experts,
                      (long long)of->layer);
            return -EINVAL;
        }
    }
    if (wp->fit.groups > 1 && wp->fit.nodes == 0)
        wp->fit.nodes = domain ? wp->ranks[0] / domain : 1;
    return 0;
}

static int run(struct skew_wp *wp)
{
    struct skew_coverage coverage = {0};
    int result = skew_wp_load(wp);

    if (result == 0)
        result = settle(wp);
    if (result == 0)
        result = skew_wp_settle_model(wp);
    for (size_t t = 0; t < wp->traces && result == 0; t++)
        result = skew_coverage_read(&coverage, &wp->trace[t].reading);
    json_t *all = result == 0 ? skew_json_with_coverage(everything(wp), &coverage) : NULL;
    if (result == 0 && !all) {
        skew_tell("out of memory");
        result = -ENOMEM;
    }
    if (all && wp->json) {
        json_dumpf(all, stdout, JSON_INDENT(2));
        putchar('\n');
    } else if (all && wp->csv) {
        skew_wp_csv(wp, all);
    } else if (all) {
        skew_wp_text(wp, all);
        skew_coverage_print(&coverage);
    }
    if (result == 0 && json_array_size(json_object_get(all, "layers")) == 0 &&
        json_array_size(json_object_get(all, "cross")) == 0) {
        skew_tell("nothing could be scored: %s",
                  json_string_value(
                      json_object_get(json_array_get(json_object_get(all, "skipped"), 0), "why")));
        result = -ENOENT;
    }
    json_decref(all);
    if (result == 0 && wp->write_file)
        result = skew_wp_write(wp, wp->ranks[0]);
    return result;
}

int skew_whatif_placement(int argc, char **argv)
{
    struct skew_wp wp = {.links = {.up_bandwidth = 450e9},
                         .fit = {.seed = 1},
                         .early_steps = -1,
                         .paths = calloc((size_t)argc, sizeof *wp.paths)};

    for (int m = 0; m < SKEW_PLACE_COUNT; m++)
        wp.methods[m] = true;
    if (!wp.paths) {
        skew_tell("out of memory");
        return SKEW_EXIT_FAILURE;
    }
    argp_parse(skew_whatif_argp_placement(), argc, argv, 0, NULL, &wp);
    int result = run(&wp);
    skew_wp_unload(&wp);
    free(wp.paths);
    return result < 0 ? SKEW_EXIT_FAILURE : SKEW_EXIT_OK;
}
