/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where things lie on disk: names that the library in the target, `run` and the collector must
 * agree on without talking to each other. B is the first 8 hex digits of the boot id (the node), M
 * the inode of the mount namespace, H the hash below of the absolute output directory, all in hex
 * but M (decimal).
 *
 *   OUT/trace.db                        the published trace (trace-HOST.db where OUT already holds
 *                                       another node's); replaced by rename only
 *   OUT/.skewscope/                     mode 0700, while something is still to be collected:
 *     spool-B-M-H                       text: the absolute path of a spool directory, one line
 *     run-ID.json                       what `run` knows of a run (command, labels, exit status, …)
 *     collector-B.lock                  held (flock) by the node's one collector, which touches it
 * while somebody waits publish-B-ASKER, look-B-ASKER     empty; asks that collector to drain and
 * publish at once, or to look at the spools; it removes what was there before its round began
 *     work-B.db                         the collector's database when OUT is on a local file system
 *   ROOT/skewscope-UID/H/               a spool directory, mode 0700; ROOT: see SKEWSCOPE_SPOOL
 *     B-PIDNS-PID-START-CREATED.spool   one process image (schema/spool.h; CREATED is created_ns:
 * an exec keeps pid and start time); made as .tmp-…, then renamed work-B.db the collector's
 * database otherwise (ROOT is never tmpfs then) ROOT is OUT/.skewscope itself (ROOT/H) when nothing
 * better exists.
 *
 * A spool file is removed by the collector once its process is gone and all of it is published;
 * then an empty pointer file's directory goes the same way: unlink(pointer), rmdir(H), and the
 * pointer again when the rmdir fails because somebody moved in. So whoever creates a spool must
 * start over (directories, spool, pointer) when a directory vanishes under it.
 *
 * run-ID.json: {"id","command":[],"cwd","version","incarnation","started_real_ns","ended_real_ns",
 * "exit_status","exit_signal","labels":{},"env":{},"packages":[{"name","version","path"}],
 * "notes":[{"code","severity","text"}]} and who `run` is: "boot_id" (hex, as B but whole),
 * "pid_ns", "pid", "start_ticks": another node's is left alone, and one whose `run` was killed is
 * known to be over.
 */
#ifndef SKEW_LAYOUT_H
#define SKEW_LAYOUT_H

#include <stdint.h>

#define SKEW_STATE_DIR   ".skewscope"
#define SKEW_TRACE_FILE  "trace.db"
#define SKEW_DEFAULT_OUT "skewscope-trace"
#define SKEW_SHM_ROOT    "/dev/shm"
#define SKEW_SPOOL_TMP   ".tmp-"

/** FNV-1a, 64 bit, over a NUL-terminated string. */
static inline uint64_t skew_hash_string(const char *text)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (; *text; text++)
        hash = (hash ^ (uint8_t)*text) * 0x100000001b3u;
    return hash;
}

#endif
