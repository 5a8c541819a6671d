/* SPDX-License-Identifier: Apache-2.0 */
/* Reporting to the tracer (the stand-in CUPTI), and the graph identities it prints. */
#ifndef STANDIN_TRACE_H
#define STANDIN_TRACE_H

#include "engine.h"

/* The correlation id of the API call that the thread is in, 0 if none or nobody wants them. */
uint32_t si_trace_correlation(void);
/* Reports a finished op, unless it is of a kind that CUPTI has no record for. */
void si_trace_op(CUstream stream, struct si_op *op, uint64_t start_ns, uint64_t end_ns);
void si_trace_resource(const struct standin_resource *resource);

#endif
