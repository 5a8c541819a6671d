/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Processes: a child may use the driver if its parent had not begun to; a child of a process that
 * had gets an error, not a hang; bad options are refused; exiting with work under way is quiet.
 */
#include <sys/wait.h>

#include "driver_setup.h"

static int exit_code_of(pid_t child)
{
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void nothing(void *arg)
{
    (void)arg;
}

static void child_uses_the_driver(void)
{
    use_device(1);
    CUstream stream = new_stream(CU_STREAM_NON_BLOCKING);
    OK(cuLaunchHostFunc(stream, nothing, NULL));
    OK(cuStreamSynchronize(stream));
    exit(21);
}

static void child_after_init(void)
{
    int count;
    CHECK_IS(cuDeviceGetCount(&count), CUDA_ERROR_NOT_INITIALIZED);
    CHECK_IS(cuInit(0), CUDA_ERROR_NOT_INITIALIZED);
    exit(22);
}

static void child_with_bad_option(void)
{
    setenv("SKEWSCOPE_STANDIN_DEVICES", "many", 1);
    CHECK(freopen("/dev/null", "w", stderr) != NULL);
    CHECK_IS(cuInit(0), CUDA_ERROR_INVALID_VALUE);
    exit(23);
}

static void child_with_options(void)
{
    int count;
    setenv("SKEWSCOPE_STANDIN_DEVICES", "3", 1);
    OK(cuInit(0));
    OK(cuDeviceGetCount(&count));
    CHECK_IS(count, 3);
    exit(24);
}

static void child_exits_with_work_left(void)
{
    static struct gate gate = GATE_INITIALIZER;
    use_device(0);
    CUstream stream = new_stream(CU_STREAM_NON_BLOCKING);
    OK(cuLaunchHostFunc(stream, gate_wait, &gate));
    gate_reached(&gate);
    exit(25);
}

static void run(void (*child)(void), int code)
{
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0)
        child();
    CHECK_IS(exit_code_of(pid), code);
}

int main(void)
{
    unsetenv("SKEWSCOPE_STANDIN_DEVICES");
    int version;
    OK(cuDriverGetVersion(&version)); /* needs no initialisation */
    run(child_uses_the_driver, 21);
    run(child_uses_the_driver, 21);
    run(child_with_bad_option, 23);
    run(child_with_options, 24);
    run(child_exits_with_work_left, 25);
    use_device(0);
    CUstream stream = new_stream(CU_STREAM_NON_BLOCKING);
    OK(cuLaunchHostFunc(stream, nothing, NULL));
    run(child_after_init, 22);
    OK(cuStreamSynchronize(stream));
    return 0;
}
