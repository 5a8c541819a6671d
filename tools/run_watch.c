/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the processes of a run have loaded: see run_watch.h.
 */
#include "run_watch.h"
#include "collect/backends.h"
#include "elf_file.h"
#include "packages.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define FIRST_MS   50
#define LONGEST_MS 300000
#define MOST_LOOKS 6 /* at one process in which nothing is missing */
#define MOST_TEXT  (16u << 20)

struct skew_watch {
    pthread_t thread;
    pthread_mutex_t lock; /* with `wake`, for the sleep */
    pthread_cond_t wake;
    bool stop;          /* read and written with __atomic by both threads */
    bool packages_done; /* likewise; `packages` is complete when it is set */
    pid_t root;
    char marker[80]; /* SKEWSCOPE_RUN_ID=… as it stands in an environment */
    char library[PATH_MAX];
    struct stat library_file;
    /* The thread's until it has ended. */
    struct skew_watched *processes;
    size_t process_count;
    struct skew_watched_object **objects;
    size_t object_count;
    struct skew_watched_package *packages;
    size_t package_count;
};

/* ---- reading /proc ------------------------------------------------------------------------- */

/* All of a file of /proc, with a NUL behind it. Caller frees. */
static char *read_all(const char *path, size_t *length)
{
    size_t room = 16384, used = 0;
    char *text = malloc(room);
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    while (text && fd >= 0) {
        ssize_t got = read(fd, text + used, room - used - 1);
        if (got <= 0)
            break;
        used += (size_t)got;
        if (room - used < 4096 && room < MOST_TEXT) {
            char *bigger = realloc(text, room * 2);
            if (!bigger)
                break;
            text = bigger;
            room *= 2;
        } else if (room - used < 2) {
            break;
        }
    }
    if (fd < 0) {
        free(text);
        return NULL;
    }
    close(fd);
    if (text)
        text[used] = '\0';
    *length = used;
    return text;
}

struct seen {
    pid_t pid, parent;
    uint64_t start;
    bool ours;
};

/* pid, parent and start time from /proc/PID/stat, whose second field may hold anything. */
static bool read_stat(pid_t pid, struct seen *seen)
{
    char path[64];
    size_t length;
    int parent;
    unsigned long long start;

    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    char *text = read_all(path, &length);
    const char *close = text ? strrchr(text, ')') : NULL;
    bool read = close && sscanf(close + 1,
                                " %*c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d"
                                " %*d %*d %*d %llu",
                                &parent, &start) == 2;
    free(text);
    if (read)
        *seen = (struct seen){.pid = pid, .parent = parent, .start = start};
    return read;
}

static size_t list_processes(struct seen **out)
{
    struct seen *all = NULL;
    size_t count = 0, room = 0;
    struct dirent *entry;
    DIR *proc = opendir("/proc");

    while (proc && (entry = readdir(proc))) {
        pid_t pid = (pid_t)strtol(entry->d_name, NULL, 10);
        if (pid <= 0)
            continue;
        if (count == room) {
            struct seen *bigger = realloc(all, (room ? room * 2 : 256) * sizeof *all);
            if (!bigger)
                break;
            room = room ? room * 2 : 256;
            all = bigger;
        }
        count += read_stat(pid, &all[count]);
    }
    if (proc)
        closedir(proc);
    *out = all;
    return count;
}

/* Whether an environment (NUL after each variable) holds `start` at the beginning of a variable. */
static const char *find_variable(const char *environment, size_t length, const char *start)
{
    for (const char *at = environment; at && at < environment + length; at += strlen(at) + 1)
        if (strncmp(at, start, strlen(start)) == 0)
            return at;
    return NULL;
}

static char *read_environment(pid_t pid, size_t *length)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/environ", (int)pid);
    return read_all(path, length);
}

static struct skew_watched *known(struct skew_watch *w, pid_t pid, uint64_t start)
{
    for (size_t i = 0; i < w->process_count; i++)
        if (w->processes[i].pid == pid && w->processes[i].start_ticks == start)
            return &w->processes[i];
    return NULL;
}

static int compare_pids(const void *a, const void *b)
{
    pid_t x = ((const struct seen *)a)->pid, y = ((const struct seen *)b)->pid;
    return (x > y) - (x < y);
}

/* Marks the command, all below it, and those that carry its mark though their parents are gone. */
static void mark_ours(struct skew_watch *w, struct seen *all, size_t count)
{
    qsort(all, count, sizeof *all, compare_pids);
    for (size_t i = 0; i < count; i++) {
        size_t length = 0;
        char *environment;
        all[i].ours = all[i].pid == w->root || known(w, all[i].pid, all[i].start);
        if (all[i].ours || !(environment = read_environment(all[i].pid, &length)))
            continue;
        all[i].ours = find_variable(environment, length, w->marker);
        free(environment);
    }
    for (bool more = true; more;) { /* children of ours, generation after generation */
        more = false;
        for (size_t i = 0; i < count; i++) {
            struct seen key = {.pid = all[i].parent};
            const struct seen *parent =
                all[i].ours ? NULL : bsearch(&key, all, count, sizeof *all, compare_pids);
            if (parent && parent->ours)
                all[i].ours = more = true;
        }
    }
}

/* ---- one process --------------------------------------------------------------------------- */

static struct skew_watched_object *object_of(struct skew_watch *w, pid_t pid, const char *path,
                                             uint64_t dev, uint64_t ino)
{
    char inside[PATH_MAX + 32];
    struct skew_elf elf;

    for (size_t i = 0; i < w->object_count; i++)
        if (w->objects[i]->ino == ino && w->objects[i]->dev == dev)
            return w->objects[i];
    struct skew_watched_object **bigger =
        realloc(w->objects, (w->object_count + 1) * sizeof *w->objects);
    struct skew_watched_object *object = calloc(1, sizeof *object);
    if (bigger)
        w->objects = bigger;
    if (!bigger || !object || !(object->path = strdup(path))) {
        free(object);
        return NULL;
    }
    object->dev = dev;
    object->ino = ino;
    const struct skew_backend *backend = skew_backend_of(path);
    if (backend && backend->unseen) {
        object->backend = backend->name;
        object->unseen = backend->unseen;
    } else if (!backend) {
        /* Through the process, whose mount namespace may be another one. */
        snprintf(inside, sizeof inside, "/proc/%d/root%s", (int)pid, path);
        if (skew_elf_read(&elf, inside) == 0)
            object->static_nccl = skew_elf_static_nccl(inside, &elf, &w->stop);
    }
    return w->objects[w->object_count++] = object;
}

/* Goes through /proc/PID/maps. True when our library is there. */
static bool look_at_maps(struct skew_watch *w, struct skew_watched *p, char *maps)
{
    bool bound = false;
    uint64_t last_ino = 0;

    for (char *line = maps, *next; line && *line; line = next) {
        unsigned major, minor;
        uint64_t ino;
        char rights[5];
        int at = 0;
        next = strchr(line, '\n');
        if (next)
            *next++ = '\0';
        if (sscanf(line, "%*x-%*x %4s %*x %x:%x %" SCNu64 " %n", rights, &major, &minor, &ino,
                   &at) < 4 ||
            at == 0 || line[at] != '/' || ino == last_ino)
            continue;
        last_ino = ino;
        const struct skew_backend *backend = skew_backend_of(line + at);
        const char *role = backend ? backend->role : "";
        bound |= strcmp(role, "skewscope") == 0 || strcmp(line + at, w->library) == 0;
        p->cuda |= strcmp(role, "cuda_driver") == 0;
        struct skew_watched_object *object =
            object_of(w, p->pid, line + at, (uint64_t)major << 32 | minor, ino);
        if (object && (strcmp(role, "nccl") == 0 || strcmp(role, "rccl") == 0))
            p->nccl = object->path;
        if (object && object->static_nccl)
            p->hidden = object->path;
    }
    return bound;
}

static uint16_t machine_of(const char *library, uint8_t *bits)
{
    struct skew_elf elf;

    if (skew_elf_read(&elf, library) < 0 || !elf.elf)
        return 0;
    *bits = elf.bits;
    return elf.machine;
}

static enum skew_unbound by_elf(const struct skew_elf *elf, const char *library)
{
    uint8_t bits = 64;
    uint16_t machine = machine_of(library, &bits);

    if (!elf->elf)
        return SKEW_BOUND;
    if (machine && (elf->machine != machine || elf->bits != bits))
        return SKEW_MACHINE;
    if (!elf->loader && elf->bits == 64)
        return SKEW_STATIC;
    if (strstr(elf->interp, "ld-musl"))
        return SKEW_MUSL;
    return elf->set_id && geteuid() != 0 ? SKEW_SET_ID : SKEW_BOUND;
}

enum skew_unbound skew_unbound_by_file(const char *exe, const char *library)
{
    struct skew_elf elf;
    return skew_elf_read(&elf, exe) == 0 ? by_elf(&elf, library) : SKEW_UNKNOWN;
}

/* Called when our library is not in the process: why? */
static enum skew_unbound reason(struct skew_watch *w, const struct skew_watched *p)
{
    char path[PATH_MAX + 32];
    struct skew_elf elf;
    struct stat info;
    size_t length = 0;

    snprintf(path, sizeof path, "/proc/%d/exe", (int)p->pid);
    if (skew_elf_read(&elf, path) < 0)
        return SKEW_UNSEEN;
    enum skew_unbound by_file = by_elf(&elf, w->library);
    if (by_file != SKEW_BOUND)
        return by_file;
    char *environment = read_environment(p->pid, &length);
    const char *preload = environment ? find_variable(environment, length, "LD_PRELOAD=") : NULL;
    bool there = preload && strstr(preload, w->library);
    bool hidden = !environment;
    free(environment);
    if (hidden)
        return elf.set_id ? SKEW_SET_ID : SKEW_UNSEEN;
    if (!there)
        return SKEW_ENVIRONMENT;
    snprintf(path, sizeof path, "/proc/%d/root%s", (int)p->pid, w->library);
    if (stat(path, &info) != 0)
        return SKEW_HIDDEN;
    return elf.set_id ? SKEW_SET_ID : SKEW_UNKNOWN;
}

static void look(struct skew_watch *w, struct skew_watched *p)
{
    char path[64], exe[PATH_MAX];
    size_t length;

    p->looks++;
    snprintf(path, sizeof path, "/proc/%d/exe", (int)p->pid);
    ssize_t got = readlink(path, exe, sizeof exe - 1);
    snprintf(path, sizeof path, "/proc/%d/maps", (int)p->pid);
    char *maps = read_all(path, &length);
    if (got > 0 && maps &&
        length) { /* else it has ended, or is another user's: what was known stays */
        exe[got] = '\0';
        free(p->exe);
        p->exe = strdup(exe);
        p->unbound = look_at_maps(w, p, maps) ? SKEW_BOUND : reason(w, p);
    }
    free(maps);
}

/* ---- the thread ---------------------------------------------------------------------------- */

static struct skew_watched *add(struct skew_watch *w, const struct seen *seen)
{
    struct skew_watched *bigger = realloc(w->processes, (w->process_count + 1) * sizeof *bigger);

    if (!bigger)
        return NULL;
    w->processes = bigger;
    w->processes[w->process_count] = (struct skew_watched){.pid = seen->pid,
                                                           .start_ticks = seen->start,
                                                           .unbound = SKEW_UNSEEN,
                                                           .root = seen->pid == w->root};
    return &w->processes[w->process_count++];
}

static bool stopped(struct skew_watch *w)
{
    return __atomic_load_n(&w->stop, __ATOMIC_RELAXED);
}

static void look_around(struct skew_watch *w)
{
    struct seen *all = NULL;
    size_t count = list_processes(&all);

    mark_ours(w, all, count);
    for (size_t i = 0; i < count && !stopped(w); i++) {
        if (!all[i].ours)
            continue;
        struct skew_watched *p = known(w, all[i].pid, all[i].start);
        if (!p)
            p = add(w, &all[i]);
        if (p && (p->unbound != SKEW_BOUND || p->looks < MOST_LOOKS))
            look(w, p);
    }
    free(all);
}

static void take_package(void *user, const char *name, const char *version, const char *path)
{
    struct skew_watch *w = user;
    struct skew_watched_package *bigger =
        realloc(w->packages, (w->package_count + 1) * sizeof *bigger);

    if (!bigger)
        return;
    w->packages = bigger;
    w->packages[w->package_count] =
        (struct skew_watched_package){strdup(name), version ? strdup(version) : NULL, strdup(path)};
    w->package_count++;
}

static void sleep_ms(struct skew_watch *w, long ms)
{
    struct timespec until;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += ms / 1000;
    until.tv_nsec += ms % 1000 * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    pthread_mutex_lock(&w->lock);
    while (!stopped(w) && pthread_cond_timedwait(&w->wake, &w->lock, &until) == 0)
        ;
    pthread_mutex_unlock(&w->lock);
}

static void *watch_thread(void *user)
{
    struct skew_watch *w = user;

    setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), 19); /* of this thread only */
    sleep_ms(w, FIRST_MS);
    look_around(w);
    skew_packages_find(take_package, w);
    __atomic_store_n(&w->packages_done, true, __ATOMIC_RELEASE);
    for (long ms = FIRST_MS * 2; !stopped(w); ms = ms * 2 < LONGEST_MS ? ms * 2 : LONGEST_MS) {
        sleep_ms(w, ms);
        if (!stopped(w))
            look_around(w);
    }
    return NULL;
}

int skew_watch_start(struct skew_watch **out, pid_t root, const char *run_id, const char *library)
{
    struct skew_watch *w = calloc(1, sizeof *w);
    pthread_condattr_t clock;

    *out = NULL;
    if (!w)
        return -ENOMEM;
    w->root = root;
    snprintf(w->marker, sizeof w->marker, "SKEWSCOPE_RUN_ID=%s", run_id);
    snprintf(w->library, sizeof w->library, "%s", library);
    pthread_mutex_init(&w->lock, NULL);
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&w->wake, &clock);
    pthread_condattr_destroy(&clock);
    int error = pthread_create(&w->thread, NULL, watch_thread, w);
    if (error) {
        free(w);
        return -error;
    }
    *out = w;
    return 0;
}

bool skew_watch_packages(struct skew_watch *w, const struct skew_watched_package **all,
                         size_t *count)
{
    if (!__atomic_load_n(&w->packages_done, __ATOMIC_ACQUIRE))
        return false;
    *all = w->packages;
    *count = w->package_count;
    return true;
}

void skew_watch_stop(struct skew_watch *w)
{
    pthread_mutex_lock(&w->lock);
    __atomic_store_n(&w->stop, true, __ATOMIC_RELAXED);
    pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
}

const struct skew_watched *skew_watch_processes(const struct skew_watch *w, size_t *count)
{
    *count = w->process_count;
    return w->processes;
}

const struct skew_watched_object *const *skew_watch_objects(const struct skew_watch *w,
                                                            size_t *count)
{
    *count = w->object_count;
    return (const struct skew_watched_object *const *)w->objects;
}

void skew_watch_free(struct skew_watch **watch)
{
    struct skew_watch *w = *watch;

    *watch = NULL;
    if (!w)
        return;
    for (size_t i = 0; i < w->process_count; i++)
        free(w->processes[i].exe);
    for (size_t i = 0; i < w->object_count; i++) {
        free(w->objects[i]->path);
        free(w->objects[i]);
    }
    for (size_t i = 0; i < w->package_count; i++) {
        free(w->packages[i].name);
        free(w->packages[i].version);
        free(w->packages[i].path);
    }
    free(w->processes);
    free(w->objects);
    free(w->packages);
    pthread_cond_destroy(&w->wake);
    pthread_mutex_destroy(&w->lock);
    free(w);
}

const char *skew_unbound_text(enum skew_unbound why)
{
    switch (why) {
    case SKEW_BOUND:
        return "";
    case SKEW_UNSEEN:
        return "it ended too soon to be looked at, or belongs to another user";
    case SKEW_STATIC:
        return "it is statically linked, so the loader and LD_PRELOAD never come into play; link "
               "it dynamically";
    case SKEW_SET_ID:
        return "it runs setuid, setgid or with file capabilities, where the loader ignores "
               "LD_PRELOAD; start it without them";
    case SKEW_MACHINE:
        return "it was built for another architecture than libskewscope.so; build skewscope for "
               "that one";
    case SKEW_MUSL:
        return "it uses the musl C library, and libskewscope.so needs glibc; use a glibc build of "
               "it";
    case SKEW_ENVIRONMENT:
        return "LD_PRELOAD was taken from its environment on the way (sudo, env -i, a container "
               "runtime, srun --export); pass LD_PRELOAD and the SKEWSCOPE_ variables on, or put "
               "skewscope run inside";
    case SKEW_HIDDEN:
        return "libskewscope.so does not exist in its container; bind-mount it at the same path, "
               "or put skewscope run inside";
    case SKEW_UNKNOWN:
        break;
    }
    return "the reason is not known; LD_DEBUG=libs shows what the loader did";
}
