/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A libnccl_ep.so for tests: it moves nothing, and writes down every argument of every call, errno
 * included. As the real one it calls NCCL (making a group exchanges something) and itself by way of
 * the loader (making a handle).
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "ep.h"

static char said[16384];
static size_t length;

static __attribute__((format(printf, 1, 2))) void say(const char *format, ...)
{
    va_list args;
    if (sizeof(said) - length < 1024)
        return; /* enough is said */
    va_start(args, format);
    length += (size_t)vsnprintf(said + length, sizeof(said) - length, format, args);
    va_end(args);
}

const char *ep_said(void)
{
    return said;
}

ncclResult_t ncclEpCreateGroup(void **group, ncclComm_t comm, const void *config,
                               cudaStream_t stream, void *allocate, void *release)
{
    say("create_group errno %d %p %p %p %p\n", errno, config, (void *)stream, allocate, release);
    *group = (void *)0x6001;
    if (ncclGroupStart() || ncclSend(NULL, 4242, ncclInt32, 1, comm, NULL) ||
        ncclRecv(NULL, 4242, ncclInt32, 1, comm, NULL))
        return ncclInternalError;
    return ncclGroupEnd();
}

ncclResult_t ncclEpGroupDestroy(void *group)
{
    say("group_destroy %p\n", group);
    return ncclSuccess;
}

#ifdef EP_NEW
ncclResult_t ncclEpInitHandle(void **handle, void *group, int layout, const void *config, int topk,
                              void *memory)
{
    say("init_handle %p %d %p %d %p\n", group, layout, config, topk, memory);
    *handle = (void *)0x7001;
    return ncclSuccess;
}

ncclResult_t ncclEpUpdateHandle(void *handle, const void *topk_idx, const void *layout_info,
                                cudaStream_t stream)
{
    say("update_handle %p %p %p %p\n", handle, topk_idx, layout_info, (void *)stream);
    return ncclSuccess;
}
#endif

ncclResult_t ncclEpCreateHandle(void **handle, void *group, const void *topk_idx,
                                const void *config, cudaStream_t stream)
{
    say("create_handle %p %p %p %p\n", group, topk_idx, config, (void *)stream);
#ifdef EP_NEW
    ncclResult_t result = ncclEpInitHandle(handle, group, 2, config, 8, NULL);
    if (!result)
        result = ncclEpUpdateHandle(*handle, topk_idx, NULL, stream);
    say("handle made: %d\n", result); /* so that the call is no jump */
    return result;
#else
    *handle = (void *)0x7001;
    return ncclSuccess;
#endif
}

ncclResult_t ncclEpHandleDestroy(void *handle)
{
    say("handle_destroy %p\n", handle);
    return ncclSuccess;
}

#if defined(EP_ODD)
struct ep_large ncclEpDispatch(void *handle, int a, long b, short c, unsigned d, char e, size_t f,
                               int g, long h, double p, float q, double r, float s, double t,
                               double u, double v, double w, double x, float y,
                               struct ep_large large, long double z)
{
    struct ep_large result = large;
    say("dispatch errno %d %p %d %ld %d %u %d %zu %d %ld | %g %g %g %g %g %g %g %g %g %g | %ld %ld "
        "%ld | %Lg\n",
        errno, handle, a, b, c, d, e, f, g, h, p, (double)q, r, (double)s, t, u, v, w, x, (double)y,
        large.part[0], large.part[3], large.part[6], z);
    for (int i = 0; i < 7; i++)
        result.part[i] *= 3;
    return result;
}

double ncclEpCombine(void *handle, struct ep_pair pair, const char *kinds, ...)
{
    double sum = pair.first - pair.second;
    va_list args;
    va_start(args, kinds);
    say("combine %p %g %g", handle, pair.first, pair.second);
    for (; *kinds; kinds++) {
        double value = *kinds == 'd' ? va_arg(args, double) : (double)va_arg(args, long);
        say(" %g", value);
        sum += value;
    }
    say("\n");
    va_end(args);
    return sum;
}

#ifdef EP_WIDE
EP_WIDE ep_wide ncclEpComplete(void *handle, ep_wide a, ep_wide b)
{
    say("complete %p %g %g %g %g, %g %g %g %g\n", handle, a[0], a[1], a[2], a[3], b[0], b[1], b[2],
        b[3]);
    return a * b;
}
#else
double ncclEpComplete(void *handle, double a, double b)
{
    say("complete %p %g %g\n", handle, a, b);
    return a * b;
}
#endif
#elif defined(EP_NEW)
ncclResult_t ncclEpDispatch(void *handle, const struct ep_named *inputs,
                            const struct ep_named *outputs, const void *layout_info,
                            const void *config, cudaStream_t stream)
{
    say("dispatch errno %d %p %p %p %p %p %p\n", errno, handle, inputs->tokens, outputs->tokens,
        layout_info, config, (void *)stream);
    return ncclSuccess;
}

ncclResult_t ncclEpCombine(void *handle, const struct ep_named *inputs,
                           const struct ep_named *outputs, const void *config, cudaStream_t stream)
{
    say("combine %p %p %p %p %p\n", handle, inputs->tokens, outputs->tokens, config,
        (void *)stream);
    return ncclInProgress;
}

ncclResult_t ncclEpComplete(void *handle, const void *config, cudaStream_t stream)
{
    say("complete %p %p %p\n", handle, config, (void *)stream);
    return ncclSuccess;
}
#else
ncclResult_t ncclEpDispatch(void *handle, void *const *inputs, unsigned inputs_count,
                            void *const *outputs, unsigned outputs_count, void *const *locals,
                            unsigned locals_count, unsigned send_only, const void *config,
                            cudaStream_t stream)
{
    say("dispatch errno %d %p %p %u %p %u %p %u %u %p %p\n", errno, handle, inputs[0], inputs_count,
        outputs[0], outputs_count, locals[0], locals_count, send_only, config, (void *)stream);
    return ncclSuccess;
}

ncclResult_t ncclEpCombine(void *handle, void *const *inputs, unsigned inputs_count,
                           void *const *outputs, unsigned outputs_count, void *const *locals,
                           unsigned locals_count, unsigned send_only, const void *config,
                           cudaStream_t stream)
{
    say("combine %p %p %u %p %u %p %u %u %p %p\n", handle, inputs[0], inputs_count, outputs[0],
        outputs_count, locals[0], locals_count, send_only, config, (void *)stream);
    return ncclInProgress;
}

ncclResult_t ncclEpComplete(void *handle, const void *config, cudaStream_t stream)
{
    say("complete %p %p %p\n", handle, config, (void *)stream);
    return ncclSuccess;
}
#endif
