/* SPDX-License-Identifier: Apache-2.0 */
/* Does the process that wrote a spool still run? Never guesses: no answer is an answer. */
#ifndef SKEW_COLLECT_ALIVE_H
#define SKEW_COLLECT_ALIVE_H

#include <stdint.h>

#include "spool.h"

enum skew_alive { SKEW_GONE, SKEW_ALIVE, SKEW_UNKNOWN };

/**
 * By pid and start time where the process's pid namespace can be seen, and by whether anybody still
 * has the file open or mapped for writing (a read lease is refused then).
 * @param dir,name  the spool file, for the lease
 */
enum skew_alive skew_process_alive(const struct skew_spool_head *head, int dir, const char *name);

/** The same for a process known by numbers only (of the pid namespace `pid_ns`). */
enum skew_alive skew_pid_alive(uint64_t pid_ns, uint32_t pid, uint64_t start_ticks);

/** Inode of /proc/<pid>/ns/<kind>; pid 0: our own. 0 when it cannot be seen. */
uint64_t skew_namespace_of(uint32_t pid, const char *kind);

#endif
