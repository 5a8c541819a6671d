/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of `skewscope whatif placement` share. Everything that is found becomes JSON first
 * (docs/placement.md has its keys); text and CSV are renderings of it.
 */
#ifndef SKEW_WHATIF_PLACEMENT_H
#define SKEW_WHATIF_PLACEMENT_H

#include <jansson.h>

#include "measured.h"
#include "placement_score.h"
#include "reading.h"
#include "routing.h"

/** One MoE layer of one trace, as the analysis takes it. */
struct skew_wp_layer {
    const struct skew_routing_layer *of;
    int64_t layer;
    struct skew_calls calls;  /* complete calls only */
    size_t incomplete;        /* calls that were left out */
    struct skew_calls halves; /* 2 calls made of every other request, where there are no calls to
                                 split; 0 calls otherwise */
    uint32_t *current;        /* [current_slots], by rank; NULL: contiguous */
    uint32_t current_slots, current_ranks;
    /* owned */
    double *counts, *half_counts;
    uint32_t *by_source;
    size_t *token_at;
    uint16_t *ids;
    int32_t *source;
};

struct skew_wp_trace {
    const char *path;
    char name[96]; /* label, else the path's last part */
    struct skew_reading reading;
    struct skew_routing *routing;
    struct skew_wp_layer *layer;
    size_t layers;
    bool train, test;
};

struct skew_wp {
    const char **paths;
    size_t path_count;
    const char *label, *train, *test, *stage, *comm;
    uint32_t ranks[16];
    size_t rank_count;
    bool by_layer;
    int64_t layer;
    bool methods[SKEW_PLACE_COUNT];
    struct skew_links links; /* without its fit: skew_wp_links() */
    struct skew_wp_model {
        enum skew_wish bandwidth_wish, latency_wish;
        bool up_given;
        struct skew_parameter bandwidth, latency;
        enum skew_origin token_origin;
        uint32_t fit_ranks; /* the fit is of so many ranks, and counts for these alone; 0: no fit */
        struct skew_links_fit fit;
        struct skew_measured measured;
    } model;
    struct skew_fit_options fit;
    uint32_t random_draws;   /* 0: 32, and 2000 where few calls make them cheap */
    uint32_t request_groups; /* 0: as many as there are domains, else 2 */
    int64_t early_steps;     /* of decode, what a request is classified by; −1: a quarter */
    bool json, csv;
    char *write_format;
    const char *write_file;
    int64_t first_layer,
        model_layers; /* for files: MoE layer 0 is this one; 0: as many as needed */

    struct skew_wp_trace *trace;
    size_t traces;
};

/* ---- whatif_placement_load.c ------------------------------------------------------------------
 */

/** Opens and reads all traces; 0, or a negative errno after one sentence. */
int skew_wp_load(struct skew_wp *wp);
void skew_wp_unload(struct skew_wp *wp);
/** The same layer in a trace, or NULL. */
const struct skew_wp_layer *skew_wp_find(const struct skew_wp_trace *trace, int64_t layer,
                                         uint32_t experts);

/* ---- whatif_placement_model.c -----------------------------------------------------------------
 */

/** The prices of exchanges: measured where the trace tells and nothing else was asked for. After
 * skew_wp_load(). 0 or a negative errno, told. */
int skew_wp_settle_model(struct skew_wp *wp);
/** What an exchange of so many ranks costs. */
struct skew_links skew_wp_links(const struct skew_wp *wp, uint32_t ranks);
json_t *skew_wp_model_json(const struct skew_wp *wp);
void skew_wp_model_print(const struct skew_wp *wp);

/* ---- whatif_placement_study.c -----------------------------------------------------------------
 */

/** One layer of one trace on that many ranks: every method, fitted on one half, scored on the
 * other. NULL: out of memory, or *why is set. */
json_t *skew_wp_study(const struct skew_wp *wp, const struct skew_wp_layer *layer, uint32_t ranks,
                      const char **why);
/** to += weight × one, for the means of several scores. */
void skew_wp_score_add(struct skew_score *to, const struct skew_score *one, double weight);
/** null for a score of no calls. */
json_t *skew_wp_score_json(const struct skew_score *score);

/** Options of a fit on that many ranks. */
struct skew_fit_options skew_wp_fit(const struct skew_wp *wp, const struct skew_wp_layer *layer,
                                    uint32_t ranks);
/** Whether a method learns from data. */
bool skew_wp_fitted(enum skew_placement_method method);
/** NaN becomes null. */
json_t *skew_wp_real(double value);

/* ---- whatif_placement_cross.c -----------------------------------------------------------------
 */

/** One layer over all traces: fitted on each train trace, scored on each test trace. */
json_t *skew_wp_cross(const struct skew_wp *wp, int64_t layer, uint32_t experts, uint32_t ranks,
                      const char **why);

/* ---- whatif_placement_requests.c --------------------------------------------------------------
 */

/** Prefill against decode, and groups of requests; says in `note` why not. */
json_t *skew_wp_requests(const struct skew_wp *wp, struct skew_wp_trace *trace, uint32_t ranks);

/* ---- output -----------------------------------------------------------------------------------
 */

void skew_wp_text(const struct skew_wp *wp, const json_t *all);
void skew_wp_csv(const struct skew_wp *wp, const json_t *all);
/** Writes the placements of one method, fitted on all calls of the first train trace. */
int skew_wp_write(const struct skew_wp *wp, uint32_t ranks);
/** Names of the formats, ending with NULL. */
extern const char *const skew_wp_formats[];

#endif
