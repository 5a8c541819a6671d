/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every option of skewscope, once. From this table come the parsing in the target, the parsing in
 * the tools, `skewscope run --help`, the manual and the keys of the JSON configuration file. An
 * option is the variable SKEWSCOPE_<NAME>, the flag --<name with dashes> of `skewscope run` and the
 * JSON key <name with underscores>.
 *
 *   X(id, "NAME", type, default, values, unit, scope, help)
 *
 * type    STRING, ENUM (values "a|b|c"), INT (values "min..max")
 * scope   TARGET: read inside the application; TOOL: by the tools; BOTH; INTERNAL: set by `run`
 * itself
 */
#ifndef SKEW_OPTIONS_H
#define SKEW_OPTIONS_H

#define SKEW_ENV_PREFIX "SKEWSCOPE_"

#define SKEW_OPTION_LIST(X)                                                                        \
    X(ENABLE, "ENABLE", ENUM, "on", "on|off", "", BOTH,                                            \
      "record, or load the library and do nothing")                                                \
    X(OUT, "OUT", STRING, "", "", "directory", BOTH,                                               \
      "where the trace goes; %h %p %r become host, process id and rank; "                          \
      "default skewscope-$SLURM_JOB_ID, else skewscope-trace")                                     \
    X(SPOOL, "SPOOL", STRING, "", "", "directory", BOTH,                                           \
      "where the spool lies; default /dev/shm, else $TMPDIR, /tmp, else inside the output "        \
      "directory; never a network file system")                                                    \
    X(SPOOL_MB, "SPOOL_MB", INT, "64", "1..1024", "MiB", TARGET,                                   \
      "largest spool of one process; at most a quarter of the free space is ever used")            \
    X(SEGMENT_KB, "SEGMENT_KB", INT, "256", "16..16384", "KiB", TARGET,                            \
      "size of one spool segment")                                                                 \
    X(STACKS, "STACKS", ENUM, "on", "on|off", "", TARGET,                                          \
      "walk the call stack once for each new call site, with libunwind")                           \
    X(NCCL, "NCCL", STRING, "", "", "path", TARGET,                                                \
      "the real NCCL, for jobs that name skewscope itself as their NCCL library")                  \
    X(TIMING, "TIMING", ENUM, "auto", "auto|off|host|events|cupti", "", TARGET,                    \
      "how long exchanges take on the device: events, by pairs of CUDA events; cupti, by CUPTI's " \
      "activity records; host or off, not at all; auto: events where they do not disturb")         \
    X(TIMING_EVERY, "TIMING_EVERY", INT, "1", "1..1000000", "exchanges", TARGET,                   \
      "time one exchange in so many of each communicator, the same ones on every rank")            \
    X(DLSYM, "DLSYM", ENUM, "on", "on|off", "", TARGET,                                            \
      "answer dlsym() for NCCL's names, so that ctypes and JAX are seen")                          \
    X(NVTX, "NVTX", ENUM, "on", "on|off", "", BOTH,                                                \
      "note in which NVTX ranges exchanges are; `run` then makes this library NVTX's tool, "       \
      "unless "                                                                                    \
      "there is another one")                                                                      \
    X(TAP, "TAP", ENUM, "on", "on|off", "", TARGET,                                                \
      "copy small integer buffers that look like count exchanges, for exact tokens of each "       \
      "expert")                                                                                    \
    X(TAP_KB, "TAP_KB", INT, "256", "1..4096", "KiB", TARGET,                                      \
      "largest buffer that the tap copies")                                                        \
    X(TAP_POOL_KB, "TAP_POOL_KB", INT, "2048", "64..65536", "KiB", TARGET,                         \
      "pinned memory of one process for copies that are on their way")                             \
    X(TAP_TOTAL_MB, "TAP_TOTAL_MB", INT, "1024", "1..1048576", "MiB", TARGET,                      \
      "what the tap of one process copies at most in all")                                         \
    X(COLLECTOR, "COLLECTOR", ENUM, "auto", "auto|off", "", BOTH,                                  \
      "start a collector when none runs; off: the spool waits for `skewscope collect`")            \
    X(QUIET, "QUIET", ENUM, "off", "on|off", "", BOTH,                                             \
      "never write the one line to standard error that says nothing could be recorded")            \
    X(CONFIG, "CONFIG", STRING, "", "", "path", TOOL,                                              \
      "JSON file with any of these options; variables and flags override it")                      \
    X(RUN_ID, "RUN_ID", STRING, "", "", "", INTERNAL, "names the `skewscope run` this belongs to") \
    X(HOME, "HOME", STRING, "", "", "path", INTERNAL, "the skewscope executable, for the collector")

enum skew_option {
#define X(id, name, type, def, values, unit, scope, help) SKEW_OPT_##id,
    SKEW_OPTION_LIST(X)
#undef X
        SKEW_OPT_COUNT
};

enum skew_option_type { SKEW_OPT_STRING, SKEW_OPT_ENUM, SKEW_OPT_INT };
enum skew_option_scope { SKEW_SCOPE_TARGET, SKEW_SCOPE_TOOL, SKEW_SCOPE_BOTH, SKEW_SCOPE_INTERNAL };

#endif
