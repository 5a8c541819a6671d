/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where the time of the all-to-alls of one communicator goes: per exchange waiting, latency, a
 * balanced transfer, what skew adds and what nothing explains; who comes late; what the steps would
 * take with another placement or with uniform routing. docs/time.md has the definitions, the
 * formulas with their sources, and the conventions.
 *
 * Rows of single ranks are added in any order, from any number of databases; then
 * skew_times_analyse() looks at all of them together. Times are nanoseconds, sizes bytes. One
 * thread.
 */
#ifndef SKEW_TIME_H
#define SKEW_TIME_H

#include "match.h"
#include "time_stats.h"
#include "trace.h"

/* ---- what is put in -------------------------------------------------------------------------- */

enum skew_time_role {
    SKEW_TIME_UNKNOWN, /* no label: taken for an exchange of tokens of which nothing else is known
                        */
    SKEW_TIME_DISPATCH,
    SKEW_TIME_COMBINE,
    SKEW_TIME_COMBINE_BWD,
    SKEW_TIME_DISPATCH_BWD,
    SKEW_TIME_OTHER, /* labelled as something else: only tells when its ranks were busy */
    SKEW_TIME_ROLES
};
extern const char *const skew_time_role_name[SKEW_TIME_ROLES];

#define SKEW_TIME_ABSENT INT64_MIN

/** The truth lies between both; ns. NaN: not known. */
struct skew_time_range {
    double low, high;
};

/** One exchange of one rank. */
struct skew_time_row {
    int64_t place;       /* in the order of the communicator's exchanges: equal of those that belong
                            together, and in agreement with every rank's own order (match.h) */
    int64_t seq;         /* the rank's own ordinal: a gap is a record that was lost */
    uint32_t occurrence; /* of a captured exchange: which launch, from 0 */
    const uint32_t *peers; /* [peer_count] whom it sends to or receives from; NULL: all ranks */
    uint32_t peer_count;
    uint32_t rank;
    int64_t step, layer; /* −1: not known */
    int64_t microbatch;  /* 0 where there is one only */
    enum skew_time_role role;
    int64_t start_ns, end_ns; /* on the device, on this process's clock; both SKEW_TIME_ABSENT: the
                                 host only was asked */
    int64_t error_ns;         /* both are within ± this on that clock */
    int64_t host_ns;          /* when the host enqueued it */
    double sent, received;    /* bytes to and from other ranks */
    double load;              /* bytes received, a rank's own included */
    double token_bytes;       /* of one token in this exchange; 0: not known */
    struct skew_time_range hidden; /* of start … end, other kernels ran: overlap.h */
};

struct skew_times; /* rows of one communicator */

/** A communicator of so many ranks; the caller owns *out. -EINVAL (0 or too many), -ENOMEM. */
int skew_times_create(struct skew_times **out, uint32_t ranks);
void skew_times_free(struct skew_times **times);
/** -EINVAL: no such rank; -EEXIST: the row is there already; -ENOMEM. Two exchanges of a rank that
 * belong to one of another (it groups its calls otherwise) are left out with it. */
int skew_times_add(struct skew_times *times, const struct skew_time_row *row);
/** Which clock a rank's times are on: of ranks with equal `clock` they compare as they are. */
void skew_times_clock(struct skew_times *times, uint32_t rank, uint32_t clock);
/** Relates a rank's clock to the reference: table clock_fit. */
void skew_times_clock_fit(struct skew_times *times, uint32_t rank, int64_t at_ns, int64_t offset_ns,
                          double drift_ppb, int64_t residual_ns);

/** Adds what one database has of the communicator: the `index`-th of those that were matched, with
 * a clock of its own. Roles, steps and layers are those of the labels attached to the trace
 * (label.h), else of table exchange_label. */
int skew_times_read(struct skew_times *times, struct skew_trace *trace,
                    const struct skew_matches *matches, uint32_t index, const char *comm_key,
                    struct skew_error *error);

/** Tokens of the experts from one source of one call of a layer. */
struct skew_time_routing {
    int64_t step, layer, microbatch;
    uint32_t source;        /* rank */
    uint32_t experts, topk; /* topk 0: not known */
    const double *tokens;   /* [experts] */
};
typedef int skew_time_routing_fn(void *context, const struct skew_time_routing *routing);
/** Hands all routing there is to `take`; is called twice. 0, what `take` returned, or an errno. */
struct skew_time_router {
    int (*each)(void *context, skew_time_routing_fn *take, void *taker);
    void *context;
};
/** The same from one database; 0, what `take` returned, or a negative errno. */
int skew_time_routing_each(struct skew_trace *trace, const char *comm_key,
                           skew_time_routing_fn *take, void *taker, struct skew_error *error);

/* ---- what comes out -------------------------------------------------------------------------- */

enum skew_time_model {
    SKEW_TIME_NOT_TOLD, /* too little, or sizes that hardly differ: see `why` */
    SKEW_TIME_NO_RELATION,
    SKEW_TIME_LINEAR,
    SKEW_TIME_PIECEWISE
};

/** y against x, robustly; one observation an exchange (or a rank and exchange), clustered by step.
 */
struct skew_time_fit {
    enum skew_time_model model;
    char why[160];                       /* one sentence */
    struct skew_time_estimate intercept; /* y at x = 0: beyond what was seen unless `least` is 0 */
    struct skew_time_estimate slope;     /* y a unit of x; of a piecewise fit above the knee */
    struct skew_time_estimate slope_below; /* of a piecewise fit below it */
    struct skew_time_estimate covariate;   /* of the second variable; value 0 when left out */
    bool with_covariate;
    double trend; /* slope of the line, also where `model` says that it cannot be told; 0: none */
    double knee;
    double least, most; /* of x that was seen; nothing is evaluated outside */
    size_t observations, clusters;
    double scale;   /* of the residuals */
    double quality; /* 1 − (scale / scale without x)²: robust share of the spread explained */
    double p;       /* of "no relation" */
};

/** Fits y[n] to x[n], with covariate z[n] (NULL: none). clusters as in skew_time_regress(). */
int skew_time_fit(const double *x, const double *z, const double *y, const int64_t *cluster,
                  size_t n, struct skew_time_fit *fit);
/** The fit at x (brought into what was seen) and z. */
double skew_time_fit_at(const struct skew_time_fit *fit, double x, double z);

enum skew_time_cause {
    SKEW_CAUSE_LATE,    /* a rank that comes later than its work explains */
    SKEW_CAUSE_LOAD,    /* uneven computation before it */
    SKEW_CAUSE_SKEW,    /* the busiest port */
    SKEW_CAUSE_VOLUME,  /* what a balanced exchange of these bytes takes */
    SKEW_CAUSE_LATENCY, /* what an empty one takes */
    SKEW_CAUSE_UNEXPLAINED,
    SKEW_CAUSES
};
extern const char *const skew_time_cause_name[SKEW_CAUSES];

/** One exchange of all ranks. */
struct skew_time_exchange {
    int64_t place, step, layer, microbatch;
    uint32_t occurrence;
    enum skew_time_role role;
    uint32_t last_rank, busiest_rank;
    int64_t last_seq, busiest_seq; /* their own ordinals */
    double wait_mean, wait_max;    /* last arrival − own arrival */
    double lag;           /* last arrival − median arrival: what the last rank costs the others */
    double transfer;      /* last end − last arrival */
    double busiest, mean; /* bytes: the busiest port, all ports */
    double latency, balanced, skew, unexplained; /* their sum is `transfer` */
    bool beyond;                /* `mean` lies below all sizes seen: `skew` is at least this much */
    bool late;                  /* last_rank is a straggler here */
    double saves[SKEW_CAUSES];  /* ns sooner if this cause alone went away; not additive */
    enum skew_time_cause cause; /* the largest of late, load, skew and unexplained, if it is 5 % of
                                   `exposed`; else volume or latency */
    /* Of lag + transfer, what kernels of the computation used on every rank; the rest is exposed,
     * on the critical path: all of it where `hidden` is not known. */
    struct skew_time_range hidden, exposed;
};

/** What it costs that its cause is there, ns; 0 where that is what an exchange is, not what is
 * wrong with it (volume, latency). */
double skew_time_avoidable(const struct skew_time_exchange *exchange);

/** A step on the critical path. Savings of different exchanges add up. */
struct skew_time_step {
    int64_t step;
    size_t first, count; /* of its exchanges, in skew_time_result.exchanges */
    struct skew_time_range exposed;
    double saves[SKEW_CAUSES]; /* ns sooner if this cause alone went away in all of them */
    double avoidable;          /* … if of each its main cause did: skew_time_avoidable() */
    size_t worst;              /* the exchange with the largest part of that */
};

/** A rank that is late by more than its work and chance explain. */
struct skew_time_straggler {
    uint32_t rank;
    bool persistent;   /* in the median over all steps */
    double median_ns;  /* an exchange, against the median rank */
    size_t late_steps; /* … steps of `events` */
    double late_ns;    /* median over these of how late it is in the step, all exchanges together */
};
struct skew_time_event {
    int64_t step, layer; /* layer −1: before several of the step's exchanges */
    uint32_t rank;
    double late_ns; /* in the step, all exchanges together */
};

/** Ordered counterfactuals of a step, from the fits; savings a step in ns. */
struct skew_time_headline {
    bool known;
    char why_not[200];
    struct skew_time_estimate step;      /* measured: first arrival to last end */
    struct skew_time_estimate exchanges; /* … of it exposed; its interval holds the bounds too */
    struct skew_time_estimate uniform; /* saved with uniformly random routing of the same tokens */
    struct skew_time_estimate uniform_transfer, uniform_wait; /* … in the transfers, in the waits */
    bool placement_known;
    char placement_why_not[200];
    struct skew_time_estimate placement;       /* saved with the best held-out placement */
    struct skew_time_estimate after_placement; /* saved by uniform routing on top of that */
    double clamped; /* share of exchanges whose counterfactual size was never seen */
    size_t steps;
};

enum skew_time_clocks {
    SKEW_TIME_ONE_CLOCK,
    SKEW_TIME_FITTED_CLOCKS,
    SKEW_TIME_UNRELATED_CLOCKS, /* arrival is taken from durations: all are through together */
    SKEW_TIME_VAGUE_CLOCKS /* likewise: the devices' times are known to no better than an exchange
                              takes */
};

struct skew_time_result {
    uint32_t ranks, ranks_seen;
    size_t rows, timed_rows; /* rows of single ranks; of them with times on the device */
    size_t all,
        complete;      /* exchanges; of them with all ranks that take part and were seen, timed */
    size_t unlabelled; /* complete ones without step */
    size_t in_parts;   /* complete ones that go on with the call of the one before (FastMoE) */
    size_t overlap_known;   /* complete ones of which all ranks' other kernels are recorded */
    uint64_t cupti_dropped; /* records that found no room: more may be hidden */
    enum skew_time_clocks clocks;
    double clock_residual_ns;             /* waits are within ± twice this */
    double error_ns;                      /* and within ± twice this: the median of the rows' */
    struct skew_time_exchange *exchanges; /* [complete], in order */
    struct skew_time_step *steps; /* [step_count], in order; none where labels are missing */
    size_t step_count;
    struct skew_time_fit transfer;
    struct skew_time_fit load[SKEW_TIME_ROLES]; /* computation before combine and dispatch_bwd */
    struct skew_time_straggler *stragglers;
    size_t straggler_count;
    struct skew_time_event *events;
    size_t event_count;
    double late_scale_ns; /* spread of a rank's mean lateness in a step, without stragglers */
    struct skew_time_headline headline;
    /* Without times on the device: who enqueues last, of ranks on one clock. */
    size_t host_exchanges;
    double
        *host_last; /* [ranks] share of exchanges in which this rank was the last; NULL: unknown */
    double *host_lag_ns; /* [ranks] median of own enqueue − median enqueue */
};

/** `router` may be NULL. -ENOMEM, -ENODATA (no exchange at all), or what the router returned. */
int skew_times_analyse(struct skew_times *times, const struct skew_time_router *router,
                       struct skew_time_result *result);
void skew_time_result_free(struct skew_time_result *result);

#endif
