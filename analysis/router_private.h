/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the router's analysis share.
 */
#ifndef SKEW_ROUTER_PRIVATE_H
#define SKEW_ROUTER_PRIVATE_H

#include "placement.h"
#include "router.h"

/* Everything of layer->split that needs no other layer. rank_loads [rows][layer->ranks]. */
int skew_router_split_of(struct skew_router_layer *layer, const struct skew_series *series,
                         const double *rank_loads, double level);

/* The parts, after layer->persistent and beyond_chance have been decided. */
void skew_router_attribute(struct skew_router_layer *layer);

#endif
