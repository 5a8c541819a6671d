/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Megatron-core's --moe-routing-trace-path: one JSON object a line, one file a rank, with step,
 * block, layer, rank, num_tokens, topk and top_indices [tokens][topk]
 * (megatron/core/transformer/moe/router_trace.py). Its "stage" is the place in the router, not
 * prefill or decode.
 */
#include "import.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../term.h"

/* Layers of multi-token prediction are numbered from here, 100 a prediction depth. */
enum { MTP_LAYER = 10000 };

struct line {
    struct skew_import *import;
    const char *file;
    size_t number;
};

static int bad(const struct line *l, const char *what)
{
    skew_tell("%s, line %zu: %s; each line of a Megatron routing trace is an object with step, "
              "layer, rank and top_indices",
              l->file, l->number, what);
    return -EINVAL;
}

static bool whole(const json_t *object, const char *key, int64_t most, int64_t *value)
{
    const json_t *number = json_object_get(object, key);

    if (!json_is_integer(number) || json_integer_value(number) < 0 ||
        json_integer_value(number) > most)
        return false;
    *value = json_integer_value(number);
    return true;
}

static int take_tokens(const struct line *l, const json_t *tokens, size_t index)
{
    struct skew_import *import = l->import;
    uint32_t ids[SKEW_IMPORT_TOPK_MAX], topk = 0;
    uint32_t limit = import->options.experts ? import->options.experts : SKEW_IMPORT_EXPERTS_MAX;
    size_t t, k;
    json_t *token, *id;
    int result = 0;

    json_array_foreach(tokens, t, token)
    {
        if (!json_is_array(token) || json_array_size(token) == 0 ||
            json_array_size(token) > SKEW_IMPORT_TOPK_MAX || (t && json_array_size(token) != topk))
            return bad(l, "the tokens of top_indices do not all have the same number of experts");
        topk = (uint32_t)json_array_size(token);
        json_array_foreach(token, k, id)
        {
            if (!json_is_integer(id) || json_integer_value(id) < 0 ||
                json_integer_value(id) >= limit)
                return bad(l, import->options.experts
                                  ? "an expert in top_indices is not below --experts"
                                  : "an expert in top_indices is not a whole number from 0");
            ids[k] = (uint32_t)json_integer_value(id);
        }
        result = skew_import_token(&import->rows, index, ids, topk);
        if (result < 0)
            return result;
    }
    return 0;
}

static int take(const struct line *l, const json_t *object)
{
    struct skew_import *import = l->import;
    const char *block = json_string_value(json_object_get(object, "block"));
    const json_t *tokens = json_object_get(object, "top_indices");
    struct skew_import_key key = {
        .microbatch = 0, .request = -1, .source = -1, .stage = import->options.stage};
    int64_t rank, said, mtp;
    size_t index;

    if (!json_is_object(object) || !whole(object, "step", INT64_MAX / 2, &key.step) ||
        !whole(object, "layer", 9999, &key.layer) || !json_is_array(tokens) ||
        !whole(object, "rank", SKEW_IMPORT_RANKS_MAX * 64, &rank))
        return bad(l, "step, layer, rank or top_indices is missing or not of its kind");
    if (whole(object, "num_tokens", INT64_MAX, &said) && said != (int64_t)json_array_size(tokens))
        return bad(l, "num_tokens is not the length of top_indices");
    if (block && strcmp(block, "mtp") == 0)
        key.layer += MTP_LAYER + (whole(object, "mtp_idx", 99, &mtp) ? 100 * mtp : 0);
    if (key.step < import->options.skip_steps)
        return 0;
    uint32_t ranks = import->options.ranks ? import->options.ranks : SKEW_IMPORT_RANKS_MAX;
    key.source = (int32_t)(rank % ranks);
    key.group = (int32_t)(rank / ranks);
    while (skew_import_row_exists(&import->rows, &key))
        key.microbatch++; /* the layer ran again in this step */
    int result = skew_import_row(&import->rows, &key, &index);
    if (result < 0)
        return result;
    import->rows.row[index].tokens = 0; /* also when there are none */
    return take_tokens(l, tokens, index);
}

int skew_import_megatron(struct skew_import *import, const char *file)
{
    struct line l = {.import = import, .file = file};
    FILE *in = fopen(file, "re");
    char *text = NULL;
    size_t size = 0;
    int result = 0;

    if (!in) {
        result = -errno;
        skew_tell("%s: cannot be opened: %s", file, strerror(errno));
        return result;
    }
    while (result == 0 && getline(&text, &size, in) >= 0) {
        json_error_t error;
        l.number++;
        if (text[strspn(text, " \t\r\n")] == '\0')
            continue;
        json_t *object = json_loads(text, 0, &error);
        if (object)
            result = take(&l, object);
        else
            result = bad(&l, strchr(text, '\n') ? "not JSON"
                                                : "not JSON, and the last line: the "
                                                  "file is truncated");
        json_decref(object);
    }
    if (result == 0 && l.number == 0)
        result = bad(&l, "the file is empty");
    free(text);
    fclose(in);
    return result;
}
