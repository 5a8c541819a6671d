/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The entries of functions whose prototypes are not known (interpose/call_entry.S), called by
 * prototypes of all kinds: what is asked before the jump spoils every register that a function may,
 * and no argument changes.
 */
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "must.h"

void ncclEpDispatch(void);
void ncclEpCombine(void);
void *skew_call_noted(uint32_t function, const void *object, uintptr_t address, uintptr_t frame);

static struct {
    void *real; /* the answer */
    uint32_t function;
    const void *object;
    uintptr_t address, frame;
    unsigned asked;
} noted;

/* What the procedure call standards let a function do. */
static void spoil(void)
{
#if defined(__x86_64__)
    __asm__ volatile(
        "xorl %%eax, %%eax\n\tmovl $-1, %%ecx\n\tmovl $-2, %%edx\n\tmovl $-3, %%esi\n\tmovl $-4, "
        "%%edi\n\t"
        "movl $-5, %%r8d\n\tmovl $-6, %%r9d\n\tmovl $-7, %%r10d\n\tmovl $-8, %%r11d\n\t"
        "pcmpeqb %%xmm0, %%xmm0\n\tpcmpeqb %%xmm1, %%xmm1\n\tpcmpeqb %%xmm2, %%xmm2\n\t"
        "pcmpeqb %%xmm3, %%xmm3\n\tpcmpeqb %%xmm4, %%xmm4\n\tpcmpeqb %%xmm5, %%xmm5\n\t"
        "pcmpeqb %%xmm6, %%xmm6\n\tpcmpeqb %%xmm7, %%xmm7\n\t"
        :
        :
        : "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "xmm0", "xmm1", "xmm2",
          "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "cc");
    if (__builtin_cpu_supports("avx"))
        __asm__ volatile("vzeroupper" : : : "xmm8");
#elif defined(__aarch64__)
    __asm__ volatile(
        "mov x0, #1\n\tmov x1, #1\n\tmov x2, #1\n\tmov x3, #1\n\tmov x4, #1\n\tmov x5, #1\n\tmov "
        "x6, #1\n\t"
        "mov x7, #1\n\tmov x8, #1\n\tmov x9, #1\n\tmov x16, #1\n\tmov x17, #1\n\t"
        "movi v0.16b, #255\n\tmovi v1.16b, #255\n\tmovi v2.16b, #255\n\tmovi v3.16b, #255\n\t"
        "movi v4.16b, #255\n\tmovi v5.16b, #255\n\tmovi v6.16b, #255\n\tmovi v7.16b, #255\n\t"
        :
        :
        : "x0", "x1", "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x16", "x17", "v0", "v1",
          "v2", "v3", "v4", "v5", "v6", "v7");
#endif
}

void *skew_call_noted(uint32_t function, const void *object, uintptr_t address, uintptr_t frame)
{
    noted.function = function;
    noted.object = object;
    noted.address = address;
    noted.frame = frame;
    noted.asked++;
    spoil();
    return noted.real;
}

struct large {
    int64_t part[9];
};

struct mixed {
    double a;
    int64_t b;
};

static struct large everything(void *first, int a, long b, short c, unsigned char d, uint64_t e,
                               int f, long g, int h, double p, float q, double r, double s, float t,
                               double u, double v, double w, double x, float y, struct large large,
                               struct mixed mixed)
{
    MUST(first == (void *)0x1234 && a == -1 && b == -2 && c == -3 && d == 4 &&
         e == UINT64_MAX - 5 && f == 6 && g == -7 && h == 8);
    MUST(p == 0.5 && q == 1.5f && r == 2.5 && s == 3.5 && t == 4.5f && u == 5.5 && v == 6.5 &&
         w == 7.5 && x == 8.5 && y == 9.5f);
    MUST(mixed.a == 10.5 && mixed.b == -11);
    for (int i = 0; i < 9; i++)
        large.part[i] += i;
    return large;
}

static double variadic(const char *kinds, ...)
{
    double sum = 0;
    va_list args;
    va_start(args, kinds);
    for (; *kinds; kinds++)
        sum = 2 * sum + (*kinds == 'd' ? va_arg(args, double) : va_arg(args, int));
    va_end(args);
    return sum;
}

#if defined(__x86_64__)
typedef double wide __attribute__((vector_size(32)));

__attribute__((target("avx"))) static wide of_wide(wide a, wide b)
{
    return a + b;
}

__attribute__((target("avx"), noinline)) static void vectors_pass(void)
{
    wide (*call)(wide, wide) = (wide(*)(wide, wide))ncclEpDispatch;
    volatile wide a = {1, 2, 3, 4}, b = {10, 20, 30, 40};
    noted.real = (void *)of_wide;
    wide sum = call(a, b);
    MUST(sum[0] == 11 && sum[1] == 22 && sum[2] == 33 && sum[3] == 44);
}
#endif

static void arguments_pass(void)
{
    struct large (*call)(void *, int, long, short, unsigned char, uint64_t, int, long, int, double,
                         float, double, double, float, double, double, double, double, float,
                         struct large, struct mixed) = (__typeof__(call))ncclEpDispatch;
    double (*list)(const char *, ...) = (__typeof__(list))ncclEpCombine;
    struct large large;
    for (int i = 0; i < 9; i++)
        large.part[i] = 1000 * i;
    noted.real = (void *)everything;
    struct large got = call((void *)0x1234, -1, -2, -3, 4, UINT64_MAX - 5, 6, -7, 8, 0.5, 1.5f, 2.5,
                            3.5, 4.5f, 5.5, 6.5, 7.5, 8.5, 9.5f, large, (struct mixed){10.5, -11});
    for (int i = 0; i < 9; i++)
        MUST(got.part[i] == 1001 * i);
    noted.real = (void *)variadic;
    MUST(list("ididididididid", 1, .5, 2, .5, 3, .5, 4, .5, 5, .5, 6, .5, 7, .5) ==
         variadic("ididididididid", 1, .5, 2, .5, 3, .5, 4, .5, 5, .5, 6, .5, 7, .5));
    MUST(list("dddddddddddd", 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12.) ==
         variadic("dddddddddddd", 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12.));
}

static uintptr_t returned_to;

static int where(void *object, int a, int b, int c, int d, int e, int f, int g, long on_stack)
{
    (void)object;
    returned_to = (uintptr_t)__builtin_return_address(0);
    return a + b + c + d + e + f + g + (int)on_stack;
}

/* What is told of a call: which, its first argument, and where it was made. */
static void call_is_told(void)
{
    int (*call)(void *, int, int, int, int, int, int, int, long) = (__typeof__(call))ncclEpCombine;
    uint32_t combine = noted.function;
    noted.real = (void *)where;
    noted.asked = 0;
    MUST(call(&noted, 1, 2, 3, 4, 5, 6, 7, 4711) == 4739 && noted.asked == 1);
    MUST(noted.object == &noted && noted.address == returned_to && noted.function == combine);
    MUST(noted.frame % 16 == 0);
    call = (__typeof__(call))ncclEpDispatch;
    MUST(call(&noted, 1, 2, 3, 4, 5, 6, 7, 4711) == 4739);
    MUST(noted.function != combine && noted.address == returned_to);
}

int main(void)
{
    for (int again = 0; again < 2;
         again++) { /* the first time it is found out how to keep vector registers */
        arguments_pass();
        call_is_told();
#if defined(__x86_64__)
        if (__builtin_cpu_supports("avx"))
            vectors_pass();
#endif
    }
    return 0;
}
