/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Environment variables of the stand-in. One table; read once, by cuInit; a value that cannot be
 * used is refused with one sentence on stderr and cuInit fails, since a silently wrong model would
 * make every measurement on it wrong.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"

struct si_options si_options;

/* Kernel durations by name: the first rule whose text occurs in the kernel's name. */
static struct kernel_rule {
    char *text;
    uint64_t ns;
} * kernel_rules;
static size_t kernel_rule_count;

enum option_type { OPTION_NUMBER, OPTION_SIGNED, OPTION_CLOCK, OPTION_KERNELS };

static int64_t option_devices;
static int64_t option_memory_mb;
static int64_t option_copy_ns;
static int64_t option_copy_rate;

static const struct option {
    const char *name;
    enum option_type type;
    int64_t *number;
    int64_t initial, low, high;
    const char *allowed;
} options[] = {
    {"SKEWSCOPE_STANDIN_DEVICES", OPTION_NUMBER, &option_devices, 8, 0, SI_MAX_DEVICES,
     "a number of devices from 0 to 64"},
    {"SKEWSCOPE_STANDIN_MEMORY_MB", OPTION_NUMBER, &option_memory_mb, 16384, 64, 1 << 24,
     "the memory of one device in MiB, from 64"},
    {"SKEWSCOPE_STANDIN_CLOCK", OPTION_CLOCK, NULL, 0, 0, 0, "real, virtual or paced"},
    {"SKEWSCOPE_STANDIN_KERNEL_NS", OPTION_KERNELS, NULL, 0, 0, 0,
     "nanoseconds a kernel lasts, or a list such as 'gemm=150000,softmax=9000,2000'"},
    {"SKEWSCOPE_STANDIN_COPY_NS", OPTION_NUMBER, &option_copy_ns, 1000, 0, INT64_C(1) << 40,
     "the fixed nanoseconds of a copy in model time"},
    {"SKEWSCOPE_STANDIN_COPY_BYTES_PER_US", OPTION_NUMBER, &option_copy_rate, 25000, 1,
     INT64_C(1) << 40, "the bytes a microsecond of a copy in model time, from 1"},
    {"SKEWSCOPE_STANDIN_CLOCK_OFFSET_NS", OPTION_SIGNED, &si_options.offset_ns, 0,
     -(INT64_C(1) << 60), INT64_C(1) << 60, "nanoseconds that the device clock is ahead"},
    {"SKEWSCOPE_STANDIN_CLOCK_DRIFT_PPB", OPTION_SIGNED, &si_options.drift_ppb, 0, -1000000000,
     1000000000, "parts in 10^9 by which the device clock is fast"},
};

static int refuse(const struct option *option, const char *value)
{
    fprintf(stderr, "stand-in CUDA: %s='%s' is not usable: it must be %s\n", option->name, value,
            option->allowed);
    return -EINVAL;
}

static int parse_number(const char *text, int64_t low, int64_t high, int64_t *number)
{
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || value < low || value > high)
        return -EINVAL;
    *number = value;
    return 0;
}

static int parse_clock(const char *text)
{
    static const char *const names[] = {"real", "virtual", "paced"};
    for (int i = 0; i < 3; i++) {
        if (strcmp(text, names[i]) == 0) {
            si_options.clock = (enum si_clock)i;
            return 0;
        }
    }
    return -EINVAL;
}

/* name=ns,name=ns,ns: the one without a name is for all other kernels. */
static int parse_kernels(const char *text)
{
    char *copy = strdup(text), *state = NULL;
    if (copy == NULL)
        return -ENOMEM;
    for (char *item = strtok_r(copy, ",", &state); item; item = strtok_r(NULL, ",", &state)) {
        char *equals = strrchr(item, '=');
        int64_t ns;
        if (parse_number(equals ? equals + 1 : item, 0, INT64_C(1) << 50, &ns) < 0)
            goto bad;
        if (equals == NULL) {
            si_options.kernel_ns = (uint64_t)ns;
            continue;
        }
        void *more = realloc(kernel_rules, (kernel_rule_count + 1) * sizeof(*kernel_rules));
        if (more == NULL)
            goto bad;
        kernel_rules = more;
        *equals = '\0';
        kernel_rules[kernel_rule_count].text = strdup(item);
        kernel_rules[kernel_rule_count].ns = (uint64_t)ns;
        if (kernel_rules[kernel_rule_count++].text == NULL)
            goto bad;
    }
    free(copy);
    return 0;
bad:
    free(copy);
    return -EINVAL;
}

static int read_option(const struct option *option)
{
    const char *value = getenv(option->name);
    int err = 0;
    if (option->number != NULL)
        *option->number = option->initial;
    if (value == NULL || *value == '\0')
        return 0;
    if (option->type == OPTION_CLOCK)
        err = parse_clock(value);
    else if (option->type == OPTION_KERNELS)
        err = parse_kernels(value);
    else
        err = parse_number(value, option->low, option->high, option->number);
    return err == 0 ? 0 : refuse(option, value);
}

int si_options_read(void)
{
    si_options.clock = SI_CLOCK_REAL;
    si_options.kernel_ns = UINT64_MAX;
    for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
        int err = read_option(&options[i]);
        if (err < 0)
            return err;
    }
    si_options.devices = (int)option_devices;
    si_options.memory_bytes = (uint64_t)option_memory_mb << 20;
    si_options.copy_ns = (uint64_t)option_copy_ns;
    si_options.copy_bytes_us = (uint64_t)option_copy_rate;
    if (si_options.kernel_ns == UINT64_MAX)
        si_options.kernel_ns = si_options.clock == SI_CLOCK_REAL ? 0 : 2000;
    return 0;
}

uint64_t si_options_kernel_ns(const char *name)
{
    for (size_t i = 0; i < kernel_rule_count; i++) {
        if (strstr(name, kernel_rules[i].text) != NULL)
            return kernel_rules[i].ns;
    }
    return si_options.kernel_ns;
}
