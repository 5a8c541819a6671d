/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Synthetic MoE jobs with known truth: what `skewscope synth` writes and what tests are held
 * against. docs/synth.md has the model with its formulas. Deterministic: equal specs give equal
 * jobs, and each purpose draws from random streams of its own, so that (for example) the same seed
 * with uniform routing keeps noise, stragglers and clocks.
 *
 * One thread. Nothing here prints or knows of databases, but for synth_write.c.
 */
#ifndef SKEW_SYNTH_H
#define SKEW_SYNTH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum skew_synth_routing { SYNTH_UNIFORM, SYNTH_ZIPF, SYNTH_DIRICHLET, SYNTH_SHARES };
enum skew_synth_correlation { SYNTH_IID, SYNTH_BURSTS, SYNTH_AR1, SYNTH_REQUESTS };
enum skew_synth_transfer { SYNTH_LINEAR, SYNTH_PIECEWISE, SYNTH_NONE };
enum skew_synth_sampling { SYNTH_AUTO, SYNTH_TOKENS, SYNTH_COUNTS };
enum skew_synth_clock { SYNTH_PER_NODE, SYNTH_PER_PROCESS };

/*
 * Every setting: a key of the JSON file and, with - for _, a flag.
 *   N(key, default, least, most, help) a whole number     R(…) a real number    B(key, help) a
 * switch C(key, default, names, help) one of names             T(key, ARG, help) a text
 */
#define SKEW_SYNTH_OPTIONS(N, R, B, C, T)                                                          \
    N(seed, 1, 0, INT64_MAX, "seed of everything random")                                          \
    N(ranks, 8, 2, 4096, "ranks of the communicator")                                              \
    N(ranks_per_node, 0, 0, 4096, "one database a node of so many ranks; 0: all on one")           \
    N(experts, 64, 2, 65536, "experts of a layer, a multiple of the ranks")                        \
    N(topk, 6, 1, 64, "experts a token")                                                           \
    N(layers, 4, 1, 1024, "MoE layers")                                                            \
    N(steps, 50, 1, 1000000, "steps")                                                              \
    N(tokens, 256, 1, 1048576, "tokens a rank and step")                                           \
    N(hidden, 2048, 1, 1048576, "hidden size")                                                     \
    N(element_bytes, 2, 1, 8, "bytes of an element")                                               \
    R(tokens_cv, 0, 0, 10, "uneven sources: coefficient of variation of the tokens of a rank")     \
    B(backward, "also the backward pass: combine_bwd and dispatch_bwd")                            \
    C(routing, SYNTH_ZIPF, "uniform,zipf,dirichlet,shares", "popularity of the experts")           \
    R(zipf, 0.6, 0, 10, "exponent of zipf")                                                        \
    R(dirichlet, 4, 0.001, 1e6, "concentration of each expert for dirichlet")                      \
    T(shares, "FILE", "CSV of layer,expert,share for shares; a layer of -1 means all")             \
    N(hot_expert, -1, -1, 65535, "an expert whose popularity is multiplied; -1: none")             \
    R(hot_factor, 8, 0, 1e6, "by so much")                                                         \
    R(drift, 0, 0, 10, "popularity drifts: sd of each expert's log popularity gained a step")      \
    C(correlation, SYNTH_IID, "iid,bursts,ar1,requests", "how tokens hang together")               \
    R(design_effect, 8, 1, 4096, "bursts: equal tokens in a row, whose variance is this × iid's")  \
    R(ar_phi, 0.9, 0, 0.9999, "ar1: correlation of log popularity from step to step")              \
    R(ar_sd, 0.3, 0, 10, "ar1: its standard deviation")                                            \
    N(requests, 32, 1, 65536, "requests: so many at a time on each rank")                          \
    N(request_steps, 64, 1, 1000000, "requests: mean length in steps (geometric)")                 \
    N(topics, 16, 1, 4096, "requests: each is on one of so many topics")                           \
    R(topic_concentration, 0.5, 0.001, 1e6, "requests: Dirichlet concentration of a topic")        \
    C(sampling, SYNTH_AUTO, "auto,tokens,counts", "token by token, or binomial counts")            \
    T(placement, "HOW", "contiguous, permuted, or a CSV of layer,expert,rank")                     \
    R(alpha_ns, 20000, 0, 1e12, "base latency of an exchange")                                     \
    R(beta, 0.02, 0, 1e6, "ns a byte of a port (0.02 is 50 GB/s)")                                 \
    R(alpha_inter_ns, -1, -1, 1e12, "between nodes; -1: the same")                                 \
    R(beta_inter, -1, -1, 1e6, "between nodes; -1: the same")                                      \
    T(edges, "FILE", "CSV of src,dst,factor: this edge takes factor times as long")                \
    R(asymmetry_ns, 0, 0, 1e12, "what goes to a higher rank arrives later by this")                \
    C(transfer, SYNTH_LINEAR, "linear,piecewise,none",                                             \
      "how time follows the busiest port's bytes")                                                 \
    R(knee_bytes, 1e6, 0, 1e15, "piecewise: where the slope changes to beta")                      \
    R(beta_below, 0.005, 0, 1e6, "piecewise: ns a byte below the knee")                            \
    R(none_ns, 100000, 0, 1e12, "none: what every transfer takes")                                 \
    R(noise_ns, 1000, 0, 1e12, "sd of an exchange's own noise")                                    \
    R(noise_step_ns, 0, 0, 1e12, "sd of the noise that a step's exchanges share")                  \
    R(noise_phi, 0, 0, 0.9999, "correlation of that from step to step")                            \
    R(tail, 0, 0, 1, "share of exchanges with ten times the noise, upwards only")                  \
    R(base_ns, 200000, 0, 1e15, "computation before each dispatch")                                \
    R(jitter_ns, 2000, 0, 1e12, "sd of each rank's computations")                                  \
    R(expert_floor_ns, 50000, 0, 1e15, "experts: least time of a rank's computation")              \
    R(expert_knee, 256, 0, 1e12, "experts: tokens up to which it is that")                         \
    R(expert_ns, 50, 0, 1e9, "experts: ns a token beyond")                                         \
    R(backward_factor, 2, 0, 100, "the backward computations take so many times as long")          \
    R(gap_ns, 1e6, 0, 1e15, "between steps")                                                       \
    R(host_lead_ns, 30000, 0, 1e12, "the host is ahead of the device by this")                     \
    C(clock_per, SYNTH_PER_NODE, "node,process", "what has a clock of its own")                    \
    R(clock_offset_ns, 0, 0, 1e15, "sd of their offsets")                                          \
    R(clock_drift_ppb, 0, 0, 1e9, "sd of their drifts")                                            \
    N(error_ns, 100, 0, 1000000000, "device_time.error_ns; times are rounded to it")               \
    R(lost, 0, 0, 0.99, "share of records that were lost")                                         \
    B(no_device_time, "leave out the times on the device: host only")                              \
    B(no_routing, "leave out the experts' counts")                                                 \
    B(no_labels, "leave out roles, steps and layers")

/** A rank that comes late: `delay_ns` before each exchange of the layer at the steps drawn. */
struct skew_synth_straggler {
    uint32_t rank;
    double delay_ns, probability; /* probability 1: always */
    int64_t layer;                /* −1: before every dispatch and combine */
};

#define SKEW_SYNTH_STRAGGLERS 64

#define SKEW_SYNTH_LABELS 16

struct skew_synth_spec {
#define N(key, initial, least, most, help) int64_t key;
#define R(key, initial, least, most, help) double key;
#define B(key, help)                       bool key;
#define C(key, initial, names, help)       int key;
#define T(key, argument, help)             char *key;
    SKEW_SYNTH_OPTIONS(N, R, B, C, T)
#undef N
#undef R
#undef B
#undef C
#undef T
    struct skew_synth_straggler stragglers[SKEW_SYNTH_STRAGGLERS];
    size_t straggler_count;
    /* KEY=VALUE of the run, beside synthetic and ep; borrowed. They change nothing else. */
    const char *labels[SKEW_SYNTH_LABELS];
    size_t label_count;
    uint8_t *missing; /* [4096] ranks that are in no database; NULL: none */
};

/** A sentence about what is wrong. */
struct skew_synth_error {
    char text[400];
};

void skew_synth_spec_init(struct skew_synth_spec *spec);
void skew_synth_spec_free(struct skew_synth_spec *spec);
/** Takes over the keys of a JSON object (docs/synth.md). 0 or −EINVAL, −ENOENT, …, explained. */
int skew_synth_spec_read(struct skew_synth_spec *spec, const char *file,
                         struct skew_synth_error *error);
/** Sets one key from text, as a flag does. */
int skew_synth_spec_set(struct skew_synth_spec *spec, const char *key, const char *text,
                        struct skew_synth_error *error);
/** Whether the settings agree with each other. */
int skew_synth_spec_check(const struct skew_synth_spec *spec, struct skew_synth_error *error);

/** A setting as a table row, for argp, the JSON reader and the truth file. */
struct skew_synth_option {
    const char *key, *argument, *help; /* argument NULL: a switch */
    char kind;                         /* N, R, B, C or T */
    size_t offset;
    double least, most;
    const char *names; /* of a choice, with commas */
};
extern const struct skew_synth_option skew_synth_options[]; /* ends with a NULL key */

/* ---- the job --------------------------------------------------------------------------------- */

enum skew_synth_role { SYNTH_DISPATCH, SYNTH_COMBINE, SYNTH_COMBINE_BWD, SYNTH_DISPATCH_BWD };
extern const char *const skew_synth_role_name[];

/** One exchange of all ranks. Times are true ones, on one clock. Arrays are borrowed. */
struct skew_synth_exchange {
    int64_t step, layer, seq;
    enum skew_synth_role role;
    const uint32_t *sent;     /* [ranks][ranks] tokens, row: sender */
    const uint32_t *received; /* the same, row: receiver */
    int64_t token_bytes;
    const int64_t *host_ns, *arrival_ns, *end_ns; /* [ranks] */
    double busiest_bytes, mean_bytes;             /* off the diagonal: busiest port, mean port */
    double noise_ns;                              /* what is in end_ns of it */
};

/** One call of one layer's router, before its dispatch. */
struct skew_synth_routed {
    int64_t step, layer;
    const uint32_t *counts; /* [ranks][experts] tokens */
    const uint32_t *tokens; /* [ranks] */
};

/** One straggler's act: the truth that detection is held against. */
struct skew_synth_late {
    int64_t step, layer; /* layer −1: before all exchanges of the step */
    uint32_t rank;
    double delay_ns;
};

/** Who gets to see the job; members may be NULL. Anything but 0 ends it and is returned. */
struct skew_synth_sink {
    int (*routed)(void *context, const struct skew_synth_routed *routed);
    int (*exchange)(void *context, const struct skew_synth_exchange *exchange);
    int (*late)(void *context, const struct skew_synth_late *late);
    void *context;
};

struct skew_synth; /* the job: popularity, placement, clocks */

int skew_synth_create(struct skew_synth **out, const struct skew_synth_spec *spec,
                      struct skew_synth_error *error);
void skew_synth_free(struct skew_synth **synth);
int skew_synth_run(struct skew_synth *synth, const struct skew_synth_sink *sink);

/** rank_of[experts] of a layer. Borrowed. */
const uint32_t *skew_synth_rank_of(const struct skew_synth *synth, int64_t layer);
/** popularity[experts] of a layer at step 0, sum 1. Borrowed. */
const double *skew_synth_popularity(const struct skew_synth *synth, int64_t layer);
/** What a process's clock shows at a true time. */
int64_t skew_synth_clock(const struct skew_synth *synth, uint32_t rank, int64_t true_ns);
void skew_synth_clock_truth(const struct skew_synth *synth, uint32_t rank, double *offset_ns,
                            double *drift_ppb);
/** Variance of an expert's tokens over that of independent tokens: of one step, and of long means.
 */
void skew_synth_design_effects(const struct skew_synth *synth, double *step, double *mean);
/** Model's transfer for bytes at the busiest port of one tier, without noise. */
double skew_synth_transfer_ns(const struct skew_synth_spec *spec, double bytes);
/** Model's expert computation for tokens on a rank, forward. */
double skew_synth_expert_ns(const struct skew_synth_spec *spec, double tokens);

/* ---- synth_write.c: databases and the truth file --------------------------------------------- */

struct skew_synth_written {
    uint64_t exchanges, edges;
    size_t files;
};
/**
 * OUT is a directory (made when absent; trace.db, or trace-nodeNNNN.db for several nodes, and
 * truth.json) or a name that ends in .db (with NAME.truth.json beside). Nothing is overwritten.
 */
int skew_synth_write(const struct skew_synth_spec *spec, const char *out,
                     struct skew_synth_written *written, struct skew_synth_error *error);

#endif
