/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The rival of the capture benchmark: an LTTng-UST tracepoint that carries what one cell of ours
 * does. LTTng's macros read this file several times.
 */
#undef LTTNG_UST_TRACEPOINT_PROVIDER
#define LTTNG_UST_TRACEPOINT_PROVIDER skew_rival
#undef LTTNG_UST_TRACEPOINT_INCLUDE
#define LTTNG_UST_TRACEPOINT_INCLUDE "rival_tp.h"

#if !defined(SKEW_RIVAL_TP_H) || defined(LTTNG_UST_TRACEPOINT_HEADER_MULTI_READ)
#define SKEW_RIVAL_TP_H

#include <stddef.h>
#include <stdint.h>

#include <lttng/tracepoint.h>

LTTNG_UST_TRACEPOINT_EVENT_CLASS(
    skew_rival, cell,
    LTTNG_UST_TP_ARGS(int, peer, size_t, count, int, datatype, const void *, comm, const void *,
                      stream),
    LTTNG_UST_TP_FIELDS(lttng_ust_field_integer(int, peer, peer) lttng_ust_field_integer(
        size_t, count, count) lttng_ust_field_integer(int, datatype, datatype)
                            lttng_ust_field_integer_hex(uintptr_t, comm, (uintptr_t)comm)
                                lttng_ust_field_integer_hex(uintptr_t, stream, (uintptr_t)stream)))
LTTNG_UST_TRACEPOINT_EVENT_INSTANCE(skew_rival, cell, skew_rival, send,
                                    LTTNG_UST_TP_ARGS(int, peer, size_t, count, int, datatype,
                                                      const void *, comm, const void *, stream))
LTTNG_UST_TRACEPOINT_EVENT_INSTANCE(skew_rival, cell, skew_rival, recv,
                                    LTTNG_UST_TP_ARGS(int, peer, size_t, count, int, datatype,
                                                      const void *, comm, const void *, stream))

#endif

#include <lttng/tracepoint-event.h>
