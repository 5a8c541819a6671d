/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What match.c and match_fifo.c share.
 */
#ifndef SKEW_MATCH_PRIVATE_H
#define SKEW_MATCH_PRIVATE_H

#include "label_private.h"
#include "match.h"

#define SKEW_NOBODY UINT32_MAX

/* An exchange of one rank; `all` of struct skew_matches, members one after the other, each by seq.
 */
struct skew_matched {
    struct skew_match_exchange who;
    uint32_t row;   /* in its database's skew_rows.exchanges */
    uint32_t group; /* root of a union while matching, then the ordinal's place */
    bool unmatched;
};

struct skew_loss_edge {
    uint32_t trace, member; /* index of the member in its database */
    int64_t before_seq;
    uint32_t peer;
    uint64_t sends, recvs;
};

/* One rank of one communicator. */
struct skew_match_rank {
    uint32_t trace, member;
    uint32_t first, count;         /* in `all` */
    size_t first_loss, loss_count; /* in `losses`, by before_seq */
    /* What is matched by columns; the rest is match_fifo.c's. */
    uint32_t plain;     /* exchanges */
    size_t losses_done; /* losses … */
    uint64_t lost_left; /* … of the last of which so many columns are still to come */
    bool in_column;     /* of the column in hand, this rank's record is there */
};

struct skew_matches {
    struct skew_rows *rows; /* [traces] while matching */
    size_t trace_count;
    struct skew_matched *all;
    uint32_t all_count;
    struct skew_loss_edge *losses;
    size_t loss_count;
    struct skew_match_exchange *groups; /* members of groups, group after group */
    uint32_t *group_first;              /* [groups + 1] */
    int64_t *group_ordinal;             /* [groups] */
    uint32_t group_count;
    uint32_t *group_of; /* traces after each other, exchanges in the order of their ids */
    int64_t **ids;      /* [traces][exchanges]: their ids */
    size_t *id_count, *id_base;
    struct skew_mismatch *mismatches;
    size_t mismatch_count;
    uint64_t mismatch_total, edges;
    struct skew_match_member *members;
    size_t member_count;
};

/* One communicator while it is matched. */
struct skew_matching {
    struct skew_matches *m;
    const struct skew_comm *comm;  /* of the first database that has it */
    struct skew_match_rank *ranks; /* [comm->ranks]; count 0 and member NOBODY: not here */
    uint32_t *place; /* [comm->ranks]: ordinal among the ranks that are here; NOBODY */
    uint32_t *here;  /* [present] ranks */
    uint32_t present;
    uint32_t first_member; /* in m->members */
    uint64_t columns;      /* matched; each held one edge of every pair */
};

/* Matches exchanges from the first on, as long as they are plainly the same on all ranks that are
 * here. 0, or a negative errno with `error`. */
int skew_match_plain(struct skew_matching *matching, struct skew_error *error);
/* Matches what is left. 0, or a negative errno with `error`. */
int skew_match_fifo(struct skew_matching *matching, struct skew_error *error);

static inline const struct skew_rows_exchange *skew_match_row(const struct skew_matches *m,
                                                              uint32_t i)
{
    return &m->rows[m->all[i].who.trace].exchanges[m->all[i].row];
}

uint32_t skew_match_root(struct skew_matches *m, uint32_t i);

#endif
