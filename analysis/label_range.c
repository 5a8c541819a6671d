/* SPDX-License-Identifier: Apache-2.0 */
/*
 * NVTX ranges as evidence: which of them mark a step, a layer, prefill or decode, by what the user
 * says or else by a few plain words, and which of these an exchange or operation was called in. The
 * texts are an application's and are only compared, never believed to be anything else.
 */
#include "label_private.h"

#include <ctype.h>
#include <errno.h>
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

struct skew_rows_range {
    int64_t id, serial;
    uint32_t parent; /* index + 1 */
    bool mark;
    uint8_t is; /* bit set of enum skew_mark_kind */
    int64_t number[SKEW_MARK_KINDS];
};

struct change {
    int64_t process, thread, group;
    uint32_t range; /* index + 1; 0: none */
};

struct skew_rows_ranges {
    struct skew_rows_range *ranges; /* ordered by id */
    size_t count;
    struct change *changes; /* ordered by process, thread, group */
    size_t change_count;
    struct change *marks; /* those that mark something, in the same order, then by serial */
    size_t mark_count;
};

/* ---- words -------------------------------------------------------------------------------------
 */

/* The number that follows at `text`, at most three signs later; −1: none does. */
static int64_t number_after(const char *text)
{
    int64_t number = 0;
    int digits = 0;

    for (int signs = 0; signs < 3 && *text && strchr(" \t:#=_.-[(/", *text); signs++)
        text++;
    for (; isdigit((unsigned char)text[digits]); digits++) {
        if (digits == 18)
            return -1;
        number = number * 10 + (text[digits] - '0');
    }
    return digits ? number : -1;
}

/* The number directly behind one of the words, each at the beginning of a word; −1. */
static int64_t number_of_words(const char *text, const char *const words[])
{
    for (const char *at = text; *at; at++) {
        if (at > text && isalpha((unsigned char)at[-1]))
            continue;
        for (size_t i = 0; words[i]; i++) {
            size_t length = strlen(words[i]);
            int64_t number =
                strncasecmp(at, words[i], length) == 0 ? number_after(at + length) : -1;
            if (number >= 0)
                return number;
        }
    }
    return -1;
}

static bool has_word(const char *text, const char *word)
{
    size_t length = strlen(word);

    for (const char *at = text; *at; at++)
        if ((at == text || !isalpha((unsigned char)at[-1])) && strncasecmp(at, word, length) == 0 &&
            !isalpha((unsigned char)at[length]))
            return true;
    return false;
}

/* Whether `text` is what the user named: it begins so, or a pattern with * says so. *number: the
 * first one behind what was named. */
static bool named(const char *marker, const char *text, int64_t *number)
{
    const char *rest = text, *star = strchr(marker, '*');
    size_t fixed = star ? (size_t)(star - marker) : strlen(marker);

    if (star ? fnmatch(marker, text, FNM_NOESCAPE) != 0 : strncmp(text, marker, fixed) != 0)
        return false;
    rest += fixed;
    while (*rest && !isdigit((unsigned char)*rest))
        rest++;
    *number = number_after(rest);
    return true;
}

static void classify(struct skew_rows_range *r, const char *text,
                     const struct skew_label_options *options)
{
    static const char *const steps[] = {"step", "iteration", "iter", NULL};
    static const char *const layers[] = {"layer", "layers", NULL};
    static const char *const microbatches[] = {"micro-batch", "microbatch", "micro_batch", NULL};
    const char *const markers[SKEW_MARK_KINDS] = {
        [SKEW_MARK_STEP] = options->step_marker,
        [SKEW_MARK_LAYER] = options->layer_marker,
        [SKEW_MARK_PREFILL] = options->prefill_marker,
        [SKEW_MARK_DECODE] = options->decode_marker,
    };

    for (int k = 0; k < SKEW_MARK_KINDS; k++) {
        r->number[k] = -1;
        if (markers[k] && named(markers[k], text, &r->number[k]))
            r->is |= (uint8_t)(1u << k);
        if (markers[k])
            continue;
        bool plain = false; /* only what nobody can mean otherwise */
        if (k == SKEW_MARK_STEP)
            plain = (r->number[k] = number_of_words(text, steps)) >= 0;
        else if (k == SKEW_MARK_LAYER && !r->mark)
            plain = (r->number[k] = number_of_words(text, layers)) >= 0;
        else if (k == SKEW_MARK_MICROBATCH && !r->mark)
            plain = (r->number[k] = number_of_words(text, microbatches)) >= 0;
        else if (k == SKEW_MARK_PREFILL)
            plain = has_word(text, "prefill") && !has_word(text, "decode");
        else if (k == SKEW_MARK_DECODE)
            plain = has_word(text, "decode") && !has_word(text, "prefill");
        if (plain)
            r->is |= (uint8_t)(1u << k);
    }
}

/* ---- loading -----------------------------------------------------------------------------------
 */

static uint32_t index_of(const struct skew_rows_ranges *r, int64_t id)
{
    size_t low = 0, high = r->count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (r->ranges[middle].id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low < r->count && r->ranges[low].id == id ? (uint32_t)low + 1 : 0;
}

/* Grows an array by one item of `size` bytes, zeroed; NULL: no memory. */
static void *one_more(void **items, size_t *count, size_t size)
{
    if ((*count & (*count - 1)) == 0) {
        void *more = realloc(*items, (*count ? *count * 2 : 1) * size);
        if (!more)
            return NULL;
        *items = more;
    }
    return memset((char *)*items + (*count)++ * size, 0, size);
}

static int take_range(struct skew_rows_ranges *r, sqlite3_stmt *s,
                      const struct skew_label_options *options)
{
    struct skew_rows_range *range = one_more((void **)&r->ranges, &r->count, sizeof *range);
    const char *text = (const char *)sqlite3_column_text(s, 3);

    if (!range)
        return -ENOMEM;
    range->id = sqlite3_column_int64(s, 0);
    range->serial = sqlite3_column_int64(s, 1);
    int64_t parent = sqlite3_column_int64(s, 2);
    range->parent = parent < range->id ? index_of(r, parent) : 0; /* no circles */
    range->mark = sqlite3_column_int(s, 4);
    classify(range, text ? text : "", options);
    if (!range->mark || !range->is)
        return 0;
    struct change *mark = one_more((void **)&r->marks, &r->mark_count, sizeof *mark);
    if (!mark)
        return -ENOMEM;
    *mark = (struct change){sqlite3_column_int64(s, 5), sqlite3_column_int64(s, 6),
                            sqlite3_column_int64(s, 7), (uint32_t)r->count};
    return 0;
}

static int take_change(struct skew_rows_ranges *r, sqlite3_stmt *s,
                       const struct skew_label_options *options)
{
    struct change *c = one_more((void **)&r->changes, &r->change_count, sizeof *c);

    (void)options;
    if (!c)
        return -ENOMEM;
    *c = (struct change){sqlite3_column_int64(s, 0), sqlite3_column_int64(s, 1),
                         sqlite3_column_int64(s, 2), index_of(r, sqlite3_column_int64(s, 3))};
    return 0;
}

typedef int take_row(struct skew_rows_ranges *r, sqlite3_stmt *s,
                     const struct skew_label_options *options);

static int read_rows(struct skew_rows *rows, const char *sql, take_row *take,
                     const struct skew_label_options *options, struct skew_error *error)
{
    sqlite3_stmt *s;
    int step = SQLITE_DONE, result = skew_sql_prepare(rows->trace, &s, sql, error);

    while (result == 0 && (step = sqlite3_step(s)) == SQLITE_ROW)
        result = take(rows->ranges, s, options);
    if (result == -ENOMEM)
        skew_error_set(error, "%s: out of memory", skew_trace_path(rows->trace));
    else if (result == 0 && step != SQLITE_DONE)
        result = skew_trace_sql_error(rows->trace, error);
    sqlite3_finalize(s);
    return result;
}

static int by_place(const void *a, const void *b)
{
    const struct change *x = a, *y = b;

#define COMPARE(what)                                                                              \
    if (x->what != y->what)                                                                        \
        return x->what < y->what ? -1 : 1;
    COMPARE(process)
    COMPARE(thread)
    COMPARE(group)
    COMPARE(range)
#undef COMPARE
    return 0;
}

int skew_rows_load_ranges(struct skew_rows *rows, const struct skew_label_options *options,
                          struct skew_error *error)
{
    if (!skew_trace_has(rows->trace, "nvtx_change", "range_id"))
        return 0; /* a trace of before there were any */
    rows->ranges = calloc(1, sizeof *rows->ranges);
    if (!rows->ranges) {
        skew_error_set(error, "%s: out of memory", skew_trace_path(rows->trace));
        return -ENOMEM;
    }
    int result = read_rows(rows,
                           "SELECT range_id, serial, parent_id, text, kind = 'mark', process_id,"
                           " thread, from_group FROM nvtx_range ORDER BY range_id",
                           take_range, options, error);
    if (result == 0)
        result = read_rows(rows,
                           "SELECT process_id, thread, from_group, range_id FROM nvtx_change"
                           " ORDER BY process_id, thread, from_group",
                           take_change, options, error);
    for (int k = 0; k < SKEW_MARK_KINDS; k++) {
        rows->least[k] = INT64_MAX;
        for (size_t i = 0; i < rows->ranges->count; i++) {
            const struct skew_rows_range *r = &rows->ranges->ranges[i];
            if ((r->is >> k & 1) && r->number[k] >= 0 && r->number[k] < rows->least[k])
                rows->least[k] = r->number[k];
        }
    }
    if (rows->ranges->mark_count)
        qsort(rows->ranges->marks, rows->ranges->mark_count, sizeof *rows->ranges->marks, by_place);
    return result;
}

void skew_rows_free_ranges(struct skew_rows *rows)
{
    if (rows->ranges) {
        free(rows->ranges->ranges);
        free(rows->ranges->changes);
        free(rows->ranges->marks);
    }
    free(rows->ranges);
    rows->ranges = NULL;
}

/* ---- looking up --------------------------------------------------------------------------------
 */

/* The place behind the last entry of this thread that is not after `group`. */
static size_t not_after(const struct change *list, size_t count, const struct change *place)
{
    size_t low = 0, high = count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        struct change at = list[middle];
        at.range = 0;
        if (by_place(&at, place) <= 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool same_thread(const struct change *a, const struct change *b)
{
    return a->process == b->process && a->thread == b->thread;
}

bool skew_rows_marked(const struct skew_rows *rows, int64_t process, int64_t thread, int64_t group,
                      enum skew_mark_kind kind, struct skew_mark *mark)
{
    const struct skew_rows_ranges *r = rows->ranges;
    const struct change place = {process, thread, group, 0};
    const struct skew_rows_range *found = NULL;

    if (!r)
        return false;
    size_t at = not_after(r->changes, r->change_count, &place);
    uint32_t i = at && same_thread(&r->changes[at - 1], &place) ? r->changes[at - 1].range : 0;
    for (; i; i = r->ranges[i - 1].parent) {
        if (!(r->ranges[i - 1].is >> kind & 1))
            continue;
        found = &r->ranges[i - 1];
        if (kind != SKEW_MARK_STEP) /* of steps the outermost: what lies in it is a part of it */
            break;
    }
    for (at = not_after(r->marks, r->mark_count, &place); !found && at; at--) {
        if (!same_thread(&r->marks[at - 1], &place))
            break;
        if (r->ranges[r->marks[at - 1].range - 1].is >> kind & 1)
            found = &r->ranges[r->marks[at - 1].range - 1];
    }
    if (!found)
        return false;
    *mark = (struct skew_mark){found->serial, found->number[kind]};
    return true;
}

bool skew_rows_any_marked(const struct skew_rows *rows, enum skew_mark_kind kind, bool numbered)
{
    for (size_t i = 0; rows->ranges && i < rows->ranges->count; i++)
        if ((rows->ranges->ranges[i].is >> kind & 1) &&
            (!numbered || rows->ranges->ranges[i].number[kind] >= 0))
            return true;
    return false;
}
