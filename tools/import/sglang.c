/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SGLang's expert distribution recorder: `logical_count` [steps][layers][experts], or [layers]
 * [experts], over all ranks. Its dumps are torch files, which are pickles and are not opened here;
 * .npy and .json exports of them are.
 */
#include "import.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../term.h"

static bool ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), size = strlen(end);

    return length >= size && strcmp(text + length - size, end) == 0;
}

/* One number; the caller has checked `expert`. */
static int take(struct skew_import *import, int64_t step, int64_t layer, uint32_t expert,
                uint64_t count)
{
    struct skew_import_key key = {.step = import->options.keep_steps ? step : -1,
                                  .layer = import->options.layer_base + layer,
                                  .microbatch = -1,
                                  .request = -1,
                                  .source = -1,
                                  .stage = import->options.stage};
    size_t index;

    if (step >= 0 && step < import->options.skip_steps)
        return 0;
    int result = skew_import_row(&import->rows, &key, &index);
    return result < 0 ? result : skew_import_add(&import->rows, index, expert, count);
}

static int from_npy(struct skew_import *import, const char *file)
{
    struct skew_npy npy;
    char shape[160];
    int result = skew_npy_read(&npy, file);

    if (result < 0)
        return result;
    if ((npy.dims != 2 && npy.dims != 3) || npy.count == 0 ||
        npy.shape[npy.dims - 1] > SKEW_IMPORT_EXPERTS_MAX) {
        skew_tell("%s: shape %s, where logical_count is [steps, layers, experts] or [layers, "
                  "experts]",
                  file, skew_npy_shape(&npy, shape));
        skew_npy_free(&npy);
        return -EINVAL;
    }
    uint32_t f = npy.dims - 2; /* axis of layers */
    size_t steps = f ? npy.shape[0] : 1, step_stride = f ? npy.stride[0] : 0;
    for (size_t s = 0; s < steps && result == 0; s++)
        for (size_t l = 0; l < npy.shape[f] && result == 0; l++)
            for (size_t e = 0; e < npy.shape[f + 1] && result == 0; e++) {
                uint64_t count;
                if (skew_npy_at(&npy, s * step_stride + l * npy.stride[f] + e * npy.stride[f + 1],
                                &count) &&
                    count <= INT64_MAX / 65536) {
                    result = take(import, f ? (int64_t)s : -1, (int64_t)l, (uint32_t)e, count);
                    continue;
                }
                skew_tell("%s: step %zu, layer %zu, expert %zu is not a whole number of tokens",
                          file, s, l, e);
                result = -EINVAL;
            }
    skew_npy_free(&npy);
    return result;
}

/* [layers][experts] of one step; −1: of all together. */
static int take_step(struct skew_import *import, const json_t *layers, int64_t step,
                     const char *file)
{
    size_t l, e;
    json_t *experts, *count;

    json_array_foreach(layers, l, experts)
    {
        size_t width = json_array_size(json_array_get(layers, 0));
        if (!json_is_array(experts) || json_array_size(experts) != width || width == 0 ||
            width > SKEW_IMPORT_EXPERTS_MAX) {
            skew_tell("%s: logical_count: layer %zu has %zu experts, layer 0 has %zu", file, l,
                      json_array_size(experts), width);
            return -EINVAL;
        }
        json_array_foreach(experts, e, count)
        {
            if (!json_is_integer(count) || json_integer_value(count) < 0 ||
                json_integer_value(count) > INT64_MAX / 65536) {
                skew_tell("%s: logical_count: layer %zu, expert %zu is not a whole number of "
                          "tokens",
                          file, l, e);
                return -EINVAL;
            }
            int result =
                take(import, step, (int64_t)l, (uint32_t)e, (uint64_t)json_integer_value(count));
            if (result < 0)
                return result;
        }
    }
    return 0;
}

static int from_json(struct skew_import *import, const char *file)
{
    json_error_t error;
    json_t *all = json_load_file(file, 0, &error);
    json_t *counts = json_is_object(all) ? json_object_get(all, "logical_count") : all;
    const json_t *first = json_array_get(counts, 0);
    int result = -EINVAL;

    if (!all) {
        skew_tell("%s: cannot be read as JSON: %s (line %d); is it truncated?", file, error.text,
                  error.line);
    } else if (!json_is_array(json_array_get(first, 0)) && json_is_array(first)) {
        result = take_step(import, counts, -1, file);
    } else if (json_is_array(first)) {
        size_t s;
        json_t *layers;
        result = 0;
        json_array_foreach(counts, s, layers)
        {
            if (result == 0)
                result = take_step(import, layers, (int64_t)s, file);
        }
    } else {
        skew_tell("%s: no logical_count in it, an array [steps][layers][experts] or "
                  "[layers][experts]",
                  file);
    }
    json_decref(all);
    return result;
}

int skew_import_sglang(struct skew_import *import, const char *file)
{
    if (ends_with(file, ".npy"))
        return from_npy(import, file);
    if (ends_with(file, ".json"))
        return from_json(import, file);
    skew_tell("%s: not .npy or .json; a recorder dump is a torch file, which is never opened here. "
              "Where torch is: python3 -c \"import sys, torch, numpy; numpy.save(sys.argv[2], "
              "torch.load(sys.argv[1], map_location='cpu', weights_only=True)['logical_count']"
              ".numpy())\" dump.pt counts.npy",
              file);
    return -EINVAL;
}
