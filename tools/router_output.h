/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What `skewscope router` shows, as JSON and as text.
 */
#ifndef SKEW_ROUTER_OUTPUT_H
#define SKEW_ROUTER_OUTPUT_H

#include "analysis_output.h"
#include "router.h"
#include "skew.h"

struct skew_router_shown {
    const struct skew_router *router;      /* from per-expert counts; NULL: there are none */
    const struct skew_volume_skew *volume; /* from sizes, when there are no counts; else NULL */
    uint32_t experts;                      /* by the command line, with volume; 0: not known */
    double level;
    struct skew_coverage coverage;
    const char *path;
};

/** Whether which layer calls are of is not known of some that are used: layers are mixed there. */
bool skew_router_mixed(const struct skew_router *router);

/** A new array: one object a layer. */
json_t *skew_router_layers_json(const struct skew_router_shown *shown);
/** The whole answer; takes over `layers`. */
json_t *skew_router_json(const struct skew_router_shown *shown, json_t *layers);
void skew_router_print(const struct skew_router_shown *shown);

/** From ranks to experts: {metric: {low, high}}, or null where ranks do not divide the experts. */
json_t *skew_bounds_json(const struct skew_level *ranks, uint32_t experts);
/** The moment estimate over all dispatches of `volume`, per number of ranks that is there. */
struct skew_estimate skew_volume_moment(const struct skew_volume_skew *volume, uint32_t experts,
                                        double level, uint32_t *ranks);
/** Whether a group is what `router` reads: forward dispatch, or not labelled at all. */
bool skew_is_dispatch(const struct skew_volume_group *group);

#endif
