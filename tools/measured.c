/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fits of a trace's own times for models: the transfer as `skewscope time` fits it, and computation
 * of experts, from kernels where they are recorded, else from the gaps before combines.
 */
#include "measured.h"
#include "analysis_output.h"
#include "counts.h"
#include "exchange_select.h"
#include "option_values.h"
#include "overlap_join.h"
#include "term.h"
#include "time_reading.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK     16   /* exchanges that stand for a step where none is known, as in time */
#define VAGUE     0.05 /* bounds of computation farther apart than this are not fitted */
#define NO_TIMES  "no times on the device in this trace"
#define NO_LABELS "no combine is labelled, so what lies between is not known to be experts"

/* ---- the size of a token --------------------------------------------------------------------- */

/* The one size of all labels of a role; 0: none, or several. */
static double one_size(const struct skew_labelling *labelling, int role)
{
    uint64_t size = 0;

    for (size_t i = 0; i < labelling->count; i++) {
        size_t count;
        const struct skew_label *l = skew_labels_exchanges(labelling->labels[i], &count);
        for (size_t k = 0; k < count; k++) {
            if (!l[k].id || l[k].role != role || !l[k].token_bytes)
                continue;
            if (size && size != l[k].token_bytes)
                return 0;
            size = l[k].token_bytes;
        }
    }
    return (double)size;
}

/* ---- computation from kernels ---------------------------------------------------------------- */

struct computed {
    int64_t cluster;
    double load, ns;
};

struct computing {
    struct computed *all;
    size_t count, room;
    double width, sum; /* of the bounds, ns */
};

static int take_computed(struct computing *c, const struct skew_overlap_exchange *x)
{
    if (c->count == c->room) {
        size_t more = c->room ? 2 * c->room : 256;
        void *bigger = realloc(c->all, more * sizeof *c->all);
        if (!bigger)
            return -ENOMEM;
        c->all = bigger;
        c->room = more;
    }
    double ns = ((double)x->experts.low + (double)x->experts.high) / 2;
    c->width += (double)(x->experts.high - x->experts.low);
    c->sum += ns;
    c->all[c->count++] = (struct computed){
        .cluster = x->step >= 0 ? x->step : x->seq / BLOCK, .load = (double)x->load, .ns = ns};
    return 0;
}

static int by_cluster(const void *left, const void *right)
{
    const struct computed *a = left, *b = right;

    return (a->cluster > b->cluster) - (a->cluster < b->cluster);
}

static int fit_computed(struct computing *c, struct skew_time_fit *fit)
{
    double *x = malloc((c->count + 1) * 2 * sizeof *x), *y = x + c->count;
    int64_t *cluster = malloc((c->count + 1) * sizeof *cluster);
    int result = x && cluster ? 0 : -ENOMEM;

    if (result == 0 && c->count)
        qsort(c->all, c->count, sizeof *c->all, by_cluster);
    for (size_t i = 0; i < c->count && result == 0; i++) {
        x[i] = c->all[i].load;
        y[i] = c->all[i].ns;
        cluster[i] = c->all[i].cluster;
    }
    if (result == 0)
        result = skew_time_fit(x, NULL, y, cluster, c->count, fit);
    free(x);
    free(cluster);
    return result;
}

/* Kernels between the dispatches of this communicator and their combines. 1: they were fitted. */
static int fit_kernels(struct skew_measured *m, const struct skew_reading *reading,
                       const char *comm_key, struct skew_error *error)
{
    struct computing c = {0};
    int result = 0;

    for (size_t i = 0; i < reading->count && result == 0; i++) {
        struct skew_overlap o = {0};
        result = skew_overlap_read(reading->traces[i], &o, error);
        for (size_t k = 0; k < o.exchange_count && result == 0; k++) {
            const struct skew_overlap_exchange *x = &o.exchanges[k];
            if (x->role == SKEW_LABEL_DISPATCH && x->pair && x->experts_known && x->gap > 0 &&
                strcmp(x->member->comm->key, comm_key) == 0)
                result = take_computed(&c, x);
        }
        skew_overlap_free(&o);
    }
    bool vague = c.width > VAGUE * c.sum;
    if (result == 0 && c.count && !vague)
        result = fit_computed(&c, &m->compute);
    free(c.all);
    if (result < 0)
        return result;
    m->from_kernels = c.count && !vague && skew_measured_fits(&m->compute);
    return m->from_kernels;
}

/* ---- from exchanges -------------------------------------------------------------------------- */

/* The ordinal under which matrices are put together (exchange_select.h). −1: the ranks' own
 * ordinals disagree, so that there is none. */
static int64_t seq_of(const struct skew_time_exchange *e)
{
    return e->last_seq == e->busiest_seq ? e->last_seq : -1;
}

static int by_seq(const void *left, const void *right)
{
    int64_t a = seq_of(left), b = seq_of(right);

    return (a > b) - (a < b);
}

/* Why the transfer's fit gives no rate, if it gives none. */
static void say_no_rate(struct skew_measured *m)
{
    const struct skew_time_fit *f = &m->transfer;
    const char *why = "";

    if (!skew_measured_fits(f))
        why = f->why;
    else if (f->with_covariate && isnan(f->covariate.low))
        why = "what the mean port's bytes take has no interval: too little independent data";
    snprintf(m->no_transfer, sizeof m->no_transfer, "%s", why);
}

/* Takes over what the Time analyses found. */
static void take_times(struct skew_measured *m, struct skew_time_result *t)
{
    m->transfer = t->transfer;
    m->exchanges = t->exchanges;
    m->exchange_count = t->complete;
    t->exchanges = NULL;
    m->z_least = INFINITY;
    m->z_most = -INFINITY;
    for (size_t i = 0; i < m->exchange_count; i++) {
        m->z_least = fmin(m->z_least, m->exchanges[i].mean);
        m->z_most = fmax(m->z_most, m->exchanges[i].mean);
    }
    if (m->exchange_count)
        qsort(m->exchanges, m->exchange_count, sizeof *m->exchanges, by_seq);
    say_no_rate(m);
    if (t->timed_rows == 0)
        snprintf(m->no_transfer, sizeof m->no_transfer, NO_TIMES);
}

static void take_gaps(struct skew_measured *m, const struct skew_time_result *t)
{
    m->compute = t->load[SKEW_TIME_COMBINE];
    if (t->timed_rows == 0)
        snprintf(m->no_compute, sizeof m->no_compute, NO_TIMES);
    else if (m->compute.observations == 0)
        snprintf(m->no_compute, sizeof m->no_compute, NO_LABELS);
    else if (!skew_measured_fits(&m->compute))
        snprintf(m->no_compute, sizeof m->no_compute, "%s", m->compute.why);
}

/* ---- a backend whose bytes nobody sees ------------------------------------------------------- */

/* Its kernels against counts of experts, where both are here and meet. */
static int fit_rounds(struct skew_measured *m, const struct skew_reading *reading,
                      const char *comm_key, struct skew_error *error)
{
    const struct skew_counts_options options = {.filter = {.comm_key = comm_key},
                                                .keep = SKEW_ROUTING_CUBE};
    struct skew_overlap *all = calloc(reading->count, sizeof *all);
    struct skew_overlap_joined *joined = NULL;
    struct skew_routing *routing = NULL;
    size_t count = 0;
    int result = all ? skew_counts_read(&routing, reading, &options) : -ENOMEM;

    for (size_t i = 0; i < reading->count && result == 0; i++)
        result = skew_overlap_read(reading->traces[i], &all[i], error);
    if (result == 0)
        result = skew_overlap_join(all, reading->traces, reading->count, routing, &joined, &count,
                                   error);
    if (result == 0 && count == 1 && *joined->why) {
        snprintf(m->no_transfer, sizeof m->no_transfer, "%s: %.150s", joined->backend, joined->why);
        snprintf(m->no_compute, sizeof m->no_compute, "%s", m->no_transfer);
    } else if (result == 0 && count == 1) {
        m->backend = joined->backend;
        m->transfer = joined->dispatch;
        m->compute = joined->experts;
        m->from_kernels = true;
        say_no_rate(m);
        snprintf(m->no_compute, sizeof m->no_compute, "%s",
                 skew_measured_fits(&m->compute) ? "" : m->compute.why);
    }
    for (size_t i = 0; all && i < reading->count; i++)
        skew_overlap_free(&all[i]);
    skew_routing_free(&routing);
    free(joined);
    free(all);
    return result;
}

static void scale_estimate(struct skew_time_estimate *e, double unit)
{
    e->value /= unit;
    e->low /= unit;
    e->high /= unit;
    e->se /= unit;
}

static void scale_fit(struct skew_time_fit *f, double unit)
{
    scale_estimate(&f->slope, unit);
    scale_estimate(&f->slope_below, unit);
    f->trend /= unit;
    f->knee *= unit;
    f->least *= unit;
    f->most *= unit;
}

void skew_measured_scale(struct skew_measured *m, double token_bytes)
{
    if (!m->backend)
        return;
    scale_fit(&m->transfer, token_bytes);
    scale_fit(&m->compute, token_bytes);
}

/* ---- together -------------------------------------------------------------------------------- */

static int measure(struct skew_measured *m, const struct skew_reading *reading,
                   const char *comm_key, uint32_t ranks, struct skew_error *error)
{
    static const struct skew_label_options none;
    struct skew_labelling labelling;
    struct skew_time_result times = {0};
    int result = skew_labelling_open(&labelling, reading, &none);

    if (result < 0)
        return result;
    m->token_bytes = one_size(&labelling, SKEW_LABEL_DISPATCH);
    m->combine_token_bytes = one_size(&labelling, SKEW_LABEL_COMBINE);
    int kernels = skew_reading_any(reading, "SELECT 1 FROM kernel LIMIT 1")
                      ? fit_kernels(m, reading, comm_key, error)
                      : 0;
    skew_labelling_close(&labelling, reading);
    if (kernels < 0)
        return kernels;
    result = skew_time_of_reading(&times, reading, comm_key, ranks, &none, false, error);
    if (result == -ENODATA) {
        snprintf(m->no_transfer, sizeof m->no_transfer, "%s", error->text);
        snprintf(m->no_compute, sizeof m->no_compute, "%s", error->text);
        return skew_reading_any(reading, "SELECT 1 FROM kernel LIMIT 1")
                   ? fit_rounds(m, reading, comm_key, error)
                   : 0;
    }
    if (result < 0)
        return result;
    take_times(m, &times);
    if (!kernels)
        take_gaps(m, &times);
    skew_time_result_free(&times);
    return 0;
}

int skew_measured_read(struct skew_measured *out, const char *path, const char *comm_key,
                       uint32_t ranks)
{
    struct skew_reading reading;
    struct skew_error error = {""};

    *out = (struct skew_measured){0};
    int result = skew_reading_open(&reading, path);
    if (result < 0)
        return result;
    out->standin = skew_reading_standin(&reading);
    result = measure(out, &reading, comm_key, ranks, &error);
    if (result < 0 && *error.text)
        skew_tell("%s", error.text);
    skew_reading_close(&reading);
    return result;
}

void skew_measured_free(struct skew_measured *m)
{
    free(m->exchanges);
    *m = (struct skew_measured){0};
}

/* The first of the exchanges that has this seq, or a later one. */
static size_t find_seq(const struct skew_measured *m, int64_t seq)
{
    size_t low = 0, high = m->exchange_count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (seq_of(&m->exchanges[middle]) < seq)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

double skew_measured_transfer(const struct skew_measured *m, int64_t seq)
{
    size_t count = 0;
    double sum = 0;

    for (size_t i = find_seq(m, seq); i < m->exchange_count && seq_of(&m->exchanges[i]) == seq;
         i++) {
        sum += m->exchanges[i].transfer;
        count++;
    }
    return count ? sum / (double)count : NAN;
}

/* ---- domains --------------------------------------------------------------------------------- */

struct tiers {
    const struct skew_measured *m;
    uint32_t domain;
    double *x, *z; /* [exchange_count]; NaN: its matrix is not here */
};

/* Busiest ports of one exchange, out of the domain and within. */
static int take_tiers(void *context, const struct skew_exchanged *one, int64_t seq)
{
    struct tiers *t = context;
    const struct skew_matrix *m = one->matrix;
    double most[2] = {0, 0};

    for (uint32_t r = 0; r < m->ranks; r++) {
        double sum[2][2] = {{0, 0}, {0, 0}}; /* [sent, received][within, out] */
        for (uint32_t peer = 0; peer < m->ranks; peer++) {
            int out = peer / t->domain != r / t->domain;
            if (peer == r)
                continue;
            sum[0][out] += (double)m->bytes[(size_t)r * m->ranks + peer];
            sum[1][out] += (double)m->bytes[(size_t)peer * m->ranks + r];
        }
        for (int out = 0; out < 2; out++)
            most[out] = fmax(most[out], fmax(sum[0][out], sum[1][out]));
    }
    for (size_t i = find_seq(t->m, seq);
         i < t->m->exchange_count && seq_of(&t->m->exchanges[i]) == seq; i++) {
        t->x[i] = most[1];
        t->z[i] = most[0];
    }
    return 0;
}

static int fit_tiers(struct skew_measured *m, const struct tiers *t)
{
    size_t n = m->exchange_count;
    double *y = malloc((n + 1) * sizeof *y);
    int64_t *cluster = malloc((n + 1) * sizeof *cluster);
    int result = y && cluster ? 0 : -ENOMEM;

    m->z_least = INFINITY;
    m->z_most = -INFINITY;
    for (size_t i = 0; i < n && result == 0; i++) {
        const struct skew_time_exchange *e = &m->exchanges[i];
        y[i] = e->transfer;
        cluster[i] = e->step >= 0 ? e->step : e->place / BLOCK;
        m->z_least = fmin(m->z_least, t->z[i]);
        m->z_most = fmax(m->z_most, t->z[i]);
    }
    if (result == 0)
        result = skew_time_fit(t->x, t->z, y, cluster, n, &m->transfer);
    free(y);
    free(cluster);
    m->domain_ranks = t->domain;
    say_no_rate(m);
    return result;
}

int skew_measured_tiers(struct skew_measured *m, const char *path, const char *comm_key,
                        uint32_t domain_ranks)
{
    struct skew_reading reading;
    struct skew_selection selection = {.comm = comm_key};
    struct tiers t = {m, domain_ranks, malloc((m->exchange_count + 1) * 2 * sizeof(double)), NULL};

    if (m->exchange_count == 0 || !t.x) {
        free(t.x);
        return m->exchange_count ? -ENOMEM : 0;
    }
    t.z = t.x + m->exchange_count;
    for (size_t i = 0; i < 2 * m->exchange_count; i++)
        t.x[i] = NAN;
    int result = skew_reading_open(&reading, path);
    if (result == 0) {
        result = skew_selection_resolve(&selection, path, &reading);
        if (result == 0)
            result = skew_selection_each(&selection, &reading, take_tiers, &t);
        if (result == 0)
            result = fit_tiers(m, &t);
        skew_selection_free(&selection, &reading);
        skew_reading_close(&reading);
    }
    free(t.x);
    return result;
}

/* ---- parameters ------------------------------------------------------------------------------ */

static void say_seen(struct skew_parameter *p, const struct skew_measured *m)
{
    const struct skew_time_fit *f = &m->transfer;
    char least[SKEW_BYTES_TEXT], most[SKEW_BYTES_TEXT];

    snprintf(p->why, sizeof p->why, "%zu %s%s in %zu steps, %s port %s to %s%s", f->observations,
             m->backend ? "dispatches of " : "exchanges", m->backend ? m->backend : "", f->clusters,
             m->domain_ranks ? "busiest outward" : "busiest",
             skew_bytes_text(least, (uint64_t)f->least), skew_bytes_text(most, (uint64_t)f->most),
             m->standin ? ", TIMES OF STAND-INS" : "");
}

struct skew_parameter skew_measured_bandwidth(const struct skew_measured *m)
{
    const struct skew_time_estimate *slope = &m->transfer.slope;
    struct skew_parameter p = {.value = 1e9 / slope->value,
                               .low = 1e9 / slope->high,
                               .high = slope->low > 0 ? 1e9 / slope->low : INFINITY,
                               .origin = SKEW_ORIGIN_MEASURED};

    say_seen(&p, m);
    return p;
}

struct skew_parameter skew_measured_latency(const struct skew_measured *m)
{
    const struct skew_time_estimate *intercept = &m->transfer.intercept;
    struct skew_parameter p = {.value = 1e-9 * intercept->value,
                               .low = 1e-9 * intercept->low,
                               .high = 1e-9 * intercept->high,
                               .origin = SKEW_ORIGIN_MEASURED};

    say_seen(&p, m);
    return p;
}

struct skew_line skew_measured_line(const struct skew_time_fit *f)
{
    struct skew_line l = {.base = 1e-9 * f->intercept.value, .above = 1e-9 * f->slope.value};

    if (f->model == SKEW_TIME_PIECEWISE) {
        l.knee = f->knee;
        l.below = 1e-9 * f->slope_below.value;
    }
    return l;
}

const char *skew_measured_no_pieces(const struct skew_time_fit *f)
{
    if (isnan(f->intercept.low))
        return "where the line reaches 0 bytes has no interval: too little independent data";
    if (f->intercept.high < 0)
        return "the line falls below 0 before it reaches 0 bytes: sizes seen say nothing of "
               "smaller "
               "ones";
    if (f->with_covariate && f->slope.value + f->covariate.value <= 0)
        return "by this fit a balanced exchange would take less time the larger it is";
    return NULL;
}

void skew_parameter_default(struct skew_parameter *p, double value, const char *what,
                            const char *why)
{
    *p = (struct skew_parameter){
        .value = value, .low = NAN, .high = NAN, .origin = SKEW_ORIGIN_DEFAULT};
    snprintf(p->why, sizeof p->why, "%s%s%s", what, *why ? "; here: " : "", why);
}

void skew_parameter_given(struct skew_parameter *p)
{
    p->low = p->high = NAN;
    p->origin = SKEW_ORIGIN_GIVEN;
}

int skew_parameter_refuse(const char *option, const char *why)
{
    skew_tell("--%s measured: %s; leave it out for the default, or say how much", option, why);
    return -ENODATA;
}

json_t *skew_parameter_json(const struct skew_parameter *p)
{
    static const char *const origins[] = {[SKEW_ORIGIN_DEFAULT] = "default",
                                          [SKEW_ORIGIN_MEASURED] = "measured",
                                          [SKEW_ORIGIN_GIVEN] = "given"};

    return json_pack("{s:o, s:o, s:o, s:s, s:s}", "value", skew_json_real(p->value), "low",
                     skew_json_real(p->low), "high", skew_json_real(p->high), "source",
                     origins[p->origin], "why", p->why);
}

double skew_option_measured(struct argp_state *state, const char *flag, const char *text,
                            double least, double most, double unit, enum skew_wish *wish)
{
    *wish = strcmp(text, "measured") == 0 ? SKEW_WISH_MEASURED : SKEW_WISH_GIVEN;
    return *wish == SKEW_WISH_GIVEN ? unit * skew_option_real(state, flag, text, least, most) : 0;
}
