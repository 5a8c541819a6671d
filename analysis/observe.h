/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The observatory: runs grouped by labels into a grid of cells, what imbalance each cell has beyond
 * chance, and what changes between cells that differ in one thing: EP degree, mock against real
 * tokens, batch size. The questions are those of DODOCO (arXiv 2605.20982); its published edges of
 * bands are of uncorrected Gini coefficients.
 *
 * Every number of a run is a mean over its layers. Its interval is that of the series in time of
 * these means (stats.h), so it says how sure the run's own mean is, and nothing about another run:
 * that takes several runs a cell, and then the runs are the sample. Pure computation; one thread at
 * a time but for the analysis of layers inside.
 */
#ifndef SKEW_OBSERVE_H
#define SKEW_OBSERVE_H

#include "router.h"

#define SKEW_OBSERVE_KEYS_MAX 8

struct skew_observe_options {
    double level;    /* of intervals and tests, as 0.95 */
    double margin;   /* of equivalence: 0.05 is "changes by at most 5 %" */
    double bands[2]; /* edges on the observed expert Gini */
    bool incomplete; /* also calls of which sources are missing */
};

enum { SKEW_OBSERVE_EXPERT, SKEW_OBSERVE_RANK, SKEW_OBSERVE_SIDES };

struct skew_observe_metric {
    struct skew_estimate observed;   /* mean over layers and calls */
    double chance, chance_p95;       /* of uniform routing of as many tokens; NaN: not known */
    struct skew_estimate persistent; /* mean over layers of metrics_level.h's; interval: of the
                                        series of the layers' mean (docs/observe.md) */
};

/** Numbers of one set of items, of a run or of a cell. */
struct skew_observe_side {
    uint32_t items; /* of the largest layer; 0: there is no such side */
    struct skew_observe_metric metric[SKEW_METRIC_COUNT];
    double cv2_call, cv2_chance;     /* means over layers and calls */
    struct skew_estimate cv2_beyond; /* CV² − chance: what burst and persistent are together */
    struct skew_estimate cv2_persistent; /* mean over layers */
};

struct skew_observe_run {
    char *name;
    char *value[SKEW_OBSERVE_KEYS_MAX]; /* of the keys; "": not labelled */
    const char *why;                    /* why there are no numbers; NULL: there are */
    size_t layers, layers_unusable, cell;
    uint32_t experts, topk, ranks; /* of the first layer */
    bool unlayered;                /* which layer calls are of is not known: layers are mixed */
    bool topk_assumed;             /* nobody said it: 1, for which chance is largest */
    double tokens;                 /* a call; NaN: top-k is not known */
    bool counted; /* in its cell: has numbers, and is no second view or copy of the same tokens */
    bool derived; /* the rank side is of another number of ranks than the run had */
    bool aligned; /* all layers have the same calls: series are known */
    size_t rows;  /* calls of each layer (the most) */
    double *series[SKEW_OBSERVE_SIDES][SKEW_METRIC_COUNT]; /* [rows]: means over layers; or NULL */
    double *tokens_call;                                   /* [rows], with series */
    struct skew_observe_side side[SKEW_OBSERVE_SIDES];
    size_t layers_beyond, layers_persistent; /* after Holm over the layers of the run */
    double p_beyond, p_persistent; /* the least of its layers, so adjusted; NaN: no test */
    size_t layers_untested; /* whether anything persists could not be tested: too few calls */
};

enum skew_observe_band {
    SKEW_BAND_NONE, /* not assigned; `band_why` */
    SKEW_BAND_LOW,
    SKEW_BAND_MIDDLE,
    SKEW_BAND_HIGH
};

/** resilient, between, concentrated; "" for none. */
const char *skew_observe_band_name(enum skew_observe_band band);

struct skew_observe_cell {
    const char *value[SKEW_OBSERVE_KEYS_MAX]; /* borrowed */
    size_t runs, usable; /* 0 runs: the cell is missing; usable: runs that are counted */
    size_t first;        /* a run of it, a usable one if there is any */
    const char *why;     /* why there are no numbers; NULL: there are */
    bool between_runs;   /* intervals are over runs: two or more are usable */
    double tokens;       /* a call; mean over runs; NaN: not known */
    struct skew_observe_side side[SKEW_OBSERVE_SIDES];
    enum skew_observe_band band;
    const char *band_why;
    /* Of "uniform routing" and "nothing persists" in any layer of any run, after Holm over layers
     * and over cells; NaN: no test. */
    double p_beyond, p_persistent;
    bool beyond_chance, persists;
};

enum skew_observe_kind { SKEW_OBSERVE_EP, SKEW_OBSERVE_MOCK, SKEW_OBSERVE_BATCH };

enum skew_observe_verdict {
    SKEW_OBSERVE_UNTESTED,   /* `why` */
    SKEW_OBSERVE_SAME,       /* equal by construction: the same tokens, experts counted */
    SKEW_OBSERVE_EQUIVALENT, /* within the margin (TOST, Holm over the scan) */
    SKEW_OBSERVE_DIFFERENT,  /* the interval lies outside the margin */
    SKEW_OBSERVE_UNDECIDED   /* neither */
};

const char *skew_observe_verdict_name(enum skew_observe_verdict verdict);

/** What changes from one cell to another that differs in one key. */
struct skew_observe_change {
    enum skew_observe_kind kind;
    size_t from, to; /* cells: smaller EP to larger, real to mock, smaller batch to larger */
    int side;
    enum skew_metric metric;
    bool same_tokens;           /* the very same calls: differences are paired */
    struct skew_estimate ratio; /* observed, to / from: Fieller, or paired */
    double chance_ratio;        /* what chance alone makes of it; NaN: not known */
    struct skew_estimate persistent_ratio;
    double p, p_adjusted; /* EP: of "changes by the margin or more"; NaN: no test */
    enum skew_observe_verdict verdict;
    const char *why;
    /* batch */
    struct skew_estimate exponent; /* ln ratio / ln of tokens' ratio */
    double chance_exponent;        /* of chance alone: near −1/2; NaN: not known */
    struct skew_estimate cv2_change, beyond_change, persistent_change; /* of CV²: to − from */
};

struct skew_observe {
    struct skew_observe_options options;
    size_t keys;
    char *key[SKEW_OBSERVE_KEYS_MAX];
    size_t runs, cells, missing, changes;
    struct skew_observe_run *run;
    struct skew_observe_cell *cell; /* ordered by values, numbers as numbers; missing ones among
                                       them */
    struct skew_observe_change *change;
};

/** Index of a key of this name, or −1. */
int skew_observe_key(const struct skew_observe *observe, const char *name);

/**
 * The first key of the axis that a key is on: a model has one sequence mixer, and mock tokens no
 * data, so these are one axis each, and no cell is missing that puts them together otherwise.
 */
size_t skew_observe_axis(const struct skew_observe *observe, size_t key);

/** 0, -EINVAL (too many keys) or -ENOMEM. The caller owns *out. */
int skew_observe_create(struct skew_observe **out, const struct skew_observe_options *options,
                        const char *const *keys, size_t count);
void skew_observe_free(struct skew_observe **observe);

/**
 * One run.
 * @param name for messages. @param values [keys]: its labels; NULL: none.
 * @param routing finished; NULL or without layers: a run without per-expert counts.
 * @param ranks over which its experts are spread; 0: those of its communicator.
 * @param topk where the counts do not say it; 0: nor is it known otherwise.
 * @param derived `ranks` is not what the run had.
 * @return 0 or -ENOMEM. Nothing is kept of `routing`.
 */
int skew_observe_add(struct skew_observe *observe, const char *name, const char *const *values,
                     const struct skew_routing *routing, uint32_t ranks, uint32_t topk,
                     bool derived);

/** Cells, missing ones too, bands, and changes between cells. 0 or -ENOMEM. */
int skew_observe_finish(struct skew_observe *observe);

#endif
