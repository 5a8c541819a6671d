/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of the collector that need no database: maps, text, vectors, known libraries, processes. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "collect/alive.h"
#include "collect/backends.h"
#include "collect/map.h"
#include "collect/utf8.h"
#include "collect/vector.h"

static uint64_t random64(void)
{
    static uint64_t state = 88172645463325252u;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static void check(int good, const char *what)
{
    if (good)
        return;
    fprintf(stderr, "failed: %s\n", what);
    exit(1);
}

static void test_map(void)
{
    struct skew_map map = {0};
    uint64_t value = 7;
    check(!skew_map_get(&map, 0, &value) && value == 7, "an empty map holds nothing");
    for (uint64_t i = 0; i < 10000; i++)
        check(skew_map_put(&map, i << 40, i) == 0, "put");
    for (uint64_t i = 0; i < 10000; i++)
        check(skew_map_get(&map, i << 40, &value) && value == i, "get what was put");
    check(!skew_map_get(&map, 1, &value), "absent");
    check(skew_map_put(&map, 0, 5) == 0 && skew_map_get(&map, 0, &value) && value == 5, "replace");
    check(map.count == 10000, "count");
    skew_map_free(&map);
}

static void test_utf8(void)
{
    static const struct {
        const char *text, *clean;
    } cases[] = {
        {"", ""}, {"abc", "abc"}, {"caf\xc3\xa9", "caf\xc3\xa9"}, {"\xff", "\xef\xbf\xbd"},
        {"a\xc3", "a\xef\xbf\xbd"}, {"\xc0\x80", "\xef\xbf\xbd\xef\xbf\xbd"}, /* overlong NUL */
        {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},             /* surrogate */
        {"\xf0\x9f\x98\x80", "\xf0\x9f\x98\x80"}, {"\xf4\x90\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xe2\x82", "\xef\xbf\xbd\xef\xbf\xbd"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t length = strlen(cases[i].text);
        char *clean = skew_utf8_clean(cases[i].text, length);
        check(clean && strcmp(clean, cases[i].clean) == 0, "clean text");
        check(skew_utf8_valid(cases[i].text, length) == (strcmp(cases[i].text, cases[i].clean) == 0), "valid text");
        check(skew_utf8_valid(clean, strlen(clean)), "cleaned text is valid");
        free(clean);
    }
    check(!skew_utf8_valid("a\0b", 3), "no NUL inside");
    char *json = skew_utf8_json_array("a\"\\\n\0\0b\x01", 8);
    check(json && strcmp(json, "[\"a\\\"\\\\\\u000a\",\"\",\"b\\u0001\"]") == 0, "JSON array");
    free(json);
    json = skew_utf8_json_array("", 0);
    check(json && strcmp(json, "[]") == 0, "empty JSON array");
    free(json);
}

/* Decodes as docs/schema.md says, by another way than the encoder. */
static uint64_t decode(const uint8_t *blob, unsigned width, unsigned stride, size_t ordinal)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < width; i++)
        value = value * 256 + blob[ordinal * stride + i];
    return value;
}

static void check_vector(const struct skew_vector *v, const struct skew_cells *cells)
{
    uint64_t total = 0, largest = 0;
    check(v->cells == cells->count, "number of cells");
    for (size_t i = 0; i < cells->count; i++) {
        uint64_t size = decode(v->sizes, v->size_width, v->size_stride, i);
        uint64_t peer = v->peers ? decode(v->peers, v->peer_width, v->peer_stride, i) : i;
        check(size * v->unit == cells->bytes[i] && peer == cells->peers[i], "a cell comes back as it went in");
        total += size;
        largest = size > largest ? size : largest;
    }
    check(total == v->total && largest == v->largest, "total and largest");
    check(v->size_width == 1 || largest >> (8 * (v->size_width - 1)), "smallest width");
    check(v->sizes_bytes == (v->size_stride ? cells->count * v->size_stride : v->size_width), "bytes of sizes");
}

static void test_vectors(void)
{
    struct skew_vector v = {0}, again = {0};
    struct skew_cells cells = {0};
    check(skew_cells_reserve(&cells, 600) == 0, "reserve");
    for (int round = 0; round < 20000; round++) {
        unsigned bits = (unsigned)(random64() % 50), count = 1 + (unsigned)(random64() % (round % 50 ? 20 : 600));
        uint64_t unit = round % 3 || bits > 38 ? 1 : 2880, equal = round % 7 == 0;
        cells.count = 0;
        for (unsigned i = 0; i < count; i++) {
            uint64_t size = (equal && i ? cells.bytes[0] : (random64() & ((1ull << bits) - 1)) * unit);
            skew_cells_add(&cells, size, round % 2 ? i : (uint32_t)(random64() >> (round % 5 ? 60 : 40)) & 0xffffff);
        }
        check(skew_vector_encode(&v, &cells) == 0, "encode");
        check_vector(&v, &cells);
        /* A row read back is the same bytes, so that the memory can be rebuilt. */
        check(skew_vector_encode_row(&again, &v) == 0, "encode a row");
        check(v.used == again.used && memcmp(v.buffer, again.buffer, v.used) == 0, "canonical");
    }
    cells.count = 0;
    for (uint32_t i = 0; i < 64; i++)
        skew_cells_add(&cells, 4096, i);
    check(skew_vector_encode(&v, &cells) == 0 && skew_vector_encode_equal(&again, 64, 4096) == 0, "equal");
    check(v.used == again.used && memcmp(v.buffer, again.buffer, v.used) == 0 && v.unit == again.unit,
          "an all-to-all and equal sends are one vector");
    skew_cells_free(&cells);
    skew_vector_free(&v);
    skew_vector_free(&again);
}

/* The memory of vectors is bounded, and finds what came lately. */
static void test_vector_set(void)
{
    struct skew_vector_set set;
    struct skew_vector v = {0};
    check(skew_vector_set_init(&set, 4096) == 0, "set");
    int64_t known = 0;
    for (int64_t i = 1; i <= 100000; i++) {
        check(skew_vector_encode_equal(&v, (uint64_t)i, 1) == 0, "encode");
        check(skew_vector_set_find(&set, &v, i) == 0, "a new vector is new");
        check(skew_vector_set_find(&set, &v, 999) == i, "and then known");
        int64_t earlier = i > 1500 ? i - 1500 : 1;
        skew_vector_encode_equal(&v, (uint64_t)earlier, 1);
        known += skew_vector_set_find(&set, &v, earlier) == earlier;
    }
    check(known == 100000, "the latest ones are known");
    check(set.slots_now <= 16384 && set.slots_before <= 16384, "the memory is bounded");
    skew_vector_set_free(&set);
    skew_vector_free(&v);
}

static void test_backends(void)
{
    static const struct {
        const char *path, *role, *name;
    } cases[] = {
        {"/a/libnccl.so.2.28.9", "nccl", "NCCL"},
        {"/a/librccl.so.1", "rccl", "RCCL"},
        {"/a/libcudart.so.13", "cuda_runtime", "CUDA runtime"},
        {"/a/libcudart-9d1ca94a.so.12", "cuda_runtime", "CUDA runtime"},
        {"/a/libcuda.so.1", "cuda_driver", "CUDA driver"},
        {"/a/libcupti.so.13", "cupti", "CUPTI"},
        {"/a/deep_ep_cpp.cpython-312-x86_64-linux-gnu.so", "device_backend", "DeepEP"},
        {"/a/hybrid_ep_cpp.cpython-312-aarch64-linux-gnu.so", "device_backend", "HybridEP (DeepEP)"},
        {"/a/libnvshmem_host.so.3", "device_backend", "NVSHMEM"},
        {"/a/libnccl_ep.so", "device_backend", "NCCL EP"},
        {"/a/libpplx_kernels.so", "device_backend", "pplx-kernels"},
        {"/usr/lib/libc.so.6", NULL, NULL},
        {"libnccl.so.2.d/libother.so", NULL, NULL},
        {"/a/libcudart_static.a", NULL, NULL},
        {"/a/libnccl-net.so", NULL, NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct skew_backend *found = skew_backend_of(cases[i].path);
        check(!found == !cases[i].role, cases[i].path);
        if (!found)
            continue;
        check(strcmp(found->role, cases[i].role) == 0 && strcmp(found->name, cases[i].name) == 0, cases[i].path);
        check(!found->unseen == (strcmp(found->role, "device_backend") != 0), "a device backend says what is unseen");
    }
}

static void test_alive(void)
{
    uint64_t ns = skew_namespace_of(0, "pid");
    check(ns != 0, "our pid namespace");
    check(skew_pid_alive(ns, (uint32_t)getpid(), 1) == SKEW_GONE, "another one had this pid");
    check(skew_pid_alive(ns, 0x7ffffffe, 1) == SKEW_GONE, "nobody has that pid");
    check(skew_pid_alive(~0ull, 1, 1) == SKEW_UNKNOWN, "a namespace that cannot be seen");
}

int main(void)
{
    test_map();
    test_utf8();
    test_vectors();
    test_vector_set();
    test_backends();
    test_alive();
    return 0;
}
