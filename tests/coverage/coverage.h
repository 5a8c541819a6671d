/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Coverage of stated intervals over many seeds: a row for each interval in each scenario, with the
 * share of seeds in which an interval was given, how often it held the truth, and its median width
 * over that of an interval with known parameters, 2 × 1.96 × the standard deviation of the
 * estimate's error over the seeds.
 *
 * SKEWSCOPE_TEST_LONG=1: 1,000 seeds, and every row must cover 93 to 97 %, at most 1.5 times as
 * wide; else few seeds, and 4 standard errors around 95 %. Seeds are fixed.
 */
#ifndef SKEW_COVERAGE_H
#define SKEW_COVERAGE_H

#include "stats.h"
#include "time_stats.h"

struct cover;

/** `few`: seeds of the short form. */
struct cover *cover_open(const char *part, size_t few);
size_t cover_seeds(const struct cover *cover);

/** Truth where it is only known later, by cover_truth(), or never: see there. */
#define COVER_LATER NAN

/** One seed's interval. `scenario` and `interval` name the row and are copied. */
void cover_add(struct cover *cover, const char *interval, const char *scenario,
               const struct skew_estimate *estimate, double truth);
void cover_add_time(struct cover *cover, const char *interval, const char *scenario,
                    const struct skew_time_estimate *estimate, double truth);

/**
 * The truth of a row, once all seeds are added. A row that never gets one is held against the mean
 * of its estimates over all seeds: the expectation of an estimate that is what it is an estimate
 * of.
 */
void cover_truth(struct cover *cover, const char *interval, const char *scenario, double truth);
/** Mean of the estimates of a row so far. */
double cover_mean(const struct cover *cover, const char *interval, const char *scenario);

/** Of how many seeds at least an interval must be given; otherwise 0.9. */
void cover_stated(struct cover *cover, const char *interval, const char *scenario, double least);
/** A row whose coverage is known to be another: least … most, and why it is so. */
void cover_known(struct cover *cover, const char *interval, const char *scenario, double least,
                 double most, const char *why);

/** A share that must be in least … most, `hits` of `of`: what is no interval. */
void cover_share(struct cover *cover, const char *what, const char *scenario, size_t hits,
                 size_t of, double least, double most);

/** Prints the rows as a table, checks them, frees. The number of rows that fail. */
int cover_close(struct cover *cover);

/* The parts. Each returns how many of its rows failed. */
int cover_series(void);
int cover_router(void);
int cover_observe(void);
int cover_placement(void);
int cover_time(void);

#endif
