/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ncclParam*: the 2.30 calls that read NCCL's own parameters. Two are known, by their variables, so
 * that the calls do something; every other key is refused as NCCL refuses an unknown one.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "export.h"
#include "standin.h"

struct ncclParamHandle {
    const char *key;
    int64_t otherwise;
};

static struct ncclParamHandle params[] = {{"NCCL_CHECK_POINTERS", 0}, {"NCCL_BUFFSIZE", 4194304}};
static const char *keys[] = {"NCCL_CHECK_POINTERS", "NCCL_BUFFSIZE"};
static __thread char text[32];

static int64_t value_of(const struct ncclParamHandle *param)
{
    const char *set = getenv(param->key);

    return set && *set ? strtoll(set, NULL, 0) : param->otherwise;
}

SN_EXPORT(ncclResult_t, ncclParamBind, (ncclParamHandle_t * out, const char *key))
{
    if (!out || !key)
        return ncclInvalidArgument;
    for (size_t i = 0; i < sizeof(params) / sizeof(*params); i++)
        if (strcmp(params[i].key, key) == 0) {
            *out = &params[i];
            return ncclSuccess;
        }
    return sn_fail(ncclInvalidArgument, "ncclParamBind : unknown parameter %s", key);
}

#define GETTER(name, T)                                                                            \
    SN_EXPORT(ncclResult_t, name, (ncclParamHandle_t h, T * out))                                  \
    {                                                                                              \
        if (!h || !out)                                                                            \
            return ncclInvalidArgument;                                                            \
        *out = (T)value_of(h);                                                                     \
        return ncclSuccess;                                                                        \
    }

GETTER(ncclParamGetI8, int8_t)
GETTER(ncclParamGetI16, int16_t)
GETTER(ncclParamGetI32, int32_t)
GETTER(ncclParamGetI64, int64_t)
GETTER(ncclParamGetU8, uint8_t)
GETTER(ncclParamGetU16, uint16_t)
GETTER(ncclParamGetU32, uint32_t)
GETTER(ncclParamGetU64, uint64_t)

SN_EXPORT(ncclResult_t, ncclParamGetStr, (ncclParamHandle_t h, const char **out))
{
    if (!h || !out)
        return ncclInvalidArgument;
    snprintf(text, sizeof(text), "%lld", (long long)value_of(h));
    *out = text;
    return ncclSuccess;
}

SN_EXPORT(ncclResult_t, ncclParamGet, (ncclParamHandle_t h, void *out, int maxLen, int *len))
{
    if (!h || !out || maxLen < (int)sizeof(int64_t))
        return ncclInvalidArgument;
    int64_t value = value_of(h);
    memcpy(out, &value, sizeof(value));
    if (len)
        *len = (int)sizeof(value);
    return ncclSuccess;
}

SN_EXPORT(ncclResult_t, ncclParamGetParameter, (const char *key, const char **value, int *valueLen))
{
    ncclParamHandle_t h;

    if (!value)
        return ncclInvalidArgument;
    for (size_t i = 0; key && i < sizeof(params) / sizeof(*params); i++) {
        h = &params[i];
        if (strcmp(h->key, key) != 0)
            continue;
        snprintf(text, sizeof(text), "%lld", (long long)value_of(h));
        *value = text;
        if (valueLen)
            *valueLen = (int)strlen(text);
        return ncclSuccess;
    }
    return sn_fail(ncclInvalidArgument, "ncclParamGetParameter : unknown parameter");
}

SN_EXPORT(ncclResult_t, ncclParamGetAllParameterKeys, (const char ***table, int *tableLen))
{
    if (!table || !tableLen)
        return ncclInvalidArgument;
    *table = keys;
    *tableLen = (int)(sizeof(keys) / sizeof(*keys));
    return ncclSuccess;
}
