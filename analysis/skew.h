/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Skew of the volume over ranks, exchange by exchange: the loads of all ranks in each call, kept
 * apart by communicator, role, layer and step, then summarised. Needs nothing but sizes.
 *
 * An accumulator over one or several databases: skew_volume_read() each into one, finish, ask.
 * Calls are told apart by exchange_label (role, layer, step, micro-batch, and the how-manieth of
 * them on its rank), and by the ordinal on the communicator where there is no label. Work is done
 * once for each distinct vector, and each is decoded once, if at all.
 */
#ifndef SKEW_SKEW_H
#define SKEW_SKEW_H

#include "metrics_level.h"
#include "trace.h"

struct skew_volume;

struct skew_volume_options {
    const char *comm_key; /* NULL: all */
    const char *role;     /* NULL: all */
    bool by_layer;
    int64_t layer;
    bool matrices;    /* also the bytes from each rank to each rank, by layer */
    unsigned threads; /* 0: as many as processors */
};

int skew_volume_create(struct skew_volume **out, const struct skew_volume_options *options);
void skew_volume_free(struct skew_volume **volume);

/** Adds one database. A rank's exchanges must all be in one. 0, or negative errno with `error`. */
int skew_volume_read(struct skew_volume *volume, struct skew_trace *trace,
                     struct skew_error *error);

/** Closes: sorts calls. 0 or -ENOMEM. */
int skew_volume_finish(struct skew_volume *volume);

enum skew_side { SKEW_SIDE_RECEIVE, SKEW_SIDE_SEND };

/** The exchanges of one role of one layer on one communicator. Owned by the accumulator. */
struct skew_volume_group {
    const char *comm_key;
    const char *role; /* "": not labelled */
    int64_t layer;    /* −1: not labelled */
    uint32_t ranks;
    size_t calls;          /* that every rank took part in, in order of time */
    const int64_t *step;   /* [calls], −1 unknown; the seq where nothing is labelled */
    const double *recv;    /* [calls][ranks] bytes, a rank's own included */
    const double *send;    /* [calls][ranks] */
    enum skew_side loaded; /* the side that experts are on: receive in dispatch, send in combine */
    size_t incomplete;     /* calls of which some rank is not here: left out */
    uint64_t exchanges;    /* of single ranks */
    uint64_t uniform;      /* … whose sizes are all equal, and not 0 */
    bool padded;           /* nearly all are, and all of one size: skew cannot be seen in sizes */
    uint64_t token_bytes;  /* of the labels; 0: not known, or not the same in all */
    uint64_t unit;         /* greatest common divisor of all sizes, bytes */
    double lowest_confidence; /* of the labels; NaN: none */
    const uint64_t *matrix;   /* [ranks][ranks] bytes over all exchanges; NULL unless asked for */
};

/** Ordered by communicator, role, layer. [count]; borrowed. */
const struct skew_volume_group *const *skew_volume_groups(const struct skew_volume *volume,
                                                          size_t *count);

/* ---- what is said of a group ----------------------------------------------------------------- */

struct skew_volume_result {
    const struct skew_volume_group *group;
    const char *why; /* why there is no skew: padded, no complete call, …; NULL: there is */
    struct skew_level loads;  /* of the ranks with experts on */
    struct skew_level source; /* of the other side: whose tokens they are; apart from the router */
    double bytes;             /* mean over calls, of all ranks together */
    double busiest;           /* mean over calls of the busiest rank's bytes, on either side */
    double adjusted_persistent; /* Holm over groups */
    bool persistent;
};

struct skew_volume_skew {
    size_t count;
    struct skew_volume_result *result; /* in the order of skew_volume_groups() */
};

/**
 * All groups, on several threads.
 * @param experts, topk for the chance floor and what is derived of the router; 0: not known.
 */
int skew_volume_analyse(struct skew_volume_skew **out, const struct skew_volume *volume,
                        uint32_t experts, uint32_t topk, double level, unsigned threads);
void skew_volume_skew_free(struct skew_volume_skew **skew);

/* ---- from ranks to experts ------------------------------------------------------------------- */

/**
 * What loads of R equal ranks say about E experts, g = E / R a rank (majorisation; attained):
 *   Gini_R <= Gini_E <= 1 − (1 − Gini_R) / g;   max/mean_R <= max/mean_E <= g max/mean_R;
 *   CV_R <= CV_E <= sqrt(g (1 + CV_R²) − 1);    (H_R ln R) / ln E <= H_E <= (H_R ln R + ln g) / ln
 * E. At g = 1 low = high. @return 0, or -EINVAL when R does not divide E.
 */
int skew_expert_bounds(enum skew_metric metric, double value, uint32_t ranks, uint32_t experts,
                       double *low, double *high);

/**
 * Moment estimate of the experts' CV, averaged over layers, if the placement is exchangeable with
 * respect to load (as a contiguous one of a router that does not know ranks is): CV_E² = CV_R² g (E
 * − 1) / (E − g), with cv2[layers] the ranks' persistent CV². Its error is that of L (R − 1)
 * degrees of freedom: at one layer and R = 8 a factor of 0.62 to 1.38, so it is never given for one
 * layer alone without it.
 */
struct skew_estimate skew_expert_moment(const double *cv2, size_t layers, uint32_t ranks,
                                        uint32_t experts, double level);

#endif
