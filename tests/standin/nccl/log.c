/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Options (read once), warnings and the last error. NCCL's own text goes to stdout, so ours does
 * too; what this library is, is said in the last error and under NCCL_DEBUG=VERSION and nowhere
 * else, so that programs see what they would see from NCCL.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "standin.h"

#ifndef SN_DEFAULT_VERSION
#define SN_DEFAULT_VERSION 22809
#endif

static struct sn_options options;
static pthread_once_t options_once = PTHREAD_ONCE_INIT;
static __thread char last_error[512];

static void complain(const char *name, const char *value, const char *wanted)
{
    fprintf(stderr, "stand-in NCCL: %s='%s' is not %s; using the default\n", name, value, wanted);
}

static double number(const char *name, double otherwise, double low, double high,
                     const char *wanted)
{
    const char *value = getenv(name);
    char *end;

    if (!value || !*value)
        return otherwise;
    double x = strtod(value, &end);
    if (*end || !(x >= low && x <= high)) {
        complain(name, value, wanted);
        return otherwise;
    }
    return x;
}

/* latency_us=…,bw_gbps=… : microseconds, and gigabytes (1e9) a second and port. */
static void read_link(const char *value)
{
    double latency_us = 0, bw_gbps = 0;

    if (!value || !*value)
        return;
    if (sscanf(value, "latency_us=%lf,bw_gbps=%lf", &latency_us, &bw_gbps) != 2 || latency_us < 0 ||
        bw_gbps <= 0) {
        complain("SKEWSCOPE_STANDIN_LINK", value, "latency_us=NUMBER,bw_gbps=NUMBER");
        return;
    }
    options.link = true;
    options.link_latency_ns = latency_us * 1e3;
    options.link_bytes_per_ns = bw_gbps;
}

static void read_options(void)
{
    const char *debug = getenv("NCCL_DEBUG");
    const char *dir = getenv("SKEWSCOPE_STANDIN_SHM_DIR");
    const char *tmp = getenv("TMPDIR");
    double seconds = number("SKEWSCOPE_STANDIN_TIMEOUT", 60, 0, 1e6, "a number of seconds");

    options.version = (int)number("SKEWSCOPE_STANDIN_NCCL_VERSION", SN_DEFAULT_VERSION, 21800,
                                  29999, "an NCCL version code such as 22809");
    options.timeout_ns = seconds > 0 ? (uint64_t)(seconds * 1e9) : UINT64_MAX;
    options.ring_bytes = (size_t)number("SKEWSCOPE_STANDIN_RING", 0, 4096, 1 << 30,
                                        "a number of bytes, 4096 or more");
    options.shm_dir = dir && *dir ? dir : "/dev/shm";
    options.tmp_dir = tmp && *tmp ? tmp : "/tmp";
    options.truth = getenv("SKEWSCOPE_STANDIN_TRUTH");
    read_link(getenv("SKEWSCOPE_STANDIN_LINK"));
    options.couple = options.link || options.truth;
    options.show_version = debug && *debug && strcasecmp(debug, "NONE") != 0;
    options.warn = options.show_version && strcasecmp(debug, "VERSION") != 0;
}

/* "monotonic SECONDS NANOSECONDS": what the process's time namespace adds to CLOCK_MONOTONIC. */
int64_t sn_clock_offset_ns(void)
{
    const char *clock = getenv("SKEWSCOPE_STANDIN_CLOCK");
    long long seconds = 0, ns = 0;
    FILE *f;

    if (clock && strcmp(clock, "virtual") == 0)
        return 0; /* the same for all ranks in any case */
    f = fopen("/proc/self/timens_offsets", "re");
    if (!f)
        return 0;
    if (fscanf(f, "monotonic %lld %lld", &seconds, &ns) != 2)
        seconds = ns = 0;
    fclose(f);
    return seconds * 1000000000 + ns;
}

const struct sn_options *sn_options(void)
{
    pthread_once(&options_once, read_options);
    return &options;
}

ncclResult_t sn_fail(ncclResult_t result, const char *format, ...)
{
    va_list args;
    int saved = errno;
    int n = snprintf(last_error, sizeof(last_error), "stand-in NCCL: ");

    va_start(args, format);
    vsnprintf(last_error + n, sizeof(last_error) - (size_t)n, format, args);
    va_end(args);
    if (sn_options()->warn) {
        printf("pid %d NCCL WARN %s\n", (int)getpid(), last_error);
        fflush(stdout);
    }
    errno = saved;
    return result;
}

const char *sn_last_error(void)
{
    return last_error;
}

static void show_version(void)
{
    int v = sn_options()->version;

    printf("NCCL version %d.%d.%d (skewscope's stand-in, no GPU involved)\n", v / 10000,
           v / 100 % 100, v % 100);
    fflush(stdout);
}

void sn_show_version(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    if (sn_options()->show_version)
        pthread_once(&once, show_version);
}

uint64_t sn_now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}
