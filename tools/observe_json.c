/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `skewscope observe` as JSON and CSV, and what the data cannot test. Keys: docs/observe.md.
 */
#include "observe_output.h"
#include "term.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

const char *skew_observe_side_name(int side)
{
    return side == SKEW_OBSERVE_EXPERT ? "expert" : "rank";
}

const char *skew_observe_kind_name(enum skew_observe_kind kind)
{
    static const char *const names[] = {"ep", "mock", "batch"};
    return names[kind];
}

char *skew_cell_text(char text[SKEW_CELL_TEXT], const struct skew_observe *o,
                     const struct skew_observe_cell *c)
{
    size_t at = 0;

    *text = '\0';
    for (size_t k = 0; k < o->keys && at < SKEW_CELL_TEXT - 1; k++)
        at += (size_t)snprintf(text + at, SKEW_CELL_TEXT - at, "%s%s", k ? "/" : "",
                               *c->value[k] ? c->value[k] : "-");
    skew_term_clean(text);
    return text;
}

/* ---- what cannot be tested ------------------------------------------------------------------- */

static json_t *labels_json(const struct skew_observe *o, char *const *value)
{
    json_t *object = json_object();

    for (size_t k = 0; k < o->keys; k++)
        json_object_set_new(object, o->key[k],
                            *value[k] ? json_stringn(value[k], strlen(value[k])) : json_null());
    return object;
}

static void say(json_t *limits, size_t count, const char *format)
{
    if (count)
        json_array_append_new(limits, json_sprintf(format, count));
}

bool skew_observe_mixed(const struct skew_observe *o, const struct skew_observe_cell *c)
{
    for (size_t i = 0; i < o->runs; i++)
        if (o->run[i].counted && o->run[i].unlayered && &o->cell[o->run[i].cell] == c)
            return true;
    return false;
}

json_t *skew_observe_warnings(const struct skew_observe *o)
{
    json_t *warnings = json_array();
    size_t mixed = 0, assumed = 0;

    for (size_t i = 0; i < o->cells; i++)
        mixed += o->cell[i].usable && skew_observe_mixed(o, &o->cell[i]);
    for (size_t i = 0; i < o->cells; i++)
        assumed += o->cell[i].usable && o->run[o->cell[i].first].topk_assumed;
    say(warnings, mixed,
        "%zu cells mix layers, since which layer a call is of could not be told: their means and "
        "what persists are of one mixed layer, not means over layers (skewscope label says why; "
        "--layers tells)");
    say(warnings, assumed,
        "%zu cells do not say top-k (--topk, or label topk): their tokens and chance are those of "
        "k = 1, the most it can be for as many copies of tokens");
    return warnings;
}

json_t *skew_observe_limits(const struct skew_observe *o)
{
    json_t *limits = json_array();
    size_t single = 0, one = 0, few = 0, none = 0, chance = 0, requests = 0, unaligned = 0;
    size_t pairs = 0, twice = 0;

    for (size_t i = 0; i < o->cells; i++) {
        const struct skew_observe_cell *c = &o->cell[i];
        const struct skew_observe_run *r = &o->run[c->first];
        if (!c->usable) {
            none += c->runs > 0;
            continue;
        }
        const struct skew_estimate *e = &c->side[0].metric[SKEW_METRIC_GINI].observed;
        single += c->usable == 1;
        one += r->rows == 1;
        few += r->rows > 1 && !isfinite(e->low);
        chance += isnan(c->side[0].metric[SKEW_METRIC_GINI].chance);
        requests += r->rows > 1;
        unaligned += !r->aligned;
    }
    for (size_t i = 0; i < o->changes; i++)
        pairs += !o->cell[o->change[i].from].between_runs || !o->cell[o->change[i].to].between_runs;
    say(limits, o->missing, "%zu cells of the grid are missing: nothing is said of them");
    for (size_t i = 0; i < o->runs; i++)
        twice += !o->run[i].counted && !o->run[i].derived && !o->run[i].why;
    say(limits, twice,
        "%zu traces hold the same tokens as another of their cell: no second run, left out");
    say(limits, none, "%zu cells have traces without per-expert counts");
    say(limits, single,
        "%zu cells have one run: within-run only; their intervals do not cover another run, seed "
        "or set of requests");
    say(limits, one,
        "%zu cells have one call (counts without token order): no interval, no test of what "
        "persists, no band, no batch sizes");
    say(limits, few, "%zu cells have calls, but fewer than 20 independent ones: no interval");
    say(limits, chance, "of %zu cells chance is not known: top-k is not (--topk)");
    say(limits, unaligned,
        "%zu cells have layers with different calls: intervals of their means are upper bounds");
    say(limits, requests,
        "%zu cells have series in time: tokens of one request go together for longer than these "
        "show, so where few requests run throughout, intervals are of these requests only");
    if (pairs)
        json_array_append_new(
            limits, json_string("comparisons with one run an arm (n = 1) show a difference between "
                                "these runs, not that its cause is the label"));
    return limits;
}

/* ---- JSON ------------------------------------------------------------------------------------ */

static json_t *side_json(const struct skew_observe_side *s)
{
    json_t *object = json_pack("{s:i}", "items", (int)s->items);

    for (int m = 0; m < SKEW_METRIC_COUNT; m++)
        json_object_set_new(object, skew_metric_name((enum skew_metric)m),
                            json_pack("{s:o, s:o, s:o, s:o}", "observed",
                                      skew_json_estimate(&s->metric[m].observed), "chance",
                                      skew_json_real(s->metric[m].chance), "chance_p95",
                                      skew_json_real(s->metric[m].chance_p95), "persistent",
                                      skew_json_estimate(&s->metric[m].persistent)));
    json_object_set_new(object, "cv2",
                        json_pack("{s:o, s:o, s:o, s:o}", "observed", skew_json_real(s->cv2_call),
                                  "chance", skew_json_real(s->cv2_chance), "beyond",
                                  skew_json_estimate(&s->cv2_beyond), "persistent",
                                  skew_json_estimate(&s->cv2_persistent)));
    return object;
}

static void put_numbers(json_t *object, const struct skew_observe_cell *c)
{
    json_object_set_new(object, "tokens_call", skew_json_real(c->tokens));
    for (int side = 0; side < SKEW_OBSERVE_SIDES; side++)
        if (c->side[side].items)
            json_object_set_new(object, skew_observe_side_name(side), side_json(&c->side[side]));
    json_object_set_new(object, "p_beyond_adjusted", skew_json_real(c->p_beyond));
    json_object_set_new(object, "p_persistent_adjusted", skew_json_real(c->p_persistent));
    json_object_set_new(object, "beyond_chance", json_boolean(c->beyond_chance));
    json_object_set_new(object, "persists", json_boolean(c->persists));
}

static json_t *cell_json(const struct skew_observe *o, const struct skew_observe_cell *c)
{
    char name[SKEW_CELL_TEXT];
    const struct skew_observe_run *r = &o->run[c->first];
    json_t *object = json_pack("{s:s, s:o, s:I, s:I}", "cell", skew_cell_text(name, o, c), "labels",
                               labels_json(o, (char *const *)c->value), "runs", (json_int_t)c->runs,
                               "runs_usable", (json_int_t)c->usable);

    if (!c->usable) {
        json_object_set_new(object, "why", json_string(c->why));
        return object;
    }
    json_object_set_new(object, "intervals",
                        json_string(c->between_runs ? "between runs" : "within run"));
    json_object_set_new(object, "derived", json_boolean(r->derived));
    json_object_set_new(object, "layers", json_integer((json_int_t)r->layers));
    json_object_set_new(object, "layers_mixed", json_boolean(skew_observe_mixed(o, c)));
    json_object_set_new(object, "experts", json_integer(r->experts));
    json_object_set_new(object, "topk", r->topk ? json_integer(r->topk) : json_null());
    json_object_set_new(object, "ranks", r->ranks ? json_integer(r->ranks) : json_null());
    json_object_set_new(object, "calls", json_integer((json_int_t)r->rows));
    put_numbers(object, c);
    json_object_set_new(object, "band",
                        c->band ? json_string(skew_observe_band_name(c->band)) : json_null());
    if (c->band_why)
        json_object_set_new(object, "band_why", json_string(c->band_why));
    return object;
}

static void put_change(json_t *object, const struct skew_observe_change *c)
{
    json_object_set_new(object, "ratio", skew_json_estimate(&c->ratio));
    json_object_set_new(object, "chance_ratio", skew_json_real(c->chance_ratio));
    json_object_set_new(object, "persistent_ratio", skew_json_estimate(&c->persistent_ratio));
    if (c->kind == SKEW_OBSERVE_EP)
        json_object_set_new(object, "p_equivalent_adjusted", skew_json_real(c->p_adjusted));
    if (c->kind != SKEW_OBSERVE_BATCH)
        return;
    json_object_set_new(object, "exponent", skew_json_estimate(&c->exponent));
    json_object_set_new(object, "chance_exponent", skew_json_real(c->chance_exponent));
    json_object_set_new(object, "cv2_change", skew_json_estimate(&c->cv2_change));
    json_object_set_new(object, "cv2_beyond_change", skew_json_estimate(&c->beyond_change));
    json_object_set_new(object, "cv2_persistent_change", skew_json_estimate(&c->persistent_change));
}

static json_t *change_json(const struct skew_observe *o, const struct skew_observe_change *c)
{
    char from[SKEW_CELL_TEXT], to[SKEW_CELL_TEXT];
    const struct skew_observe_cell *a = &o->cell[c->from], *b = &o->cell[c->to];
    json_t *object =
        json_pack("{s:s, s:s, s:s, s:s, s:s, s:o, s:o, s:o, s:o, s:b, s:s}", "kind",
                  skew_observe_kind_name(c->kind), "from", skew_cell_text(from, o, a), "to",
                  skew_cell_text(to, o, b), "side", skew_observe_side_name(c->side), "metric",
                  skew_metric_name(c->metric), "from_tokens_call", skew_json_real(a->tokens),
                  "to_tokens_call", skew_json_real(b->tokens), "from_observed",
                  skew_json_real(a->side[c->side].metric[c->metric].observed.value), "to_observed",
                  skew_json_real(b->side[c->side].metric[c->metric].observed.value), "same_tokens",
                  c->same_tokens, "verdict", skew_observe_verdict_name(c->verdict));

    put_change(object, c);
    if (c->why)
        json_object_set_new(object, "why", json_string(c->why));
    return object;
}

json_t *skew_observe_json(const struct skew_observe *o)
{
    json_t *root =
        json_pack("{s:s, s:f, s:f, s:[f, f]}", "analysis", "observe", "level", o->options.level,
                  "margin", o->options.margin, "bands", o->options.bands[0], o->options.bands[1]);
    json_t *keys = json_array(), *runs = json_array(), *cells = json_array();
    json_t *changes = json_array();

    for (size_t k = 0; k < o->keys; k++)
        json_array_append_new(keys, json_string(o->key[k]));
    for (size_t i = 0; i < o->runs; i++) {
        const struct skew_observe_run *r = &o->run[i];
        json_t *run =
            json_pack("{s:s, s:o, s:b, s:b}", "trace", r->name, "labels", labels_json(o, r->value),
                      "derived", r->derived, "counted", r->counted);
        if (r->why)
            json_object_set_new(run, "why", json_string(r->why));
        else {
            json_object_set_new(run, "layers_beyond_chance",
                                json_integer((json_int_t)r->layers_beyond));
            json_object_set_new(run, "layers_persistent",
                                json_integer((json_int_t)r->layers_persistent));
            json_object_set_new(run, "layers_untested",
                                json_integer((json_int_t)r->layers_untested));
        }
        json_array_append_new(runs, run);
    }
    for (size_t i = 0; i < o->cells; i++)
        json_array_append_new(cells, cell_json(o, &o->cell[i]));
    for (size_t i = 0; i < o->changes; i++)
        json_array_append_new(changes, change_json(o, &o->change[i]));
    json_object_set_new(root, "warnings", skew_observe_warnings(o));
    json_object_set_new(root, "by", keys);
    json_object_set_new(root, "runs", runs);
    json_object_set_new(root, "missing", json_integer((json_int_t)o->missing));
    json_object_set_new(root, "cells", cells);
    json_object_set_new(root, "changes", changes);
    json_object_set_new(root, "cannot_be_tested", skew_observe_limits(o));
    return root;
}

json_t *skew_observe_metrics(const struct skew_observe *o)
{
    json_t *root = json_object(), *array = json_array();
    char from[SKEW_CELL_TEXT], to[SKEW_CELL_TEXT];

    for (size_t i = 0; i < o->cells; i++) {
        json_t *object = json_object();
        if (o->cell[i].usable)
            put_numbers(object, &o->cell[i]);
        json_object_set_new(root, skew_cell_text(from, o, &o->cell[i]), object);
    }
    for (size_t i = 0; i < o->changes; i++) {
        const struct skew_observe_change *c = &o->change[i];
        json_t *object = json_object(), *name;
        put_change(object, c);
        name = json_sprintf("%s > %s %s.%s", skew_cell_text(from, o, &o->cell[c->from]),
                            skew_cell_text(to, o, &o->cell[c->to]), skew_observe_side_name(c->side),
                            skew_metric_name(c->metric));
        json_object_set_new(root, json_string_value(name), object);
        json_decref(name);
    }
    json_array_append_new(array, root);
    return array;
}

/* ---- CSV ------------------------------------------------------------------------------------- */

static void csv_text(const char *text)
{
    bool quote = strpbrk(text, ",\"\n\r") != NULL;

    if (quote)
        putchar('"');
    for (const char *p = text; *p; p++) {
        if (*p == '"')
            putchar('"');
        putchar(*p);
    }
    if (quote)
        putchar('"');
}

static void csv_real(double value)
{
    if (isfinite(value))
        printf(",%.9g", value);
    else
        printf(",");
}

static void csv_estimate(const struct skew_estimate *e)
{
    csv_real(e->value);
    csv_real(e->low);
    csv_real(e->high);
}

void skew_observe_csv_changes(const struct skew_observe *o)
{
    char name[SKEW_CELL_TEXT];

    printf("kind,from,to,side,metric,same_tokens,from_tokens_call,to_tokens_call,from_observed,"
           "to_observed,ratio,ratio_low,ratio_high,chance_ratio,persistent_ratio,"
           "persistent_ratio_low,persistent_ratio_high,p_equivalent_adjusted,exponent,exponent_low,"
           "exponent_high,chance_exponent,cv2_change,cv2_change_low,cv2_change_high,"
           "cv2_beyond_change,cv2_beyond_change_low,cv2_beyond_change_high,verdict,why\n");
    for (size_t i = 0; i < o->changes; i++) {
        const struct skew_observe_change *c = &o->change[i];
        const struct skew_observe_cell *a = &o->cell[c->from], *b = &o->cell[c->to];
        printf("%s,", skew_observe_kind_name(c->kind));
        csv_text(skew_cell_text(name, o, a));
        putchar(',');
        csv_text(skew_cell_text(name, o, b));
        printf(",%s,%s,%d", skew_observe_side_name(c->side), skew_metric_name(c->metric),
               c->same_tokens);
        csv_real(a->tokens);
        csv_real(b->tokens);
        csv_real(a->side[c->side].metric[c->metric].observed.value);
        csv_real(b->side[c->side].metric[c->metric].observed.value);
        csv_estimate(&c->ratio);
        csv_real(c->chance_ratio);
        csv_estimate(&c->persistent_ratio);
        csv_real(c->kind == SKEW_OBSERVE_EP ? c->p_adjusted : NAN);
        if (c->kind == SKEW_OBSERVE_BATCH) {
            csv_estimate(&c->exponent);
            csv_real(c->chance_exponent);
            csv_estimate(&c->cv2_change);
            csv_estimate(&c->beyond_change);
        } else {
            printf(",,,,,,,,,,");
        }
        printf(",%s,", skew_observe_verdict_name(c->verdict));
        csv_text(c->why ? c->why : "");
        putchar('\n');
    }
}

static void csv_line(const struct skew_observe *o, const struct skew_observe_cell *c, int side,
                     enum skew_metric metric)
{
    const struct skew_observe_run *r = &o->run[c->first];
    const struct skew_observe_metric *m = &c->side[side].metric[metric];

    for (size_t k = 0; k < o->keys; k++) {
        csv_text(c->value[k]);
        putchar(',');
    }
    if (!c->usable) {
        printf("%zu,0,,,,,,,,,,,,,,,", c->runs);
        csv_text(c->why);
        putchar('\n');
        return;
    }
    printf("%zu,%zu,%s,%s,%s,%zu", c->runs, c->usable,
           c->between_runs ? "between runs" : "within run", skew_observe_side_name(side),
           skew_metric_name(metric), r->rows);
    csv_real(c->tokens);
    csv_real(m->observed.value);
    csv_real(m->observed.low);
    csv_real(m->observed.high);
    csv_real(m->observed.effective);
    csv_real(m->chance);
    csv_real(m->chance_p95);
    csv_real(m->persistent.value);
    csv_real(m->persistent.low);
    csv_real(m->persistent.high);
    bool banded = side == SKEW_OBSERVE_EXPERT && metric == SKEW_METRIC_GINI;
    printf(",%s,", banded ? skew_observe_band_name(c->band) : "");
    csv_text(m->observed.why ? m->observed.why : "");
    putchar('\n');
}

void skew_observe_csv(const struct skew_observe *o)
{
    for (size_t k = 0; k < o->keys; k++) {
        csv_text(o->key[k]);
        putchar(',');
    }
    printf("runs,runs_usable,intervals,side,metric,calls,tokens_call,observed,low,high,effective_n,"
           "chance,chance_p95,persistent,persistent_low,persistent_high,band,why\n");
    for (size_t i = 0; i < o->cells; i++) {
        const struct skew_observe_cell *c = &o->cell[i];
        if (!c->usable)
            csv_line(o, c, 0, SKEW_METRIC_GINI);
        for (int side = 0; side < SKEW_OBSERVE_SIDES; side++)
            for (int m = 0; m < SKEW_METRIC_COUNT && c->usable && c->side[side].items; m++)
                csv_line(o, c, side, (enum skew_metric)m);
    }
}
