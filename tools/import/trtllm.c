/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TensorRT-LLM's expert statistics (EXPERT_STATISTIC_PATH): a directory with meta_info.json and
 * rank<N>.safetensors, tensors "<iteration>_<layer>" of tokens per expert. A rank's file counts the
 * tokens that this rank routed.
 */
#include "import.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "../term.h"

struct source {
    struct skew_import *import;
    const char *file;
    int64_t rank, experts, topk; /* −1: not known */
};

static int bad(const char *file, const char *what, const char *more)
{
    skew_tell("%s: %s%s%s; TensorRT-LLM writes meta_info.json and rank<N>.safetensors with "
              "tensors <iteration>_<layer> [experts]",
              file, what, more ? " " : "", more ? more : "");
    return -EINVAL;
}

static int take(const struct source *s, const char *name, const unsigned char *data, size_t count,
                uint32_t width)
{
    struct skew_import *import = s->import;
    struct skew_import_key key = {.microbatch = -1,
                                  .request = -1,
                                  .source = (int32_t)s->rank,
                                  .stage = import->options.stage};
    long long step, layer;
    char end;
    size_t index;

    if (sscanf(name, "%lld_%lld%c", &step, &layer, &end) != 2 || step < 0 || layer < 0)
        return bad(s->file, "a tensor is not named <iteration>_<layer>:", name);
    if (s->experts >= 0 && count != (size_t)s->experts)
        return bad(s->file, "a tensor has not as many experts as meta_info.json says:", name);
    key.step = step;
    key.layer = layer;
    if (step < import->options.skip_steps)
        return 0;
    int result = skew_import_row(&import->rows, &key, &index);
    for (size_t e = 0; e < count && result == 0; e++) {
        uint64_t value = 0;
        for (uint32_t i = width; i-- > 0;)
            value = value << 8 | data[e * width + i];
        if (value >> 47)
            return bad(s->file, "a count is negative or too large in tensor", name);
        result = skew_import_add(&import->rows, index, (uint32_t)e, value);
    }
    if (result == 0 && s->topk > 0)
        import->rows.row[index].topk = (uint32_t)s->topk;
    return result;
}

static int take_tensor(const struct source *s, const char *name, const json_t *tensor,
                       const unsigned char *data, size_t size)
{
    const char *type = json_string_value(json_object_get(tensor, "dtype"));
    const json_t *shape = json_object_get(tensor, "shape");
    const json_t *offsets = json_object_get(tensor, "data_offsets");
    json_int_t count = json_integer_value(json_array_get(shape, 0));
    json_int_t from = json_integer_value(json_array_get(offsets, 0));
    json_int_t to = json_integer_value(json_array_get(offsets, 1));
    uint32_t width = !type ? 0 : strcmp(type, "I64") == 0 ? 8 : strcmp(type, "I32") == 0 ? 4 : 0;

    if (width == 0)
        return bad(s->file, "a tensor is not of type I64 or I32:", name);
    if (json_array_size(shape) != 1 || count < 1 || count > SKEW_IMPORT_EXPERTS_MAX)
        return bad(s->file, "a tensor is not a list of experts:", name);
    if (from < 0 || to < from || (size_t)to > size || to - from != count * width)
        return bad(s->file, "truncated: there is no data for tensor", name);
    return take(s, name, data + from, (size_t)count, width);
}

static int read_safetensors(struct source *s)
{
    char *text;
    size_t size;
    uint64_t length = 0;
    const char *name;
    json_t *tensor;
    json_error_t error;
    int result = skew_import_slurp(&text, &size, s->file);

    if (result < 0)
        return result;
    for (int i = 7; i >= 0 && size >= 8; i--)
        length = length << 8 | (unsigned char)text[i];
    json_t *header =
        size > 8 && length <= size - 8 ? json_loadb(text + 8, (size_t)length, 0, &error) : NULL;
    if (!json_is_object(header))
        result = bad(s->file, "not a safetensors file, or truncated within its header", NULL);
    json_object_foreach(header, name, tensor)
    {
        if (result == 0 && strcmp(name, "__metadata__") != 0)
            result = take_tensor(s, name, tensor, (unsigned char *)text + 8 + length,
                                 size - 8 - (size_t)length);
    }
    json_decref(header);
    free(text);
    return result;
}

/* N of ".../rank<N>.safetensors", or −1. */
static int64_t rank_of(const char *file)
{
    const char *base = strrchr(file, '/') ? strrchr(file, '/') + 1 : file;
    int rank, used = 0;

    if (sscanf(base, "rank%d.safetensors%n", &rank, &used) == 1 && used && !base[used] &&
        rank >= 0 && rank < (int)SKEW_IMPORT_RANKS_MAX)
        return rank;
    return -1;
}

static int read_meta(struct source *s, const char *directory)
{
    char path[4096];
    json_error_t error;

    snprintf(path, sizeof path, "%s/meta_info.json", directory);
    json_t *meta = json_load_file(path, 0, &error);
    const json_t *experts = json_object_get(meta, "num_experts");
    const json_t *topk = json_object_get(meta, "num_experts_per_token");
    int result = 0;
    if (!json_is_integer(experts) || !json_is_integer(topk))
        result = bad(path, "cannot be read, or has no num_experts and num_experts_per_token", NULL);
    s->experts = json_integer_value(experts);
    s->topk = json_integer_value(topk);
    json_decref(meta);
    return result;
}

static int read_directory(struct source *s, const char *directory)
{
    struct dirent **entries;
    size_t files = 0;
    int result = read_meta(s, directory);
    int count = result == 0 ? scandir(directory, &entries, NULL, alphasort) : -1;

    if (result < 0)
        return result;
    if (count < 0)
        return bad(directory, strerror(errno), NULL);
    for (int i = 0; i < count; i++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", directory, entries[i]->d_name);
        s->rank = rank_of(path);
        s->file = path;
        if (s->rank >= 0 && result == 0) {
            result = read_safetensors(s);
            files++;
        }
        free(entries[i]);
    }
    free(entries);
    return result == 0 && files == 0 ? bad(directory, "no rank<N>.safetensors in it", NULL)
                                     : result;
}

int skew_import_trtllm(struct skew_import *import, const char *file)
{
    struct source s = {.import = import,
                       .file = file,
                       .experts = -1,
                       .topk = import->options.topk ? (int64_t)import->options.topk : -1,
                       .rank = rank_of(file)};
    struct stat facts;

    if (stat(file, &facts) == 0 && S_ISDIR(facts.st_mode))
        return read_directory(&s, file);
    if (s.rank < 0)
        return bad(file, "its name is not rank<N>.safetensors, so its rank is not known", NULL);
    return read_safetensors(&s);
}
