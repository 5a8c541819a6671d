/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an exchange costs the host beside time, once everything is warm: nothing. After its first
 * exchanges the program forbids itself all system calls (seccomp) and all allocation (malloc
 * below), makes as many exchanges as fit into a segment, and says so. A forbidden one ends it.
 *
 * usage: quiet syscalls|allocations EXCHANGES [ranges]      ranges: each exchange in an NVTX range
 * of its own
 */
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "expect.h"
#include "nvtx.h"

#define PEERS 4

static int allocation_forbidden;

extern void *__libc_malloc(size_t bytes);
extern void *__libc_calloc(size_t count, size_t bytes);
extern void *__libc_realloc(void *at, size_t bytes);

static void allocated(void)
{
    static const char text[] = "an allocation on the hot path\n";
    if (__atomic_load_n(&allocation_forbidden, __ATOMIC_RELAXED)) {
        ssize_t ignored = write(2, text, sizeof(text) - 1);
        (void)ignored;
        _exit(4);
    }
}

void *malloc(size_t bytes)
{
    allocated();
    return __libc_malloc(bytes);
}

void *calloc(size_t count, size_t bytes)
{
    allocated();
    return __libc_calloc(count, bytes);
}

void *realloc(void *at, size_t bytes)
{
    allocated();
    return __libc_realloc(at, bytes);
}

/* Write, to say so, and the end are all that is left. SIGSYS names any other in the exit status. */
static void forbid_system_calls(void)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_write, 2, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit_group, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof(filter) / sizeof(filter[0]), filter};
    MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
        _exit(77);
}

static bool ranges;

/* Without printf(), which may allocate. */
static void enter(unsigned step)
{
    char text[] = "step 0000";
    for (char *digit = text + 8; digit > text + 4 && step; digit--, step /= 10)
        *digit = (char)('0' + step % 10);
    ((int (*)(const char *))skew_nvtx_core[9])(text);
    ((int (*)(const char *))skew_nvtx_core[9])("layer 3");
}

static void leave(void)
{
    ((int (*)(void))skew_nvtx_core[11])();
    ((int (*)(void))skew_nvtx_core[11])();
}

static void exchange(ncclComm_t comm, unsigned step)
{
    if (ranges)
        enter(step);
    ncclGroupStart();
    for (int p = 0; p < PEERS; p++) {
        ncclSend(NULL, (size_t)p, ncclBfloat16, p, comm, NULL);
        ncclRecv(NULL, (size_t)p, ncclBfloat16, p, comm, NULL);
    }
    ncclGroupEnd();
    ncclAllReduce(NULL, NULL, 1, ncclFloat32, ncclSum, comm, NULL);
    if (ranges)
        leave();
}

int main(int argc, char **argv)
{
    MUST(argc >= 3);
    ranges = argc > 3 && skew_nvtx_open();
    MUST(ranges == (argc > 3));
    int exchanges = atoi(argv[2]);
    ncclComm_t comm = make_comm(PEERS, 0, 1);
    for (unsigned i = 0; i < 3; i++)
        exchange(comm, 1000 + i);
    if (strcmp(argv[1], "syscalls") == 0)
        forbid_system_calls();
    __atomic_store_n(&allocation_forbidden, 1, __ATOMIC_RELAXED);
    for (int i = 0; i < exchanges; i++)
        exchange(comm, 2000 + (unsigned)i % 1000);
    static const char text[] = "quiet\n";
    _exit(write(1, text, sizeof(text) - 1) == sizeof(text) - 1 ? 0 : 5);
}
