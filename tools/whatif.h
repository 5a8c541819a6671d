/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The questions of `skewscope whatif`. Each is one file, whatif_<name>.c, and one line here.
 *
 *   X(name, "one line for --help")
 */
#ifndef SKEW_WHATIF_H
#define SKEW_WHATIF_H

#include <argp.h>

#define SKEW_WHATIF_LIST(X)                                                                        \
    X(schedule, "take the all-to-all apart into phases, and what each way costs")                  \
    X(placement, "put the experts on other ranks, scored on calls not used to choose")             \
    X(ep, "spread the experts over more or fewer ranks, and over other NVLink domains")

#define X(name, summary)                                                                           \
    int skew_whatif_##name(int argc, char **argv); /* argv[0] is "skewscope whatif <name>" */      \
    const struct argp *skew_whatif_argp_##name(void);
SKEW_WHATIF_LIST(X)
#undef X

#endif
