/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Prints what analysis/ reads, for a test to compare: one line of JSON an exchange.
 *
 * usage: dump FILE stored|seq [comm=KEY] [seq=A..B] [ops=MASK] [layer=N] [step=N] [role=NAME]
 *                             [layers=N] [calls=N]
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "trace.h"

static void print_side(const char *name, const struct skew_vector *v, uint64_t unit)
{
    printf(", \"%s\": ", name);
    if (!v) {
        printf("null");
        return;
    }
    putchar('[');
    for (uint32_t i = 0; i < v->cells; i++)
        printf("%s[%u, %" PRIu64 "]", i ? ", " : "", skew_vector_peer(v, i), v->sizes[i] * unit);
    putchar(']');
}

static int print(void *user, const struct skew_exchange *e)
{
    uint64_t *count = user;

    ++*count;
    printf("{\"id\": %" PRId64
           ", \"comm\": \"%s\", \"ranks\": %u, \"rank\": %d, \"world_rank\": %d, \"seq\": %" PRId64
           ", \"op\": %d, \"start_ns\": %" PRId64 ", \"sent\": %" PRIu64 ", \"received\": %" PRIu64,
           e->id, e->member->comm->key, e->member->comm->ranks, e->member->rank,
           e->member->world_rank, e->seq, e->op, e->start_ns, skew_exchange_send_bytes(e),
           skew_exchange_recv_bytes(e));
    print_side("send", e->send, e->send_unit);
    print_side("recv", e->recv, e->recv_unit);
    printf("}\n");
    return 0;
}

static void take_filter(struct skew_filter *f, const char *text)
{
    int64_t a, b;

    if (strncmp(text, "comm=", 5) == 0)
        f->comm_key = text + 5;
    else if (sscanf(text, "seq=%" SCNd64 "..%" SCNd64, &a, &b) == 2)
        *f = (struct skew_filter){
            .comm_key = f->comm_key, .by_seq = true, .seq_from = a, .seq_to = b};
    else if (sscanf(text, "ops=%" SCNd64, &a) == 1)
        f->ops = (uint32_t)a;
    else if (sscanf(text, "layer=%" SCNd64, &a) == 1)
        f->by_layer = true, f->layer = a;
    else if (sscanf(text, "step=%" SCNd64, &a) == 1)
        f->by_step = true, f->step = a;
    else if (strncmp(text, "role=", 5) == 0)
        f->role = text + 5;
    else if (sscanf(text, "layers=%" SCNd64, &a) == 1)
        f->count_layers = (uint32_t)a;
    else if (sscanf(text, "calls=%" SCNd64, &a) == 1)
        f->count_calls = (uint32_t)a;
}

int main(int argc, char **argv)
{
    struct skew_trace *trace;
    struct skew_error error;
    struct skew_filter filter = {0};
    uint64_t count = 0;

    if (argc < 3)
        return 2;
    for (int i = 3; i < argc; i++)
        take_filter(&filter, argv[i]);
    int result = skew_trace_open(&trace, argv[1], &error);
    if (result == 0)
        result = skew_trace_each(trace, &filter,
                                 strcmp(argv[2], "seq") == 0 ? SKEW_ORDER_SEQ : SKEW_ORDER_STORED,
                                 print, &count, &error);
    if (result < 0)
        fprintf(stderr, "%d %s\n", result, error.text);
    skew_trace_close(&trace);
    return result < 0;
}
