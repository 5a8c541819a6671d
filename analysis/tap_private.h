/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of tap.h share: one process's calls as they lie in memory, and the state of a
 * pass. */
#ifndef SKEW_TAP_PRIVATE_H
#define SKEW_TAP_PRIVATE_H

#include "tap.h"
#include "trace_private.h"

/* An exchange or operation of the process that is being looked at, in order of time. */
struct skew_tap_event {
    int64_t id, start_ns, thread, group, send, recv; /* send, recv: vector ids, 0 none */
    uint64_t send_unit, recv_unit;
    uint64_t count; /* of operations: elements */
    const struct skew_member *member;
    uint32_t set; /* of communicators with the same ranks */
    int32_t op, dtype, root;
    bool exchange;
    bool claimed; /* a tap explains it */
    bool count_exchange;
};

/* One buffer of a call, decoded. */
struct skew_tap_buffer {
    uint64_t *values; /* NULL: was not copied */
    uint32_t elements;
};

/* One tapped call with its buffers. */
struct skew_tap_call {
    const struct skew_member *member;
    int64_t thread, group, place, start_ns;
    uint32_t set, count,
        event;        /* event: index of the first event of its group; UINT32_MAX: not here */
    int shape, dtype; /* enum skew_tap_shape, ncclDataType_t */
    struct skew_tap_buffer own, whole, sent, heard, result;
};

struct skew_tap_pass {
    struct skew_trace *trace;
    struct skew_tap_options options;
    skew_tap_fn *take;
    void *user;
    struct skew_tap_summary *summary;
    struct skew_error *error;
    const struct skew_comm *comms;
    const struct skew_member *members;
    size_t comm_count, member_count;
    uint32_t *set_of;             /* [comm_count] */
    bool *counted;                /* [comm_count], by set: some count exchange was seen */
    struct skew_tap_event *event; /* of one process, ordered by start */
    size_t events, event_room;
    struct skew_tap_call *call; /* likewise */
    size_t calls, call_room;
    uint32_t experts; /* as verified calls say; 0: none yet, or they differ */
    bool experts_differ;
    uint64_t *calls_of; /* [member_count]: calls with ids or maps so far */
    uint64_t max_id;    /* largest top-k id seen */
    uint64_t *row;      /* scratch: counts of a row */
    uint64_t *bytes;    /* scratch: [ranks], bytes by peer */
    uint64_t *recv_bytes;
    size_t row_room, bytes_room;
};

/* tap_load.c */
int skew_tap_sets(struct skew_tap_pass *pass);
int skew_tap_load(struct skew_tap_pass *pass, int64_t process);
void skew_tap_unload(struct skew_tap_pass *pass);
int skew_tap_no_memory(struct skew_tap_pass *pass);

/* tap_match.c */
/** Counts of a call against the exchanges behind it. @return 1 explained, 0 not, negative errno */
int skew_tap_match(struct skew_tap_pass *pass, struct skew_tap_call *call);
/** Sends a row on. */
int skew_tap_emit(struct skew_tap_pass *pass, struct skew_tap_row *row);
/** Step, layer, micro-batch and stage by a label, which may be NULL. */
void skew_tap_label(struct skew_tap_row *row, const struct skew_label *label);
int skew_tap_scratch(struct skew_tap_pass *pass, size_t row, size_t ranks);
/** Bytes by peer of a vector into `bytes`, [ranks]. 0, 1 when it names other peers, or negative
 * errno. */
int skew_tap_bytes(struct skew_tap_pass *pass, int64_t vector, uint64_t unit, uint32_t ranks,
                   uint64_t *bytes);

/* tap_sizes.c */
/** FastMoE without a tap: n-th group behind a count exchange is the n-th local expert's. */
int skew_tap_by_sizes(struct skew_tap_pass *pass);

#endif
