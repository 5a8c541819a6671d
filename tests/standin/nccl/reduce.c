/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sum, product, minimum, maximum and scaling for every NCCL data type. The small floats are worked
 * out in float and rounded to nearest even after every step, as the hardware does it.
 */
#include <math.h>
#include <string.h>

#include "standin.h"

/* ---- small floats: sign, EXP exponent bits, MAN mantissa bits ---- */

struct format {
    int exponent_bits, mantissa_bits;
    bool infinities; /* e4m3 has none: its largest exponent holds numbers, and one NaN */
};

static const struct format half_format = {5, 10, true}, bf16_format = {8, 7, true},
                           e4m3_format = {4, 3, false}, e5m2_format = {5, 2, true};

static float decode(uint32_t bits, const struct format *f)
{
    int e = (int)(bits >> f->mantissa_bits) & ((1 << f->exponent_bits) - 1);
    uint32_t m = bits & ((1u << f->mantissa_bits) - 1);
    int bias = (1 << (f->exponent_bits - 1)) - 1;
    int top = (1 << f->exponent_bits) - 1;
    bool negative = bits >> (f->exponent_bits + f->mantissa_bits) & 1;
    float x;

    if (e == top && f->infinities)
        x = m ? NAN : INFINITY;
    else if (e == top && m == (1u << f->mantissa_bits) - 1)
        x = NAN;
    else if (e == 0)
        x = ldexpf((float)m, 1 - bias - f->mantissa_bits);
    else
        x = ldexpf((float)(m | 1u << f->mantissa_bits), e - bias - f->mantissa_bits);
    return negative ? -x : x;
}

static uint32_t encode(float x, const struct format *f)
{
    int bias = (1 << (f->exponent_bits - 1)) - 1, top = (1 << f->exponent_bits) - 1;
    uint32_t sign = (uint32_t)(signbit(x) != 0) << (f->exponent_bits + f->mantissa_bits);
    uint32_t ones = (1u << f->mantissa_bits) - 1;
    int exponent;

    if (isnan(x))
        return sign | (uint32_t)top << f->mantissa_bits | ones;
    frexpf(fabsf(x), &exponent);
    exponent = x == 0 || exponent - 1 < 1 - bias ? 1 - bias : exponent - 1;
    if (isinf(x))
        exponent = top + 1;
    /* In units of the last place; rintf rounds to nearest even, and may carry into the exponent. */
    uint32_t m = isinf(x) ? 0 : (uint32_t)rintf(ldexpf(fabsf(x), f->mantissa_bits - exponent));
    uint32_t bits = m + ((uint32_t)(exponent + bias - 1) << f->mantissa_bits);
    uint32_t largest = f->infinities ? ((uint32_t)top << f->mantissa_bits) - 1
                                     : ((uint32_t)top << f->mantissa_bits | ones) - 1;
    if (isinf(x) || bits > largest)
        bits = f->infinities ? (uint32_t)top << f->mantissa_bits : largest;
    return sign | bits;
}

static const struct format *format_of(ncclDataType_t type)
{
    switch (type) {
    case ncclFloat16:
        return &half_format;
    case ncclBfloat16:
        return &bf16_format;
    case ncclFloat8e4m3:
        return &e4m3_format;
    default:
        return &e5m2_format;
    }
}

static float load(const void *p, size_t i, ncclDataType_t type)
{
    bool wide = skew_nccl_type_size((int)type) == 2;

    return decode(wide ? ((const uint16_t *)p)[i] : ((const uint8_t *)p)[i], format_of(type));
}

static void store(void *p, size_t i, ncclDataType_t type, float x)
{
    uint32_t bits = encode(x, format_of(type));

    if (skew_nccl_type_size((int)type) == 2)
        ((uint16_t *)p)[i] = (uint16_t)bits;
    else
        ((uint8_t *)p)[i] = (uint8_t)bits;
}

/* ---- the types that C has; sums of signed integers wrap, so they are taken unsigned ---- */

#define EACH_NATIVE(X)                                                                             \
    X(ncclInt8, int8_t, uint8_t)                                                                   \
    X(ncclUint8, uint8_t, uint8_t)                                                                 \
    X(ncclInt32, int32_t, uint32_t)                                                                \
    X(ncclUint32, uint32_t, uint32_t)                                                              \
    X(ncclInt64, int64_t, uint64_t)                                                                \
    X(ncclUint64, uint64_t, uint64_t)                                                              \
    X(ncclFloat32, float, float)                                                                   \
    X(ncclFloat64, double, double)

#define DEFINE(tag, T, U)                                                                          \
    static void reduce_##tag(T *acc, const T *in, size_t n, int op)                                \
    {                                                                                              \
        for (size_t i = 0; i < n; i++) {                                                           \
            if (op == ncclProd)                                                                    \
                acc[i] = (T)((U)acc[i] * (U)in[i]);                                                \
            else if (op == ncclMax)                                                                \
                acc[i] = in[i] > acc[i] ? in[i] : acc[i];                                          \
            else if (op == ncclMin)                                                                \
                acc[i] = in[i] < acc[i] ? in[i] : acc[i];                                          \
            else                                                                                   \
                acc[i] = (T)((U)acc[i] + (U)in[i]);                                                \
        }                                                                                          \
    }                                                                                              \
    static void divide_##tag(T *acc, size_t n, int by)                                             \
    {                                                                                              \
        for (size_t i = 0; i < n; i++)                                                             \
            acc[i] = (T)(acc[i] / by);                                                             \
    }                                                                                              \
    static void scale_##tag(T *to, const T *from, size_t n, const void *scalar)                    \
    {                                                                                              \
        T by;                                                                                      \
        memcpy(&by, scalar, sizeof(by));                                                           \
        for (size_t i = 0; i < n; i++)                                                             \
            to[i] = (T)((U)from[i] * (U)by);                                                       \
    }

EACH_NATIVE(DEFINE)

static float combine(float a, float b, int op)
{
    switch (op) {
    case ncclProd:
        return a * b;
    case ncclMax:
        return a > b ? a : b;
    case ncclMin:
        return a < b ? a : b;
    default:
        return a + b;
    }
}

void sn_reduce(void *acc, const void *in, size_t count, ncclDataType_t type, int op)
{
    switch (type) {
#define CASE(tag, T, U)                                                                            \
    case tag:                                                                                      \
        reduce_##tag(acc, in, count, op);                                                          \
        return;
        EACH_NATIVE(CASE)
    default:
        for (size_t i = 0; i < count; i++)
            store(acc, i, type, combine(load(acc, i, type), load(in, i, type), op));
    }
}

void sn_reduce_divide(void *acc, size_t count, ncclDataType_t type, int by)
{
    switch (type) {
#define CASE_DIVIDE(tag, T, U)                                                                     \
    case tag:                                                                                      \
        divide_##tag(acc, count, by);                                                              \
        return;
        EACH_NATIVE(CASE_DIVIDE)
    default:
        for (size_t i = 0; i < count; i++)
            store(acc, i, type, load(acc, i, type) / (float)by);
    }
}

void sn_reduce_scale(void *to, const void *from, size_t count, ncclDataType_t type,
                     const void *scalar)
{
    switch (type) {
#define CASE_SCALE(tag, T, U)                                                                      \
    case tag:                                                                                      \
        scale_##tag(to, from, count, scalar);                                                      \
        return;
        EACH_NATIVE(CASE_SCALE)
    default:
        for (size_t i = 0; i < count; i++)
            store(to, i, type, load(from, i, type) * load(scalar, 0, type));
    }
}
