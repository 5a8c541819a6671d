/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a trace itself tells about the machine that a model needs: how long a transfer takes for the
 * bytes of its busiest port, how long experts compute for what they received, how large a token is.
 * Where it does not tell, there is a reason instead of a number; nothing is guessed.
 */
#ifndef SKEW_MEASURED_H
#define SKEW_MEASURED_H

#include <jansson.h>

#include "line.h"
#include "reading.h"
#include "time_analysis.h"

/** Of one communicator. Zeroed: nothing was looked at. */
struct skew_measured {
    struct skew_time_fit transfer; /* ns; x: bytes of the busiest port, z: of the mean port */
    double z_least, z_most;        /* of z that was seen */
    struct skew_time_fit compute;  /* ns; x: bytes that a rank received, its own included */
    bool from_kernels;             /* of kernels between dispatch and combine; else of the gaps */
    const char *backend;        /* static; both fits are of this device-initiated backend's kernels
                                   against counts of experts, per token copy until
                                   skew_measured_scale(); NULL: of exchanges */
    double token_bytes;         /* of all dispatches; 0: not told, or not one size */
    double combine_token_bytes; /* … of all combines */
    struct skew_time_exchange *exchanges; /* [exchange_count] by seq; owned */
    size_t exchange_count;
    uint32_t domain_ranks; /* of skew_measured_tiers(); 0: `transfer` is of all ports alike */
    bool standin;          /* times are of the stand-ins, no GPU was there */
    char no_transfer[200]; /* why `transfer` gives no rate; empty: it does */
    char no_compute[200];  /* likewise */
};

/**
 * Reads what one communicator's exchanges tell, from the databases at `path`.
 * @return 0, also when nothing can be told (the reasons are in `out`), or a negative errno after
 *         one sentence on standard error. skew_measured_free() in any case.
 */
int skew_measured_read(struct skew_measured *out, const char *path, const char *comm_key,
                       uint32_t ranks);
void skew_measured_free(struct skew_measured *measured);

/** Fits of a backend's kernels become those of bytes, `token_bytes` a copy. */
void skew_measured_scale(struct skew_measured *measured, double token_bytes);

/**
 * Fits the transfer anew to the bytes of the busiest port between domains of `domain_ranks`
 * consecutive ranks (x) and of the busiest port within them (z), in place of busiest and mean port.
 */
int skew_measured_tiers(struct skew_measured *measured, const char *path, const char *comm_key,
                        uint32_t domain_ranks);

/** Mean transfer in ns of the exchange `seq` over its launches; NaN: it was not timed. */
double skew_measured_transfer(const struct skew_measured *measured, int64_t seq);

/** Whether a fit gives a rate: a line or two, with an interval. */
static inline bool skew_measured_fits(const struct skew_time_fit *fit)
{
    return fit->model == SKEW_TIME_LINEAR || fit->model == SKEW_TIME_PIECEWISE;
}

/* ---- parameters of models -------------------------------------------------------------------- */

enum skew_origin {
    SKEW_ORIGIN_DEFAULT,  /* of the paper, or of nobody: `why` says so */
    SKEW_ORIGIN_MEASURED, /* in this trace */
    SKEW_ORIGIN_GIVEN     /* by option */
};

/** One number of a model and where it is from. */
struct skew_parameter {
    double value, low, high; /* low, high: NaN when there is no interval */
    enum skew_origin origin;
    char why[240]; /* of what was measured; or why it was not */
};

/** Bytes a second of a port beyond the knee, from the slope of `transfer`. */
struct skew_parameter skew_measured_bandwidth(const struct skew_measured *measured);
/** Seconds of an empty exchange: the intercept of `transfer`, which may be below 0. */
struct skew_parameter skew_measured_latency(const struct skew_measured *measured);
/** A fit as a line in seconds. It holds for sizes that were seen. */
struct skew_line skew_measured_line(const struct skew_time_fit *fit);
/** Why a fit that gives a rate may not be drawn out to sizes below those seen; NULL: it may. */
const char *skew_measured_no_pieces(const struct skew_time_fit *fit);

/** A default: what it is, and why nothing was measured (may be empty). */
void skew_parameter_default(struct skew_parameter *parameter, double value, const char *what,
                            const char *why);
/** The value of an option, which is set already. */
void skew_parameter_given(struct skew_parameter *parameter);
/** Tells that --OPTION measured cannot be; -ENODATA. */
int skew_parameter_refuse(const char *option, const char *why);

/** {value, low, high, source, why} */
json_t *skew_parameter_json(const struct skew_parameter *parameter);

/**
 * An option that takes a number or "measured".
 * @param choice set to whether it is given, and how; @return the number × unit, or 0.
 */
struct argp_state;
enum skew_wish { SKEW_WISH_AUTO, SKEW_WISH_MEASURED, SKEW_WISH_GIVEN };
double skew_option_measured(struct argp_state *state, const char *flag, const char *text,
                            double least, double most, double unit, enum skew_wish *wish);

#endif
