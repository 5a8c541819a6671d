/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What `run` knows of a run: see run_record.h.
 */
#include "run_record.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "term.h"

extern char **environ;

/* ---- which variables ----------------------------------------------------------------------- */

/* Beginnings of names; a name that ends here is meant whole. */
static const char *const wanted[] = {"NCCL_",
                                     "RCCL_",
                                     "CUDA_",
                                     "NVIDIA_",
                                     "HIP_",
                                     "ROCR_",
                                     "HSA_",
                                     "TORCH_",
                                     "TORCHELASTIC_",
                                     "PYTORCH_",
                                     "TORCHDYNAMO_",
                                     "MEGATRON_",
                                     "NVTE_",
                                     "MOE_",
                                     "EP_",
                                     "DEEPEP_",
                                     "DEEP_EP_",
                                     "HYBRID_EP_",
                                     "HYBRIDEP_",
                                     "NVSHMEM_",
                                     "UCCL_",
                                     "PPLX_",
                                     "FLASHINFER_",
                                     "NIXL_",
                                     "MORI_",
                                     "VLLM_",
                                     "SGLANG_",
                                     "SGL_",
                                     "TRTLLM_",
                                     "TLLM_",
                                     "DEEPSPEED_",
                                     "DS_",
                                     "XLA_",
                                     "JAX_",
                                     "FI_",
                                     "UCX_",
                                     "OMPI_",
                                     "PMI_",
                                     "PMIX_RANK",
                                     "SLURM_",
                                     "OMP_NUM_THREADS",
                                     "MASTER_ADDR",
                                     "MASTER_PORT",
                                     "RANK",
                                     "WORLD_SIZE",
                                     "LOCAL_RANK",
                                     "LOCAL_WORLD_SIZE",
                                     "GROUP_RANK",
                                     "NODE_RANK",
                                     "GROUP_WORLD_SIZE",
                                     "ROLE_RANK",
                                     "LD_LIBRARY_PATH",
                                     "LD_PRELOAD",
                                     "PYTHONPATH",
                                     "VIRTUAL_ENV",
                                     "CONDA_PREFIX",
                                     "SKEWSCOPE_",
                                     NULL};

static const char *const whole[] = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", NULL};

/* Parts of names that mean: nobody else's business. */
static const char *const secrets[] = {"TOKEN", "KEY",  "SECRET", "PASSW",     "PASSPHRASE",
                                      "CRED",  "AUTH", "COOKIE", "SIGNATURE", NULL};

bool skew_run_record_wants(const char *name)
{
    bool found = false;

    for (int i = 0; wanted[i] && !found; i++)
        found = strncmp(name, wanted[i], strlen(wanted[i])) == 0;
    for (int i = 0; whole[i] && found; i++)
        if (strncmp(name, whole[i], strlen(whole[i])) == 0 && strcmp(name, whole[i]) != 0)
            found = false;
    for (int i = 0; secrets[i] && found; i++)
        found = strcasestr(name, secrets[i]) == NULL;
    return found;
}

/* JSON holds UTF-8 only; what is not becomes '?'. */
static json_t *json_text(const char *text)
{
    json_t *value = json_string(text);

    if (!value) {
        char *copy = strdup(text);
        for (char *c = copy; copy && *c; c++)
            if ((unsigned char)*c > 126)
                *c = '?';
        value = json_string(copy ? copy : "");
        free(copy);
    }
    return value;
}

static json_t *environment(void)
{
    json_t *object = json_object();

    for (char **variable = environ; *variable; variable++) {
        char name[256];
        const char *equals = strchr(*variable, '=');
        size_t length = equals ? (size_t)(equals - *variable) : 0;
        if (length == 0 || length >= sizeof name)
            continue;
        memcpy(name, *variable, length);
        name[length] = '\0';
        if (skew_run_record_wants(name))
            json_object_set_new(object, name, json_text(equals + 1));
    }
    return object;
}

/* ---- the record ---------------------------------------------------------------------------- */

static json_int_t real_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (json_int_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Time and chance: several containers of a node may share everything else. */
static void make_id(char id[SKEW_RUN_ID_BYTES])
{
    time_t now = time(NULL);
    struct tm tm;
    uint32_t chance;

    if (getrandom(&chance, sizeof chance, 0) != sizeof chance)
        chance = (uint32_t)getpid() * 2654435761u ^ (uint32_t)skew_clock_ns();
    gmtime_r(&now, &tm);
    size_t length = strftime(id, SKEW_RUN_ID_BYTES, "%Y%m%d-%H%M%S", &tm);
    snprintf(id + length, SKEW_RUN_ID_BYTES - length, "-%08x", chance);
}

/* Requeues and restarts of one job, counted by whoever does them. */
static int incarnation(void)
{
    const char *text = getenv("SLURM_RESTART_COUNT");
    int64_t value;

    return text && skew_parse_int(text, 0, INT32_MAX, &value) ? (int)value : 0;
}

/* Field 22 of /proc/self/stat, whose second field may hold anything; 0 when it cannot be read. */
static json_int_t start_ticks(void)
{
    char text[1024];
    unsigned long long ticks = 0;
    FILE *file = fopen("/proc/self/stat", "re");
    size_t got = file ? fread(text, 1, sizeof text - 1, file) : 0;

    if (file)
        fclose(file);
    text[got] = '\0';
    const char *close = strrchr(text, ')');
    if (!close || sscanf(close + 1,
                         " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d"
                         " %*d %*d %*d %llu",
                         &ticks) != 1)
        return 0;
    return (json_int_t)ticks;
}

/* Who writes this: another node leaves it alone, and whoever collects sees whether we still live.
 */
static void set_identity(json_t *root)
{
    char boot_id[64] = "";
    struct stat namespace;
    FILE *file = fopen("/proc/sys/kernel/random/boot_id", "re");

    if (file && fgets(boot_id, sizeof boot_id, file)) {
        boot_id[strcspn(boot_id, "\n")] = '\0';
        json_object_set_new(root, "boot_id", json_text(boot_id));
    }
    if (file)
        fclose(file);
    json_int_t ticks = start_ticks();
    if (ticks && stat("/proc/self/ns/pid", &namespace) == 0) {
        json_object_set_new(root, "pid_ns", json_integer((json_int_t) namespace.st_ino));
        json_object_set_new(root, "pid", json_integer(getpid()));
        json_object_set_new(root, "start_ticks", json_integer(ticks));
    }
}

int skew_run_record_create(struct skew_run_record *record, const char *state_dir, char **arguments)
{
    char cwd[PATH_MAX];
    json_t *command = json_array();

    *record = (struct skew_run_record){.root = json_object()};
    make_id(record->id);
    if (asprintf(&record->path, "%s/run-%s.json", state_dir, record->id) < 0)
        record->path = NULL;
    if (!record->path || !record->root || !command) {
        json_decref(command);
        skew_run_record_free(record);
        return -ENOMEM;
    }
    for (char **argument = arguments; *argument; argument++)
        json_array_append_new(command, json_text(*argument));
    json_object_set_new(record->root, "id", json_string(record->id));
    set_identity(record->root);
    json_object_set_new(record->root, "command", command);
    json_object_set_new(record->root, "cwd", json_text(getcwd(cwd, sizeof cwd) ? cwd : "?"));
    json_object_set_new(record->root, "version", json_string(SKEW_VERSION));
    json_object_set_new(record->root, "incarnation", json_integer(incarnation()));
    json_object_set_new(record->root, "started_real_ns", json_integer(real_ns()));
    json_object_set_new(record->root, "ended_real_ns", json_null());
    json_object_set_new(record->root, "exit_status", json_null());
    json_object_set_new(record->root, "exit_signal", json_null());
    json_object_set_new(record->root, "labels", json_object());
    json_object_set_new(record->root, "env", environment());
    json_object_set_new(record->root, "packages", json_array());
    json_object_set_new(record->root, "gpus", json_array());
    json_object_set_new(record->root, "notes", json_array());
    return 0;
}

void skew_run_record_free(struct skew_run_record *record)
{
    json_decref(record->root);
    free(record->path);
    *record = (struct skew_run_record){0};
}

bool skew_run_record_label(struct skew_run_record *record, const char *label)
{
    const char *equals = strchr(label, '=');
    char key[128];

    if (!equals || equals == label || (size_t)(equals - label) >= sizeof key)
        return false;
    memcpy(key, label, (size_t)(equals - label));
    key[equals - label] = '\0';
    return json_object_set_new(json_object_get(record->root, "labels"), key,
                               json_text(equals + 1)) == 0;
}

void skew_run_record_package(struct skew_run_record *record, const char *name, const char *version,
                             const char *path)
{
    json_t *one = json_object();

    json_object_set_new(one, "name", json_text(name));
    json_object_set_new(one, "version", version ? json_text(version) : json_null());
    json_object_set_new(one, "path", json_text(path));
    json_array_append_new(json_object_get(record->root, "packages"), one);
}

void skew_run_record_gpu(struct skew_run_record *record, const char *bus, const char *model,
                         const char *driver)
{
    json_t *one = json_object();

    json_object_set_new(one, "bus", json_text(bus));
    json_object_set_new(one, "model", json_text(model));
    json_object_set_new(one, "driver", driver ? json_text(driver) : json_null());
    json_array_append_new(json_object_get(record->root, "gpus"), one);
}

void skew_run_record_note(struct skew_run_record *record, const char *code, const char *severity,
                          const char *format, ...)
{
    json_t *notes = json_object_get(record->root, "notes"), *one;
    char *text = NULL;
    va_list arguments;
    size_t i;

    va_start(arguments, format);
    int length = vasprintf(&text, format, arguments);
    va_end(arguments);
    if (length < 0)
        return;
    json_array_foreach(notes, i, one)
    {
        if (strcmp(json_string_value(json_object_get(one, "text")), text) == 0) {
            free(text);
            return;
        }
    }
    one = json_object();
    json_object_set_new(one, "code", json_string(code));
    json_object_set_new(one, "severity", json_string(severity));
    json_object_set_new(one, "text", json_text(text));
    json_array_append_new(notes, one);
    free(text);
}

void skew_run_record_end(struct skew_run_record *record, int status)
{
    json_object_set_new(record->root, "ended_real_ns", json_integer(real_ns()));
    if (WIFEXITED(status))
        json_object_set_new(record->root, "exit_status", json_integer(WEXITSTATUS(status)));
    else if (WIFSIGNALED(status))
        json_object_set_new(record->root, "exit_signal", json_integer(WTERMSIG(status)));
}

int skew_run_record_write(const struct skew_run_record *record, bool durable)
{
    char *temporary = NULL, *text = json_dumps(record->root, JSON_INDENT(1) | JSON_PRESERVE_ORDER);
    int fd = -1, result = 0;

    if (!text ||
        asprintf(&temporary, "%.*s.tmp-%s", (int)(strrchr(record->path, '/') - record->path + 1),
                 record->path, record->id) < 0) {
        free(text);
        return -ENOMEM;
    }
    unlink(temporary);
    fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        result = -errno;
    size_t length = strlen(text), done = 0;
    while (result == 0 && done < length) {
        ssize_t written = write(fd, text + done, length - done);
        if (written < 0 && errno != EINTR)
            result = -errno;
        else if (written > 0)
            done += (size_t)written;
    }
    if (result == 0 && durable && fsync(fd) != 0)
        result = -errno;
    if (fd >= 0)
        close(fd);
    if (result == 0 && rename(temporary, record->path) != 0)
        result = -errno;
    if (result < 0 && fd >= 0)
        unlink(temporary);
    free(temporary);
    free(text);
    return result;
}
