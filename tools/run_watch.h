/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the processes of a run have loaded, seen from outside through /proc: whether our library is
 * in them, which NCCL, which device-initiated backends, NCCL linked in statically. This is where
 * the reasons come from when nothing, or not everything, was captured.
 *
 * One thread of `run`, which looks now and then (each time after twice the time) and writes into
 * memory of its own; the results are read after skew_watch_stop(). It also searches the packages,
 * since a slow file system must not hold up signals.
 */
#ifndef SKEW_RUN_WATCH_H
#define SKEW_RUN_WATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Why our library is not in a process. */
enum skew_unbound {
    SKEW_BOUND,       /* it is */
    SKEW_UNSEEN,      /* the process could not be looked at in time */
    SKEW_STATIC,      /* statically linked: no loader, no LD_PRELOAD */
    SKEW_SET_ID,      /* setuid, setgid or with file capabilities: the loader ignores LD_PRELOAD */
    SKEW_MACHINE,     /* for another architecture, or 32 bit */
    SKEW_MUSL,        /* another C library */
    SKEW_ENVIRONMENT, /* LD_PRELOAD was taken from its environment */
    SKEW_HIDDEN,      /* our library does not exist in its mount namespace */
    SKEW_UNKNOWN
};

struct skew_watched {
    pid_t pid;
    uint64_t start_ticks;
    char *exe;
    enum skew_unbound unbound;
    const char *nccl;   /* path of a loaded libnccl or librccl, NULL */
    const char *hidden; /* path of an object with NCCL in it, NULL */
    bool cuda;          /* has the CUDA driver loaded */
    bool root;          /* is the command itself */
    unsigned looks;
};

struct skew_watched_object {
    char *path;
    uint64_t dev, ino;
    bool static_nccl;
    const char *backend; /* name of a device-initiated backend, NULL */
    const char *unseen;  /* and what it moves unseen */
};

struct skew_watched_package {
    char *name, *version, *path; /* version may be NULL */
};

struct skew_watch;

/** Watches `root` and all below it, and all that carry `run_id` in their environment. */
int skew_watch_start(struct skew_watch **out, pid_t root, const char *run_id, const char *library);

/** Whether the packages have been searched; then and after the end they may be read. */
bool skew_watch_packages(struct skew_watch *watch, const struct skew_watched_package **all,
                         size_t *count);

/** Ends the thread, after what it is just doing. */
void skew_watch_stop(struct skew_watch *watch);

/* After skew_watch_stop(). Borrowed. */
const struct skew_watched *skew_watch_processes(const struct skew_watch *watch, size_t *count);
const struct skew_watched_object *const *skew_watch_objects(const struct skew_watch *watch,
                                                            size_t *count);

void skew_watch_free(struct skew_watch **watch);

/** The reason in words, ready to follow "not loaded into it: "; "" when bound. */
const char *skew_unbound_text(enum skew_unbound reason);

/** Why our library could not enter `exe`, by the file alone; SKEW_BOUND: nothing speaks against it.
 */
enum skew_unbound skew_unbound_by_file(const char *exe, const char *library);

#endif
