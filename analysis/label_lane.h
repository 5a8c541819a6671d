/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One lane on its way to labels; shared by the files label*.c alone.
 *
 * A *block* is a dispatch with the exchange that answers it, whichever pass they belong to: forward
 * (FIRST), activation recomputation (AGAIN) or backward (BACK), where the combine's gradient goes
 * the dispatch's way and the dispatch's gradient comes back. Blocks of the same tokens have the
 * same keys.
 */
#ifndef SKEW_LABEL_LANE_H
#define SKEW_LABEL_LANE_H

#include "label_private.h"

enum skew_leader { /* what tells the sizes before a dispatch */
                   SKEW_LEADER_NONE,
                   SKEW_LEADER_GATHER,   /* ncclAllGather of whole numbers */
                   SKEW_LEADER_INTEGERS, /* an all-to-all of whole numbers */
                   SKEW_LEADER_CAPACITY, /* an all-reduce of one whole number */
                   SKEW_LEADER_SITE,     /* nothing; forward and backward calls come from different
                                            places */
                   SKEW_LEADERS
};

enum skew_block_kind { SKEW_BLOCK_UNKNOWN, SKEW_BLOCK_FIRST, SKEW_BLOCK_AGAIN, SKEW_BLOCK_BACK };

#define SKEW_NO_ITEM UINT32_MAX

/* An exchange, or several that are one (a group an expert), of one communicator. */
struct skew_item {
    uint64_t a, b, unit;
    uint32_t first, count; /* places in skew_lane.payload */
    uint32_t event;        /* of the first, within the lane */
    uint32_t comm;
    uint32_t leader; /* event + 1 of what told its sizes; 0: nothing did */
    bool small;      /* gate weights */
};

struct skew_block {
    uint64_t a, b;
    uint32_t there, back, weights; /* items; of collectives `there` and `back` are events */
    uint64_t rows;                 /* bytes that this rank sent there: proportional to its tokens */
    bool collective;               /* operations, not exchanges */
    uint32_t comm;
    uint32_t event; /* of `there` */
    uint32_t last;  /* event of the last item */
    bool counted;
    uint8_t kind;
    uint8_t stage; /* without backward passes: enum skew_label_stage */
    bool marked;   /* step, layer or stage by an NVTX range or an option */
    bool doubtful; /* a record is missing beside it, or beside another block of the same tokens */
    float stage_confidence;
    int32_t
        link; /* BACK, AGAIN: block of the forward pass; FIRST: block of its backward pass; −1 */
    int32_t first; /* FIRST: ordinal among those */
    int32_t pass, layer, step, microbatch;
};

struct skew_pass_info {
    uint32_t first, count;         /* ordinals of FIRST blocks */
    uint32_t begin, end;           /* events of the forward pass */
    uint32_t back_begin, back_end; /* of the backward pass; back_end 0: none */
    int32_t unit;         /* ordinal of the stretch between moments without work in flight; −1 */
    int32_t back_ordinal; /* order of the backward passes; −1 */
    bool whole;           /* as many layers as all others */
    bool sure;            /* its backward pass goes through all of it, and through nothing else */
};

/* Where a record is missing: behind event `from` and before event `to`, both of the communicator
 * that it was on. Or the event between them is not whole: another rank of the same exchange has
 * lost its record. */
struct skew_lane_loss {
    uint32_t from, to;
    uint32_t comm;
};

/* How one communicator is used by one lane. */
struct skew_use {
    uint32_t payload;           /* exchanges of SIZES or UNIFORM */
    uint32_t sizes;             /* … of SIZES */
    uint32_t led[SKEW_LEADERS]; /* … directly after, by enum skew_leader */
    uint32_t integers;          /* exchanges of INTEGER */
    uint8_t leader;
    bool moe;
    bool collective; /* dispatch by gathering, combine by reducing */
    bool groups;     /* several exchanges are one dispatch */
    uint32_t blocks, paired;
    uint64_t unit; /* greatest common divisor of the big items' units */
    float role_confidence;
};

struct skew_labelling {
    struct skew_rows *rows;
    const struct skew_label_options *options;
    const struct skew_rows_event *events;
    uint32_t event_count;
    int64_t process;
    uint32_t gap; /* the first event before which a record is missing; UINT32_MAX: none is */
    struct skew_lane_loss *losses; /* all of them, ordered by `to` */
    uint32_t loss_count;
    uint32_t *begun,
        *ended; /* [event]: losses whose `from` is before it; whose `to` is not behind it */
    struct skew_use *uses; /* [communicators] */
    uint32_t *payload;     /* events of payload, communicator after communicator */
    uint32_t *leader_of;   /* [event]: event + 1 of the candidates before a payload, by kind:
                              [event][LEADERS] */
    struct skew_item *items;
    uint32_t item_count;
    struct skew_block *blocks; /* in the order of their first exchange */
    uint32_t block_count;
    uint32_t *firsts; /* FIRST blocks in order */
    uint32_t first_count, back_count, again_count;
    struct skew_pass_info *passes;
    uint32_t pass_count;
    uint32_t unit_count;
    uint32_t pass_layers; /* layers of one pass; 0: could not be told */
    uint32_t layers;      /* of the lane; 0: could not be told */
    float layer_confidence, step_confidence;
    uint8_t *marks;         /* [event]: 1: ends a step, as the options say; NULL: they do not */
    int32_t *marked_layer;  /* [firsts]: as NVTX ranges have it; −1 */
    uint32_t marked_layers; /* … how many; 0: they say nothing */
    const char *no_layers, *no_steps, *no_stage;           /* why */
    const char *note;                                      /* what else there is to say */
    struct skew_label *exchange_labels, *operation_labels; /* [rows] */
};

static inline const struct skew_rows_exchange *skew_lane_exchange(const struct skew_labelling *lane,
                                                                  uint32_t event)
{
    const struct skew_rows_event *e = &lane->events[event];
    return e->count ? NULL : &lane->rows->exchanges[e->first];
}

static inline bool skew_lane_captured(const struct skew_labelling *lane, uint32_t event)
{
    const struct skew_rows_event *e = &lane->events[event];
    uint32_t flags =
        e->count ? lane->rows->operations[e->first].flags : lane->rows->exchanges[e->first].flags;
    return flags & SKEW_EX_CAPTURED;
}

/* Each int function returns 0 or -ENOMEM. */
int skew_lane_scan(struct skew_labelling *lane);        /* label_scan.c: what is used how */
int skew_lane_padded(struct skew_labelling *lane);      /* label_padded.c: equal sizes, untold */
int skew_lane_blocks(struct skew_labelling *lane);      /* label_block.c: items, then blocks */
int skew_lane_collectives(struct skew_labelling *lane); /* label_gather.c: by all-gathers */
int skew_lane_links(struct skew_labelling *lane);       /* label_link.c: kinds and links */
int skew_lane_losses(struct skew_labelling *lane); /* label_loss.c: where records are missing */
/* Whether a record is missing, or may be, between two events. */
bool skew_lane_lost(const struct skew_labelling *lane, uint32_t from, uint32_t to);
/* Likewise from the block before the first to the block behind the last of these. */
bool skew_lane_lost_around(const struct skew_labelling *lane, uint32_t first, uint32_t last);
/* Calls `spoil` for the blocks beside each loss. */
int skew_lane_spoilt(const struct skew_labelling *lane, void (*spoil)(void *user, uint32_t block),
                     void *user);
int skew_lane_passes(struct skew_labelling *lane); /* label_pass.c: passes and layers */
int skew_lane_stages(struct skew_labelling *lane); /* label_stage.c: prefill and decode */
int skew_lane_steps(struct skew_labelling *lane);  /* label_step.c: steps and micro-batches */
void skew_lane_write(struct skew_labelling *lane); /* label_write.c: labels */
/* label_marker.c: what NVTX ranges say */
bool skew_lane_marked(const struct skew_labelling *lane, uint32_t event, enum skew_mark_kind kind,
                      struct skew_mark *mark);
int skew_lane_marked_layers(struct skew_labelling *lane);
bool skew_lane_mark_bounds(const struct skew_labelling *lane, uint8_t *bounds); /* [firsts] */
void skew_lane_set_layers(struct skew_labelling *lane);
int skew_lane_marked_steps(struct skew_labelling *lane, bool *done);
int skew_lane_marked_microbatches(struct skew_labelling *lane);
void skew_lane_write_collectives(struct skew_labelling *lane);
/* What a block says of step, layer and so on. */
void skew_label_place(const struct skew_labelling *lane, const struct skew_block *b,
                      struct skew_label *label);

#endif
