/* SPDX-License-Identifier: Apache-2.0 */
/* The probes of the rival's tracepoints, built into the benchmark itself: LTTng's fastest way. */
#define LTTNG_UST_TRACEPOINT_CREATE_PROBES
#define LTTNG_UST_TRACEPOINT_DEFINE
#include "rival_tp.h"
