/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Placements in the forms that serving frameworks load. The forms were read from their sources
 * (docs/placement.md names them); layers that the trace does not have are filled with the trivial
 * placement, since the frameworks want one for every layer of the model.
 */
#include "whatif_placement.h"
#include "term.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const skew_wp_formats[] = {"sglang", "eplb", "vllm", "trtllm", "csv", NULL};

struct placed {
    size_t layers;              /* of the model */
    struct skew_placement **of; /* [layers]; NULL: not in the trace */
    double **load;              /* [layers][experts], borrowed below */
    uint32_t experts, ranks, slots;
};

static json_t *integers(const uint32_t *values, size_t count)
{
    json_t *all = json_array();

    for (size_t i = 0; i < count; i++)
        json_array_append_new(all, json_integer(values[i]));
    return all;
}

/* Expert of a slot, also in layers that have no placement. */
static uint32_t expert_at(const struct placed *p, size_t layer, uint32_t slot)
{
    return p->of[layer] ? p->of[layer]->expert[slot] : slot % p->experts;
}

static json_t *slots_json(const struct placed *p, size_t layer, uint32_t from, uint32_t count)
{
    json_t *all = json_array();

    for (uint32_t s = from; s < from + count; s++)
        json_array_append_new(all, json_integer(expert_at(p, layer, s)));
    return all;
}

static json_t *physical_to_logical(const struct placed *p)
{
    json_t *all = json_array();

    for (size_t l = 0; l < p->layers; l++)
        json_array_append_new(all, slots_json(p, l, 0, p->slots));
    return all;
}

/* What eplb.rebalance_experts() takes and returns: weight, phy2log, log2phy (padded by −1), logcnt.
 */
static json_t *eplb(const struct placed *p)
{
    json_t *weight = json_array(), *log2phy = json_array(), *logcnt = json_array();

    for (size_t l = 0; l < p->layers; l++) {
        uint32_t most = 1;
        json_t *loads = json_array(), *copies = json_array(), *places = json_array();
        for (int pass = 0; pass < 2; pass++)
            for (uint32_t e = 0; e < p->experts; e++) {
                json_t *mine = json_array();
                uint32_t count = 0;
                for (uint32_t s = 0; s < p->slots; s++)
                    if (expert_at(p, l, s) == e) {
                        json_array_append_new(mine, json_integer(s));
                        count++;
                    }
                most = count > most ? count : most;
                for (uint32_t i = count; pass && i < most; i++)
                    json_array_append_new(mine, json_integer(-1));
                if (pass) {
                    json_array_append(places, mine);
                    json_array_append_new(copies, json_integer(count));
                    json_array_append_new(
                        loads, json_integer((json_int_t)(p->load[l] ? p->load[l][e] : 0)));
                }
                json_decref(mine);
            }
        json_array_append_new(weight, loads);
        json_array_append_new(log2phy, places);
        json_array_append_new(logcnt, copies);
    }
    return json_pack("{s:o, s:o, s:o, s:o, s:i, s:i}", "weight", weight, "phy2log",
                     physical_to_logical(p), "log2phy", log2phy, "logcnt", logcnt, "num_replicas",
                     (int)p->slots, "num_gpus", (int)p->ranks);
}

/* vllm-ascend's expert_map_path. */
static json_t *vllm(const struct placed *p)
{
    json_t *layers = json_array();
    uint32_t each = p->slots / p->ranks;

    for (size_t l = 0; l < p->layers; l++) {
        json_t *devices = json_array();
        for (uint32_t r = 0; r < p->ranks; r++)
            json_array_append_new(devices,
                                  json_pack("{s:i, s:o}", "device_id", (int)r, "device_expert",
                                            slots_json(p, l, r * each, each)));
        json_array_append_new(layers,
                              json_pack("{s:I, s:i, s:o}", "layer_id", (json_int_t)l,
                                        "device_count", (int)p->ranks, "device_list", devices));
    }
    return json_pack("{s:I, s:o}", "moe_layer_count", (json_int_t)p->layers, "layer_list", layers);
}

/* moe_load_balancer of TensorRT-LLM, whose YAML JSON is a subset of; only layers that are known. */
static json_t *trtllm(const struct placed *p)
{
    json_t *layers = json_object();

    for (size_t l = 0; l < p->layers; l++) {
        char name[24];
        snprintf(name, sizeof name, "%zu", l);
        if (p->of[l])
            json_object_set_new(layers, name, integers(p->of[l]->expert, p->slots));
    }
    return json_pack("{s:i, s:o, s:i}", "num_slots", (int)p->slots, "initial_global_assignments",
                     layers, "layer_updates_per_iter", 0);
}

static int write_csv(const struct placed *p, FILE *out)
{
    fputs("layer,slot,rank,expert\n", out);
    for (size_t l = 0; l < p->layers; l++)
        for (uint32_t s = 0; s < p->slots && p->of[l]; s++)
            fprintf(out, "%zu,%u,%u,%u\n", l, s, s / (p->slots / p->ranks), p->of[l]->expert[s]);
    return 0;
}

/* ---- which placement --------------------------------------------------------------------------
 */

/* The one fitted method that was asked for. */
static int choose(const struct skew_wp *wp, enum skew_placement_method *method)
{
    int count = 0;

    for (int m = 0; m < SKEW_PLACE_COUNT; m++)
        if (wp->methods[m] && skew_wp_fitted(m)) {
            *method = m;
            count++;
        }
    if (count == 1)
        return 0;
    *method = wp->fit.redundant    ? (wp->fit.groups > 1 ? SKEW_PLACE_EPLB_GROUPS : SKEW_PLACE_EPLB)
              : wp->fit.groups > 1 ? SKEW_PLACE_LPT_GROUPS
                                   : SKEW_PLACE_LPT;
    skew_tell("--write: the placement is that of %s; choose another with --methods NAME",
              skew_placement_method_name(*method));
    return 0;
}

static int place(const struct skew_wp *wp, const struct skew_wp_trace *t,
                 enum skew_placement_method method, uint32_t ranks, struct placed *p)
{
    int64_t last = -1;

    for (size_t l = 0; l < t->layers; l++)
        last = t->layer[l].layer > last ? t->layer[l].layer : last;
    p->layers = (size_t)(wp->first_layer + last + 1);
    if (wp->model_layers) {
        if ((size_t)wp->model_layers < p->layers) {
            skew_tell("--model-layers %lld: the trace has layer %zu", (long long)wp->model_layers,
                      p->layers - 1);
            return -EINVAL;
        }
        p->layers = (size_t)wp->model_layers;
    }
    p->of = calloc(p->layers, sizeof *p->of);
    p->load = calloc(p->layers, sizeof *p->load);
    if (last < 0 || !p->of || !p->load) {
        skew_tell(last < 0 ? "%s: the layers of its routing have no numbers" : "%s: out of memory",
                  t->path);
        return last < 0 ? -EINVAL : -ENOMEM;
    }
    for (size_t l = 0; l < t->layers; l++) {
        const struct skew_wp_layer *one = &t->layer[l];
        struct skew_fit_options o = skew_wp_fit(wp, one, ranks);
        size_t at = (size_t)(wp->first_layer + one->layer);
        if (one->layer < 0 || one->calls.calls == 0 || p->of[at])
            continue;
        int result = skew_placement_fit(&p->of[at], method, &one->calls, &o);
        p->load[at] = calloc(one->calls.experts, sizeof **p->load);
        if (result < 0 || !p->load[at] || (p->experts && p->experts != one->calls.experts)) {
            skew_tell("%s: layer %lld: no placement by %s on %u ranks: %s", t->path,
                      (long long)one->layer, skew_placement_method_name(method), ranks,
                      result == -ENODATA ? "it needs groups, or domains and source ranks"
                      : result < 0       ? "the numbers do not divide each other"
                                         : "the layers differ in their experts");
            return -EINVAL;
        }
        skew_calls_sum(&one->calls, p->load[at]);
        p->experts = one->calls.experts;
        p->slots = p->of[at]->slots;
    }
    p->ranks = ranks;
    return 0;
}

static int dump(const struct skew_wp *wp, const struct placed *p)
{
    FILE *out = fopen(wp->write_file, "we");
    json_t *all = NULL;

    if (!out) {
        int result = -errno;
        skew_tell("%s: cannot be written: %s", wp->write_file, strerror(errno));
        return result;
    }
    if (strcmp(wp->write_format, "sglang") == 0)
        all = json_pack("{s:o}", "physical_to_logical_map", physical_to_logical(p));
    else if (strcmp(wp->write_format, "eplb") == 0)
        all = eplb(p);
    else if (strcmp(wp->write_format, "vllm") == 0)
        all = vllm(p);
    else if (strcmp(wp->write_format, "trtllm") == 0)
        all = trtllm(p);
    else
        write_csv(p, out);
    if (all)
        json_dumpf(all, out, JSON_COMPACT);
    if (all)
        fputc('\n', out);
    json_decref(all);
    bool bad = ferror(out);
    if (fclose(out) != 0 || bad) {
        skew_tell("%s: cannot be written", wp->write_file);
        return -EIO;
    }
    return 0;
}

int skew_wp_write(const struct skew_wp *wp, uint32_t ranks)
{
    enum skew_placement_method method = SKEW_PLACE_LPT;
    const struct skew_wp_trace *t = wp->trace;
    struct placed p = {0};

    for (size_t i = wp->traces; i-- > 0;)
        if (wp->trace[i].train)
            t = &wp->trace[i];
    int result = choose(wp, &method);
    if (result == 0)
        result = place(wp, t, method, ranks, &p);
    if (result == 0)
        result = dump(wp, &p);
    for (size_t l = 0; l < p.layers && p.of && p.load; l++) {
        skew_placement_free(&p.of[l]);
        free(p.load[l]);
    }
    free(p.of);
    free(p.load);
    return result;
}
