/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The runtime and CUPTI without the stand-in driver (none at all, or a real one, which they must
 * leave alone): the errors that the real ones give without a driver.
 * Arguments: libcudart and libcupti, as paths.
 */
#include <dlfcn.h>

#include "abi/cupti.h"
#include "abi/runtime.h"
#include "check.h"

static void *look_up(void *library, const char *symbol)
{
    void *address = dlsym(library, symbol);
    CHECK(address != NULL);
    return address;
}

int main(int argc, char **argv)
{
    CHECK_IS(argc, 3);
    void *runtime = dlopen(argv[1], RTLD_NOW), *cupti = dlopen(argv[2], RTLD_NOW);
    CHECK(runtime != NULL && cupti != NULL);
    cudaError_t (*get_count)(int *), (*peek)(void);
    *(void **)&get_count = look_up(runtime, "cudaGetDeviceCount");
    *(void **)&peek = look_up(runtime, "cudaPeekAtLastError");
    int count;
    CHECK_IS(get_count(&count), cudaErrorInsufficientDriver);
    CHECK_IS(peek(), cudaErrorInsufficientDriver);
    CUptiResult (*version)(uint32_t *), (*enable)(CUpti_ActivityKind), (*now)(uint64_t *);
    CUptiResult (*flush)(uint32_t), (*finalize)(void);
    CUptiResult (*subscribe)(CUpti_SubscriberHandle *, CUpti_CallbackFunc, void *);
    *(void **)&version = look_up(cupti, "cuptiGetVersion");
    *(void **)&enable = look_up(cupti, "cuptiActivityEnable");
    *(void **)&now = look_up(cupti, "cuptiGetTimestamp");
    *(void **)&flush = look_up(cupti, "cuptiActivityFlushAll");
    *(void **)&finalize = look_up(cupti, "cuptiFinalize");
    *(void **)&subscribe = look_up(cupti, "cuptiSubscribe");
    uint32_t number;
    uint64_t time;
    CUpti_SubscriberHandle handle;
    OK(version(&number));
    OK(now(&time));
    OK(finalize());
    CHECK_IS(enable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL), CUPTI_ERROR_UNKNOWN);
    CHECK_IS(flush(0), CUPTI_ERROR_UNKNOWN);
    CHECK_IS(subscribe(&handle, NULL, NULL), CUPTI_ERROR_UNKNOWN);
    return 0;
}
