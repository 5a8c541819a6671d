/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The cost model of `skewscope whatif schedule`: its options, which of its numbers the trace itself
 * tells, and how each is shown with its source. What the trace does not tell is never made up: the
 * default then says that it is one, and why.
 */
#include "whatif_schedule_output.h"
#include "analysis_output.h"
#include "option_values.h"
#include "term.h"

#include <errno.h>
#include <math.h>
#include <string.h>

enum {
    KEY_BANDWIDTH = 0x200,
    KEY_UP,
    KEY_RECONFIGURE,
    KEY_FIXED,
    KEY_TOKEN,
    KEY_COMPUTE,
    KEY_KNEE_TOKENS,
    KEY_KNEE,
    KEY_RATIO
};

/* clang-format off */
static const struct argp_option options[] = {
    {NULL, 0, NULL, 0, "Cost model:", 4},
    {"bandwidth", KEY_BANDWIDTH, "GB/S|measured", 0, "of a rank's port, each direction (default: measured where the trace tells, else 50)", 4},
    {"up-bandwidth", KEY_UP, "GB/S", 0, "of a rank's scale-up port, for tier (default 450)", 4},
    {"reconfigure-us", KEY_RECONFIGURE, "US", 0, "delay before each matching (default 0.01)", 4},
    {"fixed-us", KEY_FIXED, "US|measured", 0, "fixed cost of each phase (default: measured where the bandwidth is, else 0)", 4},
    {"compute", KEY_COMPUTE, "HOW", 0, "expert compute: measured, model (--knee-us, --knee-tokens) or none (default: measured where the trace tells, else model where the size of a token is known)", 4},
    {"token-bytes", KEY_TOKEN, "N", 0, "size of a token (default: of the labelled dispatches)", 4},
    {"knee-tokens", KEY_KNEE_TOKENS, "N", 0, "expert compute is flat up to this (default 256)", 4},
    {"knee-us", KEY_KNEE, "US", 0, "and takes this long there (default 250)", 4},
    {"combine-ratio", KEY_RATIO, "X", 0, "bytes of a token in the combine / in the dispatch (default: of the labels, else 1)", 4},
    {0}};
/* clang-format on */

static error_t parse(int key, char *text, struct argp_state *state)
{
    static const char *const hows[] = {"measured", "model", "none", NULL};
    struct skew_whatif *w = state->input;
    struct skew_whatif_model *m = &w->model;
    struct skew_cost *c = &w->cost;

    switch (key) {
    case KEY_BANDWIDTH:
        m->bandwidth.value =
            skew_option_measured(state, "bandwidth", text, 1e-6, 1e9, 1e9, &m->bandwidth_wish);
        return 0;
    case KEY_FIXED:
        m->fixed.value =
            skew_option_measured(state, "fixed-us", text, 0, 1e12, 1e-6, &m->fixed_wish);
        return 0;
    case KEY_UP:
        m->up_bandwidth = 1e9 * skew_option_real(state, "up-bandwidth", text, 1e-6, 1e9);
        return 0;
    case KEY_RECONFIGURE:
        c->reconfigure_s = 1e-6 * skew_option_real(state, "reconfigure-us", text, 0, 1e12);
        return 0;
    case KEY_COMPUTE:
        m->compute_wish = (enum skew_whatif_compute)(
            SKEW_COMPUTE_MEASURED + skew_option_choice(state, "compute", text, hows));
        return 0;
    case KEY_TOKEN:
        m->token_bytes = (double)skew_option_integer(state, "token-bytes", text, 1, INT32_MAX);
        m->token_origin = SKEW_ORIGIN_GIVEN;
        return 0;
    case KEY_KNEE_TOKENS:
        m->knee_tokens = skew_option_real(state, "knee-tokens", text, 1, 1e12);
        m->knee_given = true;
        return 0;
    case KEY_KNEE:
        m->knee_s = 1e-6 * skew_option_real(state, "knee-us", text, 0, 1e12);
        m->knee_given = true;
        return 0;
    case KEY_RATIO:
        c->combine_ratio = skew_option_real(state, "combine-ratio", text, 0, 1e6);
        m->ratio_origin = SKEW_ORIGIN_GIVEN;
        return 0;
    case ARGP_KEY_END:
        if (m->knee_given && m->compute_wish != SKEW_COMPUTE_AUTO &&
            m->compute_wish != SKEW_COMPUTE_MODEL)
            argp_error(state, "--knee-us and --knee-tokens are of --compute model");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

const struct argp skew_whatif_model_argp = {options, parse, NULL, NULL, NULL, NULL, NULL};

void skew_whatif_model_defaults(struct skew_whatif *w)
{
    w->cost.reconfigure_s = 10e-9;
    w->cost.combine_ratio = 1;
    w->model.up_bandwidth = 450e9;
    w->model.knee_tokens = 256;
    w->model.knee_s = 250e-6;
}

/* ---- where each number is from --------------------------------------------------------------- */

/* The line of a fit for pieces smaller than all that were seen: never below 0, never falling. */
static struct skew_line drawn_out(const struct skew_time_fit *fit)
{
    struct skew_line l = skew_measured_line(fit);

    if (l.knee > 0 && l.below < 0) {
        l.base += l.below * l.knee;
        l.below = 0;
    }
    l.base = fmax(0, l.base);
    return l;
}

/* Why a fit tells nothing of pieces; empty: it does. */
static const char *why_no_pieces(const struct skew_time_fit *fit, const char *why_no_fit)
{
    const char *why = *why_no_fit ? why_no_fit : skew_measured_no_pieces(fit);

    return why ? why : "";
}

static struct skew_parameter measured_fixed(const struct skew_measured *m)
{
    struct skew_parameter p = skew_measured_latency(m);

    p.value = drawn_out(&m->transfer).base;
    return p;
}

/* Bandwidth and fixed cost: the line `wire`. */
static int settle_wire(struct skew_whatif *w, const char *why_not)
{
    struct skew_whatif_model *m = &w->model;
    bool tells = !*why_not;

    if (m->bandwidth_wish == SKEW_WISH_MEASURED && !tells)
        return skew_parameter_refuse("bandwidth", why_not);
    if (m->fixed_wish == SKEW_WISH_MEASURED && !tells)
        return skew_parameter_refuse("fixed-us", why_not);
    if (m->bandwidth_wish == SKEW_WISH_GIVEN) {
        skew_parameter_given(&m->bandwidth);
        w->cost.wire = (struct skew_line){.above = 1 / m->bandwidth.value};
    } else if (tells) {
        m->bandwidth = skew_measured_bandwidth(&m->measured);
        w->cost.wire = drawn_out(&m->measured.transfer);
        if (m->measured.transfer.with_covariate)
            w->cost.mean = 1e-9 * m->measured.transfer.covariate.value;
    } else {
        skew_parameter_default(&m->bandwidth, 50e9, "assumed", why_not);
        w->cost.wire = (struct skew_line){.above = 1 / m->bandwidth.value};
    }
    if (m->fixed_wish == SKEW_WISH_GIVEN)
        skew_parameter_given(&m->fixed);
    else if (tells &&
             (m->fixed_wish == SKEW_WISH_MEASURED || m->bandwidth.origin == SKEW_ORIGIN_MEASURED))
        m->fixed = measured_fixed(&m->measured);
    else
        skew_parameter_default(&m->fixed, 0, "none", "");
    w->cost.wire.base = m->fixed.value;
    return 0;
}

static int settle_compute(struct skew_whatif *w, const char *why_not)
{
    struct skew_whatif_model *m = &w->model;
    bool tells = !*why_not;

    m->compute = m->compute_wish;
    if (m->compute == SKEW_COMPUTE_MEASURED && !tells)
        return skew_parameter_refuse("compute", why_not);
    if (m->compute == SKEW_COMPUTE_AUTO)
        m->compute = m->knee_given ? SKEW_COMPUTE_MODEL
                     : tells       ? SKEW_COMPUTE_MEASURED
                                   : SKEW_COMPUTE_MODEL;
    snprintf(m->compute_why, sizeof m->compute_why, "%s", why_not);
    if (m->compute == SKEW_COMPUTE_MEASURED) {
        w->cost.compute = drawn_out(&m->measured.compute);
        w->cost.computes = true;
        return 0;
    }
    if (m->compute == SKEW_COMPUTE_MODEL && m->token_bytes <= 0) {
        if (m->compute_wish == SKEW_COMPUTE_MODEL) {
            skew_tell("--compute model: no label tells the size of a token; give --token-bytes");
            return -ENODATA;
        }
        m->compute = SKEW_COMPUTE_NONE;
    }
    if (m->compute == SKEW_COMPUTE_MODEL) {
        w->cost.compute = skew_cost_floor(m->knee_s, m->knee_tokens * m->token_bytes);
        w->cost.computes = true;
    }
    return 0;
}

int skew_whatif_model_settle(struct skew_whatif *w, const char *path, const char *comm_key,
                             uint32_t ranks)
{
    struct skew_whatif_model *m = &w->model;
    struct skew_measured *d = &m->measured;
    int result = comm_key ? skew_measured_read(d, path, comm_key, ranks) : 0;

    if (result < 0)
        return result;
    if (m->token_origin != SKEW_ORIGIN_GIVEN && d->token_bytes > 0) {
        m->token_bytes = d->token_bytes;
        m->token_origin = SKEW_ORIGIN_MEASURED;
    }
    if (m->ratio_origin != SKEW_ORIGIN_GIVEN && d->token_bytes > 0 && d->combine_token_bytes > 0) {
        w->cost.combine_ratio = d->combine_token_bytes / d->token_bytes;
        m->ratio_origin = SKEW_ORIGIN_MEASURED;
    }
    w->cost.up = 1 / m->up_bandwidth;
    if (d->backend && m->token_bytes > 0)
        skew_measured_scale(d, m->token_bytes);
    if (!comm_key) {
        snprintf(d->no_transfer, sizeof d->no_transfer, "nothing of this was timed");
        snprintf(d->no_compute, sizeof d->no_compute, "nothing of this was timed");
    }
    result = settle_wire(w, why_no_pieces(&d->transfer, d->no_transfer));
    return result == 0 ? settle_compute(w, why_no_pieces(&d->compute, d->no_compute)) : result;
}

/* ---- text ------------------------------------------------------------------------------------ */

static void print_wire(const struct skew_whatif *w)
{
    const struct skew_whatif_model *m = &w->model;
    const struct skew_parameter *b = &m->bandwidth, *f = &m->fixed;
    const struct skew_time_fit *fit = &m->measured.transfer;
    char knee[SKEW_BYTES_TEXT];

    printf("Model    a port %.4g GB/s", b->value / 1e9);
    if (b->origin == SKEW_ORIGIN_MEASURED) {
        printf(" [%.4g, %.4g] (measured here)", b->low / 1e9, b->high / 1e9);
        if (fit->model == SKEW_TIME_PIECEWISE)
            printf(",\n         below %s a phase %.4g ns/KiB",
                   skew_bytes_text(knee, (uint64_t)fit->knee), 1024 * fit->slope_below.value);
        if (fit->with_covariate)
            printf(",\n         and %.4g [%.4g, %.4g] ns/KiB of the mean port",
                   1024 * fit->covariate.value, 1024 * fit->covariate.low,
                   1024 * fit->covariate.high);
    } else {
        printf(" (%s)", b->origin == SKEW_ORIGIN_GIVEN ? "given" : "default");
    }
    printf("\n         a phase %s on top", skew_whatif_seconds(f->value).text);
    if (f->origin == SKEW_ORIGIN_MEASURED)
        printf(" [%s, %s] (measured here: the line at no bytes)\n",
               skew_whatif_seconds(f->low).text, skew_whatif_seconds(f->high).text);
    else
        printf(" (%s)\n", f->origin == SKEW_ORIGIN_GIVEN ? "given" : "default");
    if (b->origin == SKEW_ORIGIN_MEASURED || f->origin == SKEW_ORIGIN_MEASURED) {
        printf("         from %s\n", b->origin == SKEW_ORIGIN_MEASURED ? b->why : f->why);
        if (m->phases_below)
            printf(
                "         NOTE: %zu of %zu phases are smaller than any exchange seen; for them the "
                "line is drawn out\n",
                m->phases_below, m->phases);
    } else if (*b->why) {
        printf("         %s\n", b->why);
    }
}

static void print_compute(const struct skew_whatif *w)
{
    const struct skew_whatif_model *m = &w->model;
    const struct skew_time_fit *f = &m->measured.compute;
    const struct skew_line *l = &w->cost.compute;
    char least[SKEW_BYTES_TEXT], most[SKEW_BYTES_TEXT];

    if (m->compute == SKEW_COMPUTE_NONE) {
        printf("         no expert compute%s%s\n",
               m->compute_wish == SKEW_COMPUTE_NONE ? " (given)"
                                                    : ": --token-bytes models it; here: ",
               m->compute_wish == SKEW_COMPUTE_NONE ? "" : m->compute_why);
        return;
    }
    if (m->compute == SKEW_COMPUTE_MODEL) {
        printf(
            "         expert compute %s up to %.4g tokens of %.0f bytes, then in proportion (%s)\n",
            skew_whatif_seconds(m->knee_s).text, m->knee_tokens, m->token_bytes,
            m->knee_given ? "given" : "default");
        if (!m->knee_given)
            printf("         default: the paper's, of one RTX PRO 6000; here: %s\n",
                   *m->compute_why ? m->compute_why : "not asked for");
        return;
    }
    printf("         expert compute %s", skew_whatif_seconds(l->base).text);
    if (l->knee > 0)
        printf(" + %.4g ns/KiB up to %s,\n         beyond", 1024e9 * l->below,
               skew_bytes_text(least, (uint64_t)l->knee));
    else
        printf(" +");
    printf(" %.4g ns/KiB [%.4g, %.4g] received (measured here)\n", 1024 * f->slope.value,
           1024 * f->slope.low, 1024 * f->slope.high);
    printf("         from %s, %zu in %zu steps, %s to %s%s\n",
           m->measured.from_kernels ? "kernels between dispatch and combine"
                                    : "gaps between dispatch and combine (all that ran there)",
           f->observations, f->clusters, skew_bytes_text(least, (uint64_t)f->least),
           skew_bytes_text(most, (uint64_t)f->most),
           m->measured.standin ? ", TIMES OF STAND-INS" : "");
}

void skew_whatif_model_print(const struct skew_whatif *w)
{
    static const char *const origins[] = {"default", "of the labels", "given"};
    const struct skew_whatif_model *m = &w->model;
    const struct skew_cost *c = &w->cost;

    print_wire(w);
    if (w->options.domain_ranks)
        printf("         scale-up %.4g GB/s in domains of %u ranks\n", m->up_bandwidth / 1e9,
               w->options.domain_ranks);
    print_compute(w);
    printf("         reconfiguration %s, combine %.4g x dispatch (%s); the two do not contend\n",
           skew_whatif_seconds(c->reconfigure_s).text, c->combine_ratio, origins[m->ratio_origin]);
    if (w->options.max_matchings)
        printf(
            "         not more than %u matchings, the remainder in one phase at its port bound\n",
            w->options.max_matchings);
}

/* ---- JSON ------------------------------------------------------------------------------------ */

static json_t *line_json(const struct skew_line *l, bool known)
{
    if (!known)
        return json_null();
    return json_pack("{s:f, s:o, s:o, s:f}", "base_s", l->base, "below_s_per_byte",
                     l->knee > 0 ? json_real(l->below) : json_null(), "knee_bytes",
                     l->knee > 0 ? json_real(l->knee) : json_null(), "s_per_byte", l->above);
}

static json_t *compute_json(const struct skew_whatif *w)
{
    const struct skew_whatif_model *m = &w->model;
    const struct skew_time_fit *f = &m->measured.compute;
    bool measured = m->compute == SKEW_COMPUTE_MEASURED;

    return json_pack("{s:s, s:o, s:o, s:o, s:s}", "source",
                     measured ? (m->measured.from_kernels ? "kernels" : "gaps")
                     : m->compute == SKEW_COMPUTE_NONE ? "none"
                     : m->knee_given                   ? "given"
                                                       : "default",
                     "line", line_json(&w->cost.compute, w->cost.computes), "low_s_per_byte",
                     skew_json_real(measured ? 1e-9 * f->slope.low : NAN), "high_s_per_byte",
                     skew_json_real(measured ? 1e-9 * f->slope.high : NAN), "why", m->compute_why);
}

json_t *skew_whatif_model_json(const struct skew_whatif *w)
{
    static const char *const origins[] = {"default", "labels", "given"};
    const struct skew_whatif_model *m = &w->model;
    const struct skew_cost *c = &w->cost;

    return json_pack(
        "{s:o, s:o, s:o, s:f, s:f, s:f, s:o, s:s, s:f, s:s, s:o, s:I, s:I, s:b, s:o, s:o, s:s}",
        "bandwidth_bytes_per_s", skew_parameter_json(&m->bandwidth), "fixed_s",
        skew_parameter_json(&m->fixed), "wire", line_json(&c->wire, true), "mean_port_s_per_byte",
        c->mean, "up_bandwidth_bytes_per_s", m->up_bandwidth, "reconfigure_s", c->reconfigure_s,
        "token_bytes", m->token_bytes > 0 ? json_real(m->token_bytes) : json_null(),
        "token_bytes_source", m->token_bytes > 0 ? origins[m->token_origin] : "none",
        "combine_ratio", c->combine_ratio, "combine_ratio_source", origins[m->ratio_origin],
        "compute", compute_json(w), "phases", (json_int_t)m->phases, "phases_below_seen",
        (json_int_t)m->phases_below, "standin", m->measured.standin, "domain_ranks",
        w->options.domain_ranks ? json_integer(w->options.domain_ranks) : json_null(),
        "max_matchings",
        w->options.max_matchings ? json_integer(w->options.max_matchings) : json_null(), "pick",
        w->options.pick == SKEW_PICK_FIRST ? "first" : "largest");
}
