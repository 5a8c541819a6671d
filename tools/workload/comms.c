/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Makes and ends communicators: each from a unique id that its first rank publishes, as PyTorch
 * does, or split off one world communicator. Called by the rank that owns them.
 */
#include <string.h>
#include <unistd.h>

#include "comms.h"
#include "nccl_decls.h"
#include "rendezvous.h"

/* ncclConfig_t as of NCCL 2.18; newer libraries take it by its size and fill in the rest. Flat,
 * since skew_nccl_config_head ends in padding where cga_cluster_size stands. */
struct config {
    size_t size;
    unsigned int magic, version;
    int blocking, cga_cluster_size, min_ctas, max_ctas;
    const char *net_name;
    int split_share;
};

_Static_assert(offsetof(struct config, blocking) ==
                       offsetof(struct skew_nccl_config_head, blocking) &&
                   offsetof(struct config, cga_cluster_size) == 20 &&
                   offsetof(struct config, net_name) == 32 &&
                   offsetof(struct config, split_share) == 40,
               "the layout of NCCL's ncclConfig_t");

static const char *const names[SKEW_COMMS] = {"world", "ep", "tp_ep", "sp", "pp", "dp", "moe_dp"};

const char *skew_comm_name(enum skew_comm_role role)
{
    return names[role];
}

void skew_nccl_check(const struct skew_rank *rank, ncclResult_t result, const char *call)
{
    if (result == ncclSuccess || (result == ncclInProgress && rank->job->opt->nonblocking))
        return;
    skew_rank_fail(rank, "%s: %s", call, ncclGetErrorString(result));
}

void skew_comm_settle(const struct skew_rank *rank, ncclComm_t comm, const char *call)
{
    ncclResult_t state = ncclInProgress;
    if (!rank->job->opt->nonblocking)
        return;
    for (;;) {
        skew_nccl_check(rank, ncclCommGetAsyncError(comm, &state), "ncclCommGetAsyncError");
        if (state != ncclInProgress)
            break;
        usleep(50);
    }
    skew_nccl_check(rank, state, call);
}

/* Which communicator of its role this is, and the place in it, of a world rank. */
static void find_place(const struct skew_rank *rank, enum skew_comm_role role, unsigned *color,
                       unsigned *size, unsigned *place)
{
    const struct skew_job *job = rank->job;
    bool across = role == SKEW_COMM_MOE_DP || (role == SKEW_COMM_PP && job->opt->ep_groups > 1);
    if (across) {
        *color = rank->ep_rank;
        *size = job->opt->ep_groups;
        *place = rank->ep_group;
    } else if (role == SKEW_COMM_EP || role == SKEW_COMM_TP_EP || role == SKEW_COMM_SP) {
        *color = rank->ep_group;
        *size = job->ep_size;
        *place = rank->ep_rank;
    } else {
        *color = 0;
        *size = job->opt->ranks;
        *place = rank->world_rank;
    }
}

static void init_by_id(struct skew_rank *rank, enum skew_comm_role role, unsigned color,
                       struct config *config)
{
    struct skew_comm *comm = &rank->comm[role];
    unsigned slot = (unsigned)role * rank->job->opt->ranks + color;
    ncclUniqueId id;
    if (comm->rank == 0) {
        skew_nccl_check(rank, ncclGetUniqueId(&id), "ncclGetUniqueId");
        skew_rendezvous_put(rank, slot, &id);
    } else {
        skew_rendezvous_get(rank, slot, &id);
    }
    skew_nccl_check(rank,
                    ncclCommInitRankConfig(&comm->handle, (int)comm->size, id, (int)comm->rank,
                                           (ncclConfig_t *)config),
                    "ncclCommInitRankConfig");
}

static void init_by_split(struct skew_rank *rank, enum skew_comm_role role, unsigned color,
                          struct config *config)
{
    struct skew_comm *comm = &rank->comm[role];
    ncclComm_t world = rank->comm[SKEW_COMM_WORLD].handle;
    skew_nccl_check(
        rank,
        ncclCommSplit(world, (int)color, (int)comm->rank, &comm->handle, (ncclConfig_t *)config),
        "ncclCommSplit");
    skew_comm_settle(rank, world, "ncclCommSplit"); /* only then is the child's handle there */
}

void skew_comms_open(struct skew_rank *rank, unsigned mask)
{
    const struct skew_options *opt = rank->job->opt;
    bool split = opt->ep_groups > 1 || opt->comm_init == SKEW_COMM_INIT_SPLIT;
    if (split)
        mask |= 1u << SKEW_COMM_WORLD;
    for (int role = 0; role < SKEW_COMMS; role++) {
        struct skew_comm *comm = &rank->comm[role];
        unsigned color;
        struct config config = {
            /* without the padding behind it, where newer versions have another member */
            .size = offsetof(struct config, split_share) + sizeof config.split_share,
            .magic = NCCL_CONFIG_MAGIC,
            .version = 21800,
            .blocking = !opt->nonblocking,
            .cga_cluster_size = NCCL_CONFIG_UNDEF_INT,
            .min_ctas = NCCL_CONFIG_UNDEF_INT,
            .max_ctas = NCCL_CONFIG_UNDEF_INT,
            .split_share = NCCL_CONFIG_UNDEF_INT,
        };
        if (!(mask & 1u << role))
            continue;
        find_place(rank, (enum skew_comm_role)role, &color, &comm->size, &comm->rank);
        if (split && role != SKEW_COMM_WORLD)
            init_by_split(rank, (enum skew_comm_role)role, color, &config);
        else
            init_by_id(rank, (enum skew_comm_role)role, color, &config);
        skew_comm_settle(rank, comm->handle, "making a communicator");
    }
}

void skew_comms_close(struct skew_rank *rank)
{
    for (int role = SKEW_COMMS - 1; role >= 0; role--) {
        ncclComm_t comm = rank->comm[role].handle;
        if (!comm)
            continue;
        skew_nccl_check(rank, ncclCommFinalize(comm), "ncclCommFinalize");
        skew_comm_settle(rank, comm, "ncclCommFinalize");
        skew_nccl_check(rank, ncclCommDestroy(comm), "ncclCommDestroy");
    }
    memset(rank->comm, 0, sizeof rank->comm);
}
