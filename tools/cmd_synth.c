/* SPDX-License-Identifier: Apache-2.0 */
/*
 * skewscope synth: writes traces with known truth. The settings are a table in synth/synth.h; what
 * they mean is docs/synth.md's.
 */
#include "command.h"
#include "synth/synth.h"
#include "term.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct arguments {
    const char *out;
    struct skew_synth_spec spec;
    bool quiet;
};

enum {
    KEY_SETTING = 0x1000,
    KEY_SPEC = 0x100,
    KEY_STRAGGLER,
    KEY_MISSING,
    KEY_LABEL,
    SETTINGS_MAX = 100
};

/* The flags are made from the table once: - for _. */
static const struct argp_option *make_options(void)
{
    static struct argp_option options[SETTINGS_MAX + 8];
    static char names[SETTINGS_MAX][32];
    size_t n = 0;

    if (options[0].name)
        return options;
    options[n++] = (struct argp_option){
        "output",
        'o',
        "OUT",
        0,
        "a directory (trace.db or trace-nodeNNNN.db, and truth.json), or a name that ends in .db",
        1};
    options[n++] = (struct argp_option){
        "spec", KEY_SPEC, "FILE", 0, "settings from a JSON object; flags behind it win", 1};
    options[n++] = (struct argp_option){
        "label", KEY_LABEL, "KEY=VALUE", 0, "what the run is, as skewscope run --label", 1};
    options[n++] = (struct argp_option){"quiet", 'q', NULL, 0, "say nothing", 1};
    options[n++] = (struct argp_option){
        "straggler",
        KEY_STRAGGLER,
        "RANK:NS[:P[:LAYER]]",
        0,
        "this rank comes late by NS before each exchange (of LAYER) of a step, with probability P; "
        "may be repeated",
        2};
    options[n++] = (struct argp_option){
        "missing", KEY_MISSING, "RANKS", 0, "these ranks are in no database, as 3,5", 2};
    for (int i = 0; skew_synth_options[i].key && i < SETTINGS_MAX; i++) {
        snprintf(names[i], sizeof names[i], "%s", skew_synth_options[i].key);
        for (char *c = names[i]; *c; c++)
            *c = *c == '_' ? '-' : *c;
        options[n++] = (struct argp_option){names[i],
                                            KEY_SETTING + i,
                                            skew_synth_options[i].argument,
                                            0,
                                            skew_synth_options[i].help,
                                            3};
    }
    return options;
}

static void add_label(struct argp_state *state, struct skew_synth_spec *spec, const char *text)
{
    if (!strchr(text, '=') || *text == '=')
        argp_error(state, "--label: '%s' is not KEY=VALUE", text);
    if (strncmp(text, "ep=", 3) == 0 || strncmp(text, "synthetic=", 10) == 0)
        argp_error(state, "--label %s: a synthetic trace has its own (ep is --ranks)", text);
    if (spec->label_count == SKEW_SYNTH_LABELS)
        argp_error(state, "--label: not more than %d times", SKEW_SYNTH_LABELS);
    spec->labels[spec->label_count++] = text;
}

static error_t parse(int key, char *text, struct argp_state *state)
{
    struct arguments *a = state->input;
    struct skew_synth_error error;
    int result = 0;

    if (key >= KEY_SETTING && key < KEY_SETTING + SETTINGS_MAX)
        result = skew_synth_spec_set(&a->spec, skew_synth_options[key - KEY_SETTING].key,
                                     text ? text : "", &error);
    else if (key == KEY_STRAGGLER || key == KEY_MISSING)
        result = skew_synth_spec_set(&a->spec, key == KEY_MISSING ? "missing" : "straggler", text,
                                     &error);
    else if (key == KEY_SPEC)
        result = skew_synth_spec_read(&a->spec, text, &error);
    else if (key == KEY_LABEL)
        add_label(state, &a->spec, text);
    else if (key == 'o')
        a->out = text;
    else if (key == 'q')
        a->quiet = true;
    else if (key == ARGP_KEY_ARG)
        argp_error(state, "'%s': nothing but options is taken", text);
    else if (key == ARGP_KEY_END && !a->out)
        argp_error(state, "where to? Give -o OUT");
    else
        return key == ARGP_KEY_END ? 0 : ARGP_ERR_UNKNOWN;
    if (result)
        argp_error(state, "%s", error.text);
    return 0;
}

const struct argp *skew_argp_synth(void)
{
    static struct argp argp = {
        NULL,
        parse,
        "",
        "Writes the trace of a job that never ran, with its truth beside it: "
        "for tests, benchmarks and learning.",
        NULL,
        NULL,
        NULL};
    argp.options = make_options();
    return &argp;
}

int skew_cmd_synth(int argc, char **argv)
{
    struct arguments arguments = {0};
    struct skew_synth_written written;
    struct skew_synth_error error;
    char exchanges[SKEW_COUNT_TEXT], edges[SKEW_COUNT_TEXT];

    skew_synth_spec_init(&arguments.spec);
    argp_parse(skew_argp_synth(), argc, argv, 0, NULL, &arguments);
    int result = skew_synth_write(&arguments.spec, arguments.out, &written, &error);
    if (result)
        skew_tell("%s", error.text);
    else if (!arguments.quiet)
        skew_tell("%s synthetic exchanges of %lld ranks, %s edges, in %zu database%s -> %s",
                  skew_count_text(exchanges, written.exchanges), (long long)arguments.spec.ranks,
                  skew_count_text(edges, written.edges), written.files,
                  written.files == 1 ? "" : "s", arguments.out);
    skew_synth_spec_free(&arguments.spec);
    return result ? SKEW_EXIT_FAILURE : SKEW_EXIT_OK;
}
