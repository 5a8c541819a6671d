/* SPDX-License-Identifier: Apache-2.0 */
/* What `skewscope info` says about times on the device: queries, and the text made of their rows.
 */
#ifndef SKEW_TOOLS_INFO_TIMING_H
#define SKEW_TOOLS_INFO_TIMING_H

#include <jansson.h>

extern const char skew_info_timing_sql[];  /* key "timing": one row */
extern const char skew_info_tiers_sql[];   /* "tiers": tier, why, processes */
extern const char skew_info_untimed_sql[]; /* "untimed": reason, launches */

/** Prints what these keys of `info` hold; nothing when nothing was launched. */
void skew_info_timing_print(const json_t *info);

/** Device-initiated backends, by their kernels: the section `device_backends`. */
extern const char skew_info_backends_sql[];
extern const char skew_info_backend_calls_sql[];
void skew_info_backends_print(const json_t *info);

#endif
