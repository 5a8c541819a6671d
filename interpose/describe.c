/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tells the trace who this process is: its identity for the head of the spool, and, as definitions,
 * program, arguments, host and the part of the environment that decides how NCCL and CUDA behave.
 * Runs once, when the spool is created, under the process lock. Never stores a variable whose name
 * looks like a secret's.
 */
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "internal.h"

extern char **environ;

static unsigned hex_digit(char c)
{
    return c >= '0' && c <= '9'   ? (unsigned)(c - '0')
           : c >= 'a' && c <= 'f' ? (unsigned)(c - 'a' + 10)
                                  : 16;
}

static void read_boot_id(uint8_t id[16])
{
    char text[64];
    unsigned n = 0;
    if (skew_sys_read_file("/proc/sys/kernel/random/boot_id", text, sizeof(text)) < 0)
        return;
    for (const char *p = text; p[0] && p[1] && n < 16; p++) {
        if (hex_digit(p[0]) > 15 || hex_digit(p[1]) > 15)
            continue;
        id[n++] = (uint8_t)(hex_digit(p[0]) << 4 | hex_digit(p[1]));
        p++;
    }
}

/* Field 22 of /proc/self/stat; the name in parentheses may hold anything. */
static uint64_t read_start_ticks(void)
{
    char text[1024];
    if (skew_sys_read_file("/proc/self/stat", text, sizeof(text)) < 0)
        return 0;
    const char *p = strrchr(text, ')');
    for (unsigned field = 2; p && field < 22; field++)
        p = strchr(p + 1, ' ');
    uint64_t ticks = 0;
    for (p = p ? p + 1 : ""; *p >= '0' && *p <= '9'; p++)
        ticks = ticks * 10 + (uint64_t)(*p - '0');
    return ticks;
}

void skew_describe_identity(struct skew_spool_head *head)
{
    read_boot_id(head->boot_id);
    head->pid_ns = skew_sys_inode("/proc/self/ns/pid");
    head->mnt_ns = skew_sys_inode("/proc/self/ns/mnt");
    head->start_ticks = read_start_ticks();
    head->pid = (uint32_t)getpid();
    head->uid = (uint32_t)geteuid();
    skew_text_add(head->run_id, sizeof(head->run_id), 0, skew_option_text(SKEW_OPT_RUN_ID));
    head->created_ns = skew_now();
    head->created_real_ns = skew_now_real();
}

static void put(struct skew_process *proc, enum skew_process_text what, const char *text,
                size_t length)
{
    struct skew_rec_text rec = {
        .head = {.type = SKEW_REC_PROCESS},
        .what = what,
        .length = (uint32_t)length,
        .ns = proc->head->created_ns,
    };
    if (length)
        skew_defs_put(proc, &rec.head, sizeof(rec), text, length);
}

static bool starts_with(const char *text, const char *prefix)
{
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

static bool wanted(const char *variable)
{
    static const char *const prefixes[] = {
        "RANK=",
        "LOCAL_RANK=",
        "WORLD_SIZE=",
        "LOCAL_WORLD_SIZE=",
        "GROUP_RANK=",
        "ROLE_RANK=",
        "MASTER_",
        "SLURM_",
        "OMPI_COMM_WORLD_",
        "PMI_",
        "PMIX_RANK=",
        "FLUX_",
        "NCCL_",
        "RCCL_",
        "CUDA_",
        "NVTX_INJECTION64_PATH=",
        "HIP_VISIBLE_DEVICES=",
        "ROCR_VISIBLE_DEVICES=",
        "TORCH",
        "NVTE_",
        "NVSHMEM_",
        "VLLM_",
        "SGLANG_",
        "TRTLLM_",
        "XLA_FLAGS=",
        "JAX_",
        "DEEPEP_",
        "EP_",
        "UCX_",
        "FI_",
        "MOE_",
        "MEGATRON_",
        "LD_PRELOAD=",
        "LD_LIBRARY_PATH=",
        SKEW_ENV_PREFIX,
        NULL,
    };
    static const char *const secrets[] = {"TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL",
                                          "_KEY",  "APIKEY", "JWT",      NULL};
    const char *equals = strchr(variable, '=');
    bool found = false;
    for (unsigned i = 0; prefixes[i] && !found; i++)
        found = starts_with(variable, prefixes[i]);
    for (unsigned i = 0; equals && found && secrets[i]; i++) {
        const char *at = strstr(variable, secrets[i]);
        found = !at || at > equals;
    }
    return equals && found;
}

static void put_nccl(struct skew_process *proc)
{
    char text[SKEW_PATH_BYTES + 64];
    size_t at = skew_text_add_number(text, sizeof(text), 0, skew_bind_version(), 10, 1);
    at = skew_text_add(text, sizeof(text), at, " ");
    at = skew_text_add(text, sizeof(text), at, skew_bind_path());
    at = skew_text_add(text, sizeof(text), at, " ");
    at = skew_text_add(text, sizeof(text), at, skew_bind_route());
    put(proc, SKEW_TEXT_NCCL, text, at);
}

void skew_describe_process(struct skew_process *proc)
{
    enum { LARGE = 128 << 10 };
    char small[4096], *text = small;
    size_t room = sizeof(small);
    char *large = mmap(NULL, LARGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (large != MAP_FAILED) {
        text = large;
        room = LARGE;
    }
    ssize_t n = readlink("/proc/self/exe", text, room - 1);
    put(proc, SKEW_TEXT_EXE, text, n > 0 ? (size_t)n : 0);
    int got = skew_sys_read_file("/proc/self/cmdline", text, room < (16 << 10) ? room : 16 << 10);
    put(proc, SKEW_TEXT_CMDLINE, text, got > 0 ? (size_t)got : 0);
    if (gethostname(small, 256) == 0)
        put(proc, SKEW_TEXT_HOST, small, strnlen(small, 256));
    if (getcwd(text, room))
        put(proc, SKEW_TEXT_CWD, text, strlen(text));
    put(proc, SKEW_TEXT_OUT, proc->out_dir, strlen(proc->out_dir));
    put(proc, SKEW_TEXT_VERSION, SKEW_VERSION, strlen(SKEW_VERSION));
    put_nccl(proc);
    for (char **e = environ; e && *e; e++)
        if (wanted(*e) && strlen(*e) < 8192)
            put(proc, SKEW_TEXT_ENV, *e, strlen(*e));
    if (large != MAP_FAILED)
        munmap(large, LARGE);
}
