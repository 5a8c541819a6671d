/* SPDX-License-Identifier: Apache-2.0 */
/*
 * NVTX ranges around calls to NCCL. usage: nvtx CASE      prints what must be recorded, "ranges
 * GROUP: OUTER > INNER": from that group on the thread is in these (spool.py). Built three times:
 * on our own words of NVTX 3 (tools/workload/nvtx.h), on NVIDIA's headers (NVTX_REAL), on a library
 * (NVTX_LIBRARY).
 */
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>
#include <wchar.h>

#include "expect.h"
#include "nvtx_abi.h"

#ifdef NVTX_REAL
#include <nvtx3/nvToolsExt.h>
_Static_assert(sizeof(nvtxEventAttributes_t) == sizeof(struct skew_nvtx_event),
               "nvtxEventAttributes_t");
#else
#define NVTX_VERSION 3
#endif

#ifdef NVTX_LIBRARY
#include "nvtx_library.h"
#elif !defined(NVTX_REAL)
#include "nvtx.h"
#define CALL(table, function, type, ...)                                                           \
    (table[function] ? ((type)table[function])(__VA_ARGS__) : 0)
static int nvtxRangePushA(const char *message)
{
    return CALL(skew_nvtx_core, 9, int (*)(const char *), message);
}
static int nvtxRangePushW(const wchar_t *message)
{
    return CALL(skew_nvtx_core, 10, int (*)(const wchar_t *), message);
}
static int nvtxRangePop(void)
{
    return CALL(skew_nvtx_core, 11, int (*)(void), );
}
static void nvtxMarkA(const char *message)
{
    if (skew_nvtx_core[2])
        ((void (*)(const char *))skew_nvtx_core[2])(message);
}
static int nvtxDomainRangePushEx(void *domain, const void *event)
{
    return CALL(skew_nvtx_core2, 4, int (*)(void *, const void *), domain, event);
}
static int nvtxDomainRangePop(void *domain)
{
    return CALL(skew_nvtx_core2, 5, int (*)(void *), domain);
}
static void *nvtxDomainCreateA(const char *name)
{
    return CALL(skew_nvtx_core2, 12, void *(*)(const char *), name);
}
static void *nvtxDomainRegisterStringA(void *domain, const char *text)
{
    return CALL(skew_nvtx_core2, 10, void *(*)(void *, const char *), domain, text);
}
#endif

static ncclComm_t comm; /* rank 0 of 4 */

static void send(void)
{
    OK(ncclSend(NULL, 1, ncclInt32, 1, comm, NULL));
}

/* As NVTX has it, if somebody listens. */
static void level(int got, int expected)
{
    MUST(got == expected || getenv("SKEWSCOPE_NVTX"));
}

static void nested(void)
{
    send();
    level(nvtxRangePushA("step 0"), 0);
    level(nvtxRangePushA("layer 1"), 1);
    send();
    expect("ranges 2: step 0 > layer 1");
    send(); /* nothing new */
    level(nvtxRangePop(), 1);
    nvtxRangePushA("layer 2");
    OK(ncclGroupStart());
    for (int peer = 0; peer < 4; peer++)
        OK(ncclSend(NULL, 1, ncclInt32, peer, comm, NULL));
    OK(ncclGroupEnd());
    expect("ranges 4: step 0 > layer 2");
    nvtxRangePop();
    nvtxRangePop();
    nvtxRangePop(); /* one too many */
    send();
    expect("ranges 5:");
    nvtxRangePushA("without a call");
    nvtxRangePop();
    send();
    nvtxRangePushA("never left");
    OK(ncclAllReduce(NULL, NULL, 7, ncclFloat32, ncclSum, comm, NULL));
    expect("ranges 7: never left");
}

/* A group is in what the thread was in at its first call. */
static void inside(void)
{
    for (int round = 0; round < 2; round++) { /* the first group of a thread goes another way */
        OK(ncclGroupStart());
        send();
        nvtxRangePushA("in the group");
        send();
        OK(ncclGroupEnd());
        OK(ncclGroupStart());
        send();
        OK(ncclGroupEnd());
        expect("ranges %d: in the group", 5 * round + 2);
        OK(ncclGroupStart());
        send();
        nvtxRangePop();
        OK(ncclGroupStart());
        send();
        OK(ncclGroupEnd());
        OK(ncclGroupEnd());
        OK(ncclGroupStart());
        nvtxRangePushA("before the calls");
        send();
        send();
        OK(ncclGroupEnd());
        expect("ranges %d: before the calls", 5 * round + 4);
        nvtxRangePop();
        OK(ncclGroupStart());
        send();
        OK(ncclGroupEnd());
        expect("ranges %d:", 5 * round + 5);
    }
    OK(ncclGroupStart()); /* no group at all */
    nvtxRangePushA("nothing");
    OK(ncclGroupEnd());
    nvtxRangePop();
    OK(ncclGroupStart());
    send();
    OK(ncclGroupEnd());
}

static void marks(void)
{
    nvtxRangePushA("a");
    nvtxMarkA("one");
    send();
    expect("ranges 1: a | one");
    for (int i = 0; i < 6; i++) {
        char text[16];
        snprintf(text, sizeof text, "m%d", i);
        nvtxMarkA(text);
    }
    send();
    expect("ranges 2: a | 2, m2, m3, m4, m5");
    send();
}

static void deep(void)
{
    char text[16];
    for (int i = 0; i < 20; i++) {
        snprintf(text, sizeof text, "l%d", i);
        level(nvtxRangePushA(text), i);
    }
    send();
    expect("ranges 1: l0 > l1 > l2 > l3 > l4 > l5 > l6 > l7 > l8 > l9 > l10 > l11 > l12 > l13 > "
           "l14 > l15 +4");
    for (int i = 0; i < 5; i++)
        nvtxRangePop();
    send();
    expect(
        "ranges 2: l0 > l1 > l2 > l3 > l4 > l5 > l6 > l7 > l8 > l9 > l10 > l11 > l12 > l13 > l14");
}

static void texts(void)
{
    static const char *const said[] = {"epoch 3 step 12 of 100, 7 left",
                                       "007",
                                       "x1y2z3",
                                       "123456789012345678",
                                       "1234567890123456789",
                                       "\xe2\x82\xac 5",
                                       "50%d%s",
                                       ""};
    char longer[301] = {0};
    for (unsigned i = 0; i < sizeof said / sizeof *said; i++) {
        nvtxRangePushA(said[i]);
        send();
        expect("ranges %u:%s%s", i + 1, *said[i] ? " " : "", said[i]);
        nvtxRangePop();
    }
    memset(longer, 'a', 300);
    nvtxRangePushA(longer);
    send();
    expect("ranges 9: %.126s", longer);
    nvtxRangePop();
    nvtxRangePushA("\x01\xff!"); /* no UTF-8, and our own mark for numbers */
    send();
    expect("ranges 10: ?\\xff!");
}

static void wide(void)
{
    nvtxRangePushW(L"Schritt \u00e4\u20ac\U0001f600 4");
    send();
    expect("ranges 1: Schritt \xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80 4");
}

static struct skew_nvtx_event event_of(int type, const void *message)
{
    return (struct skew_nvtx_event){.version = NVTX_VERSION,
                                    .size = sizeof(struct skew_nvtx_event),
                                    .message_type = type,
                                    .message = message};
}

static void domains(void)
{
    struct skew_nvtx_event step = event_of(SKEW_NVTX_ASCII, "step 4"),
                           layer = event_of(SKEW_NVTX_UNICODE, L"w 5");
    void *domain = (void *)nvtxDomainCreateA("model");
#ifdef NVTX_LIBRARY
    const char *name = ""; /* only a tool of NVTX 3 is told */
#else
    const char *name = "model:";
#endif
    nvtxDomainRangePushEx((void *)domain, (const void *)&step);
    nvtxRangePushA("b");
    nvtxDomainRangePushEx((void *)domain, (const void *)&layer);
    send();
    expect("ranges 1: %sstep 4 > b > %sw 5", name, name);
    nvtxRangePop(); /* of the default domain: not the innermost */
    send();
    expect("ranges 2: %sstep 4 > %sw 5", name, name);
    nvtxDomainRangePop((void *)domain);
    send();
    expect("ranges 3: %sstep 4", name);
#ifndef NVTX_LIBRARY
    struct skew_nvtx_event kept =
        event_of(SKEW_NVTX_REGISTERED, (void *)nvtxDomainRegisterStringA((void *)domain, "kept 6"));
    nvtxDomainRangePushEx((void *)domain, (const void *)&kept);
    send();
    expect("ranges 4: model:step 4 > model:kept 6");
#endif
}

/* More texts than there is room for: ranges without a name, and it is said. */
static void names(void)
{
    char text[16];
    for (unsigned i = 0; i < 4200; i++) {
        snprintf(text, sizeof text, "n%c%c%c", 'a' + i % 26, 'a' + i / 26 % 26, 'a' + i / 676);
        nvtxRangePushA(text);
        nvtxRangePop();
    }
    nvtxRangePushA("too late");
    send();
    expect("ranges 1: ?");
    nvtxRangePushA("naaa");
    send();
    expect("ranges 2: ? > naaa");
    expect("diag nvtx");
}

static void *other(void *user)
{
    send();
    nvtxRangePushA("the other's");
    send();
    expect("ranges 2: the other's");
    return user;
}

/* A thread is not in the ranges of the one that made it, as autograd's are. */
static void threads(void)
{
    pthread_t thread;
    nvtxRangePushA("the first's");
    send();
    expect("ranges 1: the first's");
    fflush(stdout);
    MUST(pthread_create(&thread, NULL, other, NULL) == 0 && pthread_join(thread, NULL) == 0);
    send();
}

/* Nor is a child of fork() in those of its parent. Its communicator is its own. */
static void forked(void)
{
    int status;
    nvtxRangePushA("the parent's");
    send();
    expect("ranges 1: the parent's");
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        comm = make_comm(4, 0, 2);
        send();
        nvtxRangePop();
        nvtxRangePushA("the child's");
        send();
        expect("child ranges 2: the child's");
        fflush(stdout);
        _exit(0);
    }
    MUST(child > 0 && waitpid(child, &status, 0) == child && status == 0);
    send();
}

static void *quiet_thread(void *user)
{
    nvtxRangePushA("no call");
    return user;
}

static void without_nccl(void)
{
    pthread_t thread;
    nvtxRangePushA("no call");
    nvtxMarkA("none");
    MUST(pthread_create(&thread, NULL, quiet_thread, NULL) == 0 && pthread_join(thread, NULL) == 0);
}

static const struct {
    const char *name;
    void (*run)(void);
    bool no_comm;
} cases[] = {{"nested", nested, false},
             {"inside", inside, false},
             {"marks", marks, false},
             {"deep", deep, false},
             {"texts", texts, false},
             {"wide", wide, false},
             {"domains", domains, false},
             {"names", names, false},
             {"threads", threads, false},
             {"forked", forked, false},
             {"without_nccl", without_nccl, true}};

int main(int argc, char **argv)
{
#if !defined(NVTX_REAL) && !defined(NVTX_LIBRARY)
    bool heard = argc > 1 && skew_nvtx_open();
    if (argc > 1 && strcmp(argv[1], "asked") == 0) {
        puts(heard ? "heard" : "refused");
        return 0;
    }
#endif
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (argc < 2) {
            puts(cases[i].name);
        } else if (strcmp(argv[1], cases[i].name) == 0) {
            nvtxRangePushA("before NCCL"); /* the thread's state is made for NVTX alone */
            nvtxRangePop();
            if (!cases[i].no_comm)
                comm = make_comm(4, 0, 1);
            cases[i].run();
            return 0;
        }
    }
    return argc < 2 ? 0 : 2;
}
