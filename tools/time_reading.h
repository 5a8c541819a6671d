/* SPDX-License-Identifier: Apache-2.0 */
/* The Time analyses of one communicator over all databases of a trace. */
#ifndef SKEW_TIME_READING_H
#define SKEW_TIME_READING_H

#include "labelling.h"
#include "time_analysis.h"

/**
 * @param with_routing routing rows, where there are any, are used for the headline
 * @return 0, and skew_time_result_free() is the caller's; -ENODATA: no exchange of it, or another
 *         negative errno, with the sentence in `error` (failing labels are told by themselves).
 */
int skew_time_of_reading(struct skew_time_result *out, const struct skew_reading *reading,
                         const char *comm_key, uint32_t ranks,
                         const struct skew_label_options *options, bool with_routing,
                         struct skew_error *error);

#endif
