/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an exchange costs in `skewscope whatif placement`: as the trace's own exchanges took, where
 * it tells and the ranks are those that it was measured on; else by options and defaults, with the
 * reason.
 */
#include "whatif_placement.h"
#include "term.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>

/* Why the trace's times cannot price exchanges; NULL: they can. Where time does not depend on the
 * size they do as well: every exchange takes what it took. */
static const char *no_fit(const struct skew_wp *wp)
{
    const struct skew_measured *m = &wp->model.measured;

    if (*m->no_transfer && m->transfer.model != SKEW_TIME_NO_RELATION)
        return m->no_transfer;
    if (!wp->model.fit_ranks)
        return "its routing belongs to no communicator with exchanges";
    if (wp->links.token_bytes <= 0 && !m->backend)
        return "the size of a token is not known: --token-bytes";
    return NULL;
}

static int measure(struct skew_wp *wp)
{
    struct skew_wp_model *m = &wp->model;
    const struct skew_wp_trace *t = &wp->trace[0];
    const struct skew_routing_layer *of = t->layer[0].of;
    uint32_t domain = wp->links.domain_ranks;

    if (!of->comm_key || !*of->comm_key || of->ranks == 0)
        return 0;
    int result = skew_measured_read(&m->measured, t->path, of->comm_key, of->ranks);
    if (result == 0 && domain > 1 && domain < of->ranks && of->ranks % domain == 0)
        result = skew_measured_tiers(&m->measured, t->path, of->comm_key, domain);
    m->fit_ranks = of->ranks;
    if (m->measured.backend && domain > 1 && domain < of->ranks)
        snprintf(m->measured.no_transfer, sizeof m->measured.no_transfer,
                 "kernels of %s do not tell what they send to which domain", m->measured.backend);
    if (wp->links.token_bytes > 0)
        skew_measured_scale(&m->measured, wp->links.token_bytes);
    if (result == 0 && wp->links.token_bytes <= 0 && m->measured.token_bytes > 0) {
        wp->links.token_bytes = m->measured.token_bytes;
        m->token_origin = SKEW_ORIGIN_MEASURED;
    }
    return result;
}

/* What exchanges cost on the ranks that were measured, and on all others. */
static void use_fit(struct skew_wp *wp, bool fitted)
{
    struct skew_wp_model *m = &wp->model;
    const struct skew_measured *d = &m->measured;
    bool given = m->latency.origin == SKEW_ORIGIN_GIVEN;

    if (fitted) {
        m->fit = (struct skew_links_fit){.line = skew_measured_line(&d->transfer),
                                         .least = d->transfer.least,
                                         .most = d->transfer.most,
                                         .z_least = d->z_least,
                                         .z_most = d->z_most};
        if (d->transfer.with_covariate)
            m->fit.z_s = 1e-9 * d->transfer.covariate.value;
        if (given)
            m->fit.line.base = m->latency.value;
    } else {
        m->fit_ranks = 0;
    }
    wp->links.bandwidth = fitted ? 50e9 : m->bandwidth.value;
    wp->links.latency_s = fitted && !given ? 0 : m->latency.value;
    if (wp->links.token_bytes <= 0)
        wp->links.token_bytes = 1;
}

int skew_wp_settle_model(struct skew_wp *wp)
{
    struct skew_wp_model *m = &wp->model;
    const struct skew_measured *d = &m->measured;
    int result = measure(wp);
    const char *why = no_fit(wp);
    bool rate = !why && !*d->no_transfer;

    if (result < 0)
        return result;
    if (m->bandwidth_wish == SKEW_WISH_MEASURED && !rate)
        return skew_parameter_refuse("bandwidth", why ? why : d->no_transfer);
    if (m->latency_wish == SKEW_WISH_MEASURED) {
        const char *no = why ? why : rate ? skew_measured_no_pieces(&d->transfer) : d->no_transfer;
        if (no)
            return skew_parameter_refuse("latency-us", no);
    }
    bool fitted = !why && m->bandwidth_wish != SKEW_WISH_GIVEN && !m->up_given;
    if (m->bandwidth_wish == SKEW_WISH_GIVEN) {
        skew_parameter_given(&m->bandwidth);
    } else if (fitted) {
        m->bandwidth = skew_measured_bandwidth(d);
        if (!rate) { /* the size does not matter: no rate */
            m->bandwidth.value = m->bandwidth.low = m->bandwidth.high = NAN;
            snprintf(m->bandwidth.why, sizeof m->bandwidth.why, "%s", d->no_transfer);
        }
    } else {
        skew_parameter_default(&m->bandwidth, 50e9, "assumed",
                               why ? why : "--up-bandwidth is given");
    }
    if (m->latency_wish == SKEW_WISH_GIVEN) {
        skew_parameter_given(&m->latency);
    } else if (fitted || m->latency_wish == SKEW_WISH_MEASURED) {
        m->latency = skew_measured_latency(d);
    } else {
        skew_parameter_default(&m->latency, 0, "assumed", "");
    }
    use_fit(wp, fitted);
    return 0;
}

struct skew_links skew_wp_links(const struct skew_wp *wp, uint32_t ranks)
{
    struct skew_links links = wp->links;

    if (wp->model.fit_ranks == ranks)
        links.fit = &wp->model.fit;
    return links;
}

/* ---- shown ------------------------------------------------------------------------------------
 */

json_t *skew_wp_model_json(const struct skew_wp *wp)
{
    static const char *const origins[] = {"default", "labels", "given"};
    const struct skew_wp_model *m = &wp->model;

    return json_pack(
        "{s:f, s:s, s:o, s:f, s:o, s:o, s:b, s:i, s:i, s:i, s:i, s:i, s:I}", "token_bytes",
        wp->links.token_bytes, "token_bytes_source", origins[m->token_origin],
        "bandwidth_bytes_per_s", skew_parameter_json(&m->bandwidth), "up_bandwidth_bytes_per_s",
        wp->links.up_bandwidth, "latency_s", skew_parameter_json(&m->latency), "fitted_ranks",
        m->fit_ranks ? json_integer(m->fit_ranks) : json_null(), "standin", m->measured.standin,
        "domain_ranks", (int)wp->links.domain_ranks, "redundant", (int)wp->fit.redundant, "groups",
        (int)wp->fit.groups, "nodes", (int)wp->fit.nodes, "random_draws", (int)wp->random_draws,
        "seed", (json_int_t)wp->fit.seed);
}

static bool other_ranks(const struct skew_wp *wp)
{
    bool any = false;

    for (size_t r = 0; r < wp->rank_count; r++)
        any |= wp->ranks[r] != wp->model.fit_ranks;
    return any;
}

void skew_wp_model_print(const struct skew_wp *wp)
{
    static const char *const origins[] = {"default", "measured here", "given"};
    const struct skew_wp_model *m = &wp->model;
    const struct skew_time_fit *fit = &m->measured.transfer;

    if (wp->links.token_bytes > 1)
        printf("A token has %.0f bytes%s.\n", wp->links.token_bytes,
               m->token_origin == SKEW_ORIGIN_MEASURED ? " (of the labels)" : "");
    else
        printf("Without --token-bytes a token is one byte: bytes are copies of tokens.\n");
    printf("An exchange takes %.4g us (%s)", 1e6 * m->latency.value, origins[m->latency.origin]);
    if (!m->fit_ranks) {
        printf(" + bytes of the busiest port / %.4g GB/s (%s", m->bandwidth.value / 1e9,
               origins[m->bandwidth.origin]);
        if (wp->links.domain_ranks > 1)
            printf("; in the domain %.4g GB/s", wp->links.up_bandwidth / 1e9);
        printf(").\n");
        if (m->bandwidth.origin == SKEW_ORIGIN_DEFAULT && *m->bandwidth.why)
            printf("  %s\n", m->bandwidth.why);
        return;
    }
    if (!skew_measured_fits(fit)) {
        printf(" whatever its size, so that no placement changes that:\n  %s.\n", fit->why);
        return;
    }
    printf(" + bytes of the busiest port%s / %.4g GB/s [%.4g, %.4g]%s",
           m->measured.domain_ranks ? " between domains" : "", m->bandwidth.value / 1e9,
           m->bandwidth.low / 1e9, m->bandwidth.high / 1e9,
           fit->model == SKEW_TIME_PIECEWISE ? " beyond a knee" : "");
    if (fit->with_covariate)
        printf("\n  %+.4g [%.4g, %.4g] ns/KiB of the %s port", 1024 * fit->covariate.value,
               1024 * fit->covariate.low, 1024 * fit->covariate.high,
               m->measured.domain_ranks ? "busiest inner" : "mean");
    printf(",\n  measured here: %s.\n", m->bandwidth.why);
    printf("  Sizes that were not seen take the time of the nearest one that was (marked *).\n");
    if (other_ranks(wp))
        printf("  It was measured on %u ranks; others are priced at %.4g GB/s, without latency "
               "(defaults).\n",
               m->fit_ranks, wp->links.bandwidth / 1e9);
}
