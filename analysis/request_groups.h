/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests and the experts they use: whether a request's prefill tells its decoding, and whether
 * requests that are grouped by what they use can be kept in one NVLink domain.
 *
 * It needs routing of single requests, which only imports have: NCCL carries no request ids.
 * Pure computation; sampling is by seed.
 *
 * Source of the method: arXiv 2604.23150 (request vectors L2-normalised, K-means, new requests by
 * their prefill vector, experts to groups by demand under capacity), here always scored on requests
 * that were not used. The paper publishes no spread.
 */
#ifndef SKEW_REQUEST_GROUPS_H
#define SKEW_REQUEST_GROUPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct skew_correlation {
    size_t requests;
    double pearson;   /* of counts per expert, prefill and decode, both summed over requests */
    double low, high; /* 95 %: bootstrap over requests, standard error on Fisher's z, Student with
                         requests − 1 degrees of freedom; NaN below 8 */
    double corrected; /* for what sampling of requests takes away: / sqrt of both reliabilities,
                         from halves of the requests (Spearman and Brown); NaN: not to be had */
};

/**
 * @param prefill, decode [requests][experts], tokens × copies; a request must have both.
 * @return 0; -ENODATA: fewer than 2 requests; -ENOMEM.
 */
int skew_prefill_decode(struct skew_correlation *out, const double *prefill, const double *decode,
                        size_t requests, uint32_t experts, uint32_t draws, uint64_t seed);

/**
 * Lloyd's K-means from k-means++ starts, the best of `starts`. x[n][width].
 * @param group [n], filled; centre [k][width], filled. 0, -EINVAL (k 0 or above n), -ENOMEM.
 */
int skew_kmeans(const double *x, size_t n, size_t width, uint32_t k, uint32_t starts, uint64_t seed,
                uint32_t *group, double *centre);
/** Scales each row to length 1; rows of zeros stay. */
void skew_normalise_rows(double *x, size_t n, size_t width);

struct skew_request_set {
    size_t requests;
    uint32_t layers, experts;
    const double *early;  /* [requests][layers × experts] what a new request is classified by */
    const double *decode; /* [requests][layers × experts] what it then does */
};

/** Over random splits of the requests, 4/5 to find groups and placement, 1/5 to score. */
struct skew_grouping {
    uint32_t groups, splits;
    size_t held_out; /* requests a split */
    /* share of the held-out requests' copies that leave their group's domain */
    double grouped, grouped_low, grouped_high; /* mean; 5th and 95th percentile over splits */
    double informed;                           /* were requests classified by their decoding */
    double random, random_low, random_high;    /* requests to random groups, placed for these */
    double uniform;                            /* chance: 1 − 1/groups */
    double won;              /* share of splits in which grouping is below random */
    double imbalance;        /* of tokens over groups: max/mean of held-out, mean over splits … */
    double imbalance_random; /* … and of random groups */
};

/** -ENODATA: fewer than 5 requests a group, or experts not divisible; -ENOMEM. */
int skew_request_grouping(struct skew_grouping *out, const struct skew_request_set *set,
                          uint32_t groups, uint32_t splits, uint64_t seed);

#endif
