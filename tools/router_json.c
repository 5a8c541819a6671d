/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The JSON of `skewscope router`. Keys: docs/router.md.
 */
#include "router_output.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static json_t *split_json(const struct skew_router_split *s)
{
    if (!s->known)
        return json_null();
    json_t *object = json_pack(
        "{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "observed",
        skew_json_real(s->observed), "chance", skew_json_real(s->chance), "unfixable",
        skew_json_real(s->unfixable), "placement", skew_json_real(s->placement), "undecided",
        skew_json_real(s->undecided), "gain", skew_json_estimate(&s->gain), "replicas",
        skew_json_real(s->replicas), "replicas_bound", skew_json_real(s->replicas_bound), "bound",
        skew_json_real(s->bound), "persistent", skew_json_real(s->persistent), "transient",
        skew_json_real(s->transient));
    if (s->why)
        json_object_set_new(object, "why", json_string(s->why));
    return object;
}

static json_t *curve_json(const struct skew_router_layer *l)
{
    json_t *array = json_array();

    for (size_t i = 0; i < l->points; i++) {
        const struct skew_router_point *p = &l->point[i];
        json_array_append_new(
            array,
            json_pack("{s:i, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "ranks", (int)p->ranks,
                      "observed", skew_json_real(p->observed), "chance", skew_json_real(p->chance),
                      "heldout", skew_json_real(p->heldout), "pooled", skew_json_real(p->pooled),
                      "random", skew_json_real(p->random), "fitted", skew_json_real(p->fitted),
                      "bound", skew_json_real(p->bound)));
    }
    return array;
}

static void put_rank_parts(json_t *object, const struct skew_router_layer *l)
{
    if (l->ranks) {
        json_object_set_new(object, "rank", skew_json_level(&l->rank));
        json_object_set_new(object, "split", split_json(&l->split));
    }
    if (l->points)
        json_object_set_new(object, "curve", curve_json(l));
    if (l->sources)
        json_object_set_new(object, "source_side",
                            json_pack("{s:i, s:o, s:o}", "sources", (int)l->sources,
                                      "max_mean_call", skew_json_real(l->source_call),
                                      "max_mean_max", skew_json_real(l->source_max)));
}

static json_t *layer_json(const struct skew_router_layer *l)
{
    const struct skew_routing_layer *r = l->routing;
    json_t *object = json_pack(
        "{s:o, s:o, s:i, s:o, s:o, s:s, s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "comm",
        *r->comm_key ? json_string(r->comm_key) : json_null(), "layer",
        r->layer < 0 ? json_null() : json_integer(r->layer), "experts", (int)r->experts, "topk",
        l->topk && !l->topk_assumed ? json_integer(l->topk) : json_null(), "ranks",
        l->ranks ? json_integer(l->ranks) : json_null(), "placement",
        l->placed ? "table" : "contiguous", "physical", r->physical, "calls", (json_int_t)l->calls,
        "calls_here", (json_int_t)r->calls, "calls_complete", (json_int_t)r->complete, "rows",
        (json_int_t)r->rows, "rows_verified", (json_int_t)r->verified_rows, "rows_missing",
        (json_int_t)r->missing, "rows_duplicate", (json_int_t)r->duplicates, "rows_conflicting",
        (json_int_t)r->conflicts);

    json_object_set_new(object, "counted_by", json_string(r->how));
    if (l->why) {
        json_object_set_new(object, "why", json_string(l->why));
        return object;
    }
    json_object_set_new(object, "expert", skew_json_level(&l->expert));
    json_object_set_new(object, "p_beyond_adjusted", skew_json_real(l->adjusted_beyond));
    json_object_set_new(object, "p_persistent_adjusted", skew_json_real(l->adjusted_persistent));
    json_object_set_new(object, "beyond_chance", json_boolean(l->beyond_chance));
    json_object_set_new(object, "persists", json_boolean(l->persistent));
    put_rank_parts(object, l);
    return object;
}

/* ---- from sizes ------------------------------------------------------------------------------ */

bool skew_is_dispatch(const struct skew_volume_group *g)
{
    return strcmp(g->role, "dispatch") == 0 || *g->role == '\0';
}

json_t *skew_bounds_json(const struct skew_level *ranks, uint32_t experts)
{
    json_t *object = json_object();

    for (int m = 0; m < SKEW_METRIC_COUNT; m++) {
        double low, high;
        if (skew_expert_bounds((enum skew_metric)m, ranks->metric[m].call.value, ranks->items,
                               experts, &low, &high) < 0) {
            json_decref(object);
            return json_null();
        }
        json_object_set_new(
            object, skew_metric_name((enum skew_metric)m),
            json_pack("{s:o, s:o}", "low", skew_json_real(low), "high", skew_json_real(high)));
    }
    return object;
}

struct skew_estimate skew_volume_moment(const struct skew_volume_skew *v, uint32_t experts,
                                        double level, uint32_t *ranks)
{
    double *cv2 = malloc((v->count + 1) * sizeof *cv2);
    size_t used = 0;

    *ranks = 0;
    for (size_t i = 0; i < v->count && cv2; i++) {
        const struct skew_volume_result *r = &v->result[i];
        if (r->why || !skew_is_dispatch(r->group) || isnan(r->loads.cv2_persistent.value))
            continue;
        if (*ranks == 0)
            *ranks = r->group->ranks;
        if (r->group->ranks == *ranks) /* others are another question */
            cv2[used++] = r->loads.cv2_persistent.value;
    }
    struct skew_estimate e = skew_expert_moment(cv2, used, *ranks, experts, level);
    free(cv2);
    return e;
}

static json_t *volume_json(const struct skew_router_shown *s)
{
    json_t *array = json_array();

    for (size_t i = 0; i < s->volume->count; i++) {
        const struct skew_volume_result *r = &s->volume->result[i];
        const struct skew_volume_group *g = r->group;
        if (!skew_is_dispatch(g))
            continue;
        json_t *object = json_pack("{s:s, s:o, s:o, s:i, s:I}", "comm", g->comm_key, "role",
                                   *g->role ? json_string(g->role) : json_null(), "layer",
                                   g->layer < 0 ? json_null() : json_integer(g->layer), "ranks",
                                   (int)g->ranks, "calls", (json_int_t)g->calls);
        if (r->why) {
            json_object_set_new(object, "why", json_string(r->why));
        } else {
            json_object_set_new(object, "rank", skew_json_level(&r->loads));
            json_object_set_new(object, "persists", json_boolean(r->persistent));
            if (s->experts)
                json_object_set_new(object, "expert_bounds",
                                    skew_bounds_json(&r->loads, s->experts));
        }
        json_array_append_new(array, object);
    }
    return array;
}

json_t *skew_router_layers_json(const struct skew_router_shown *s)
{
    if (!s->router)
        return volume_json(s);
    json_t *array = json_array();
    for (size_t i = 0; i < s->router->layers; i++)
        json_array_append_new(array, layer_json(&s->router->layer[i]));
    return array;
}

/* ---- the whole ------------------------------------------------------------------------------- */

static json_t *balance_json(const double *values)
{
    json_t *object = json_object();

    for (int f = 0; f < SKEW_BALANCE_COUNT; f++)
        json_object_set_new(object, skew_balancedness_name((enum skew_balancedness)f),
                            json_pack("{s:o, s:s}", "value", skew_json_real(values[f]), "formula",
                                      skew_balancedness_text((enum skew_balancedness)f)));
    return object;
}

bool skew_router_mixed(const struct skew_router *r)
{
    for (size_t i = 0; i < r->layers; i++)
        if (!r->layer[i].why && r->layer[i].routing->layer < 0)
            return true;
    return false;
}

json_t *skew_router_json(const struct skew_router_shown *s, json_t *layers)
{
    json_t *root =
        skew_json_with_coverage(json_pack("{s:s, s:s, s:f}", "analysis", "router", "from",
                                          s->router ? "counts" : "sizes", "level", s->level),
                                &s->coverage);

    if (s->router) {
        json_object_set_new(root, "beyond_chance", json_boolean(s->router->beyond_chance));
        json_object_set_new(root, "persists", json_boolean(s->router->persistent));
        json_object_set_new(root, "tested", json_boolean(s->router->tested));
        json_object_set_new(root, "layers_mixed", json_boolean(skew_router_mixed(s->router)));
        if (isfinite(s->router->balancedness[0])) {
            json_object_set_new(root, "balancedness", balance_json(s->router->balancedness));
            json_object_set_new(root, "balancedness_call",
                                balance_json(s->router->balancedness_call));
        }
    } else if (s->experts) {
        uint32_t ranks;
        struct skew_estimate e = skew_volume_moment(s->volume, s->experts, s->level, &ranks);
        json_object_set_new(root, "expert_cv_moment", skew_json_estimate(&e));
    }
    json_object_set_new(root, "layers", layers);
    return root;
}
