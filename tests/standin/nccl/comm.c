/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Communicator objects: memory, checks, states. The memory is never given back to libc but goes to
 * a last-in first-out list, so that (as with NCCL and a busy malloc, only more so) a new
 * communicator very likely has the address of the one destroyed last; old operations, for example
 * in CUDA graphs, recognise by the generation that their communicator is gone.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "standin.h"

static pthread_mutex_t pool_lock = PTHREAD_MUTEX_INITIALIZER;
static struct ncclComm *pool; /* destroyed ones, newest first; under pool_lock */

struct ncclComm *sn_comm_new(void)
{
    struct ncclComm *comm;

    pthread_mutex_lock(&pool_lock);
    comm = pool;
    if (comm)
        pool = comm->next_free;
    pthread_mutex_unlock(&pool_lock);
    if (!comm) {
        comm = calloc(1, sizeof(*comm));
        if (!comm)
            return NULL;
        pthread_mutex_init(&comm->lock, NULL);
        pthread_mutex_init(&comm->run_lock, NULL);
        pthread_cond_init(&comm->changed, NULL);
    }
    comm->generation++;
    comm->blocking = 1;
    comm->magic = SN_MAGIC;
    return comm;
}

static void forget(struct ncclComm *comm)
{
    while (comm->windows) {
        struct sn_window *next = comm->windows->next;
        free(comm->windows);
        comm->windows = next;
    }
    free(comm->redops);
    free(comm->signals);
    free(comm->signals_taken);
    free(comm->arriving);
    free(comm->origin);
    if (comm->truth)
        fclose(comm->truth);
    sn_cu_event_destroy(comm->event);
    sn_cu_event_destroy(comm->capture_event);
}

void sn_comm_free(struct ncclComm *comm)
{
    /* An operation that a graph replays takes run_lock before it looks at the generation. */
    pthread_mutex_lock(&comm->run_lock);
    if (comm->seg_open)
        sn_segment_close(&comm->seg, comm->abort || comm->failed ? SN_SLOT_FAILED : SN_SLOT_GONE);
    forget(comm);
    comm->generation++;
    memset((char *)comm + offsetof(struct ncclComm, magic), 0,
           sizeof(*comm) - offsetof(struct ncclComm, magic));
    pthread_mutex_unlock(&comm->run_lock);

    pthread_mutex_lock(&pool_lock);
    comm->next_free = pool;
    pool = comm;
    pthread_mutex_unlock(&pool_lock);
}

ncclResult_t sn_comm_check(const struct ncclComm *comm, const char *call, const char *name)
{
    if (!comm)
        return sn_fail(ncclInvalidArgument, "%s : %s argument is NULL", call, name);
    if (comm->magic != SN_MAGIC)
        return sn_fail(ncclInvalidArgument, "%s : corrupted or destroyed communicator", call);
    return ncclSuccess;
}

ncclResult_t sn_comm_ready(struct ncclComm *comm)
{
    ncclResult_t state = ncclSuccess;

    if (atomic_load(&comm->abort))
        return ncclSuccess;
    /* NCCL asks through its own exported function, which an interposer therefore sees. */
    ncclResult_t result = ncclCommGetAsyncError(comm, &state);
    if (result)
        return result;
    if (state == ncclInProgress)
        return sn_fail(ncclInvalidArgument, "Attempt to use communicator before the previous "
                                            "operation returned ncclSuccess");
    return state;
}

void sn_comm_set_async(struct ncclComm *comm, ncclResult_t result)
{
    atomic_store(&comm->async_result, (int)result);
}

void sn_comm_break(struct ncclComm *comm, ncclResult_t result)
{
    char why[256];

    /* NCCL's warning also asks the exported ncclGetErrorString for the text. */
    snprintf(why, sizeof(why), "%s", sn_last_error());
    sn_fail(result, "operation failed : %s : %s", ncclGetErrorString(result), why);
    sn_comm_set_async(comm, result);
    atomic_store(&comm->failed, true);
    atomic_store(&comm->seg.head->slot[comm->rank].state, SN_SLOT_FAILED);
    for (int r = 0; r < comm->nranks; r++)
        sn_bell_ring(&comm->seg, r);
}

void sn_comm_busy(struct ncclComm *comm, int delta)
{
    pthread_mutex_lock(&comm->lock);
    comm->busy += delta;
    pthread_cond_broadcast(&comm->changed);
    pthread_mutex_unlock(&comm->lock);
}

void sn_comm_pending(struct ncclComm *comm, int delta)
{
    pthread_mutex_lock(&comm->lock);
    comm->pending += delta;
    pthread_cond_broadcast(&comm->changed);
    pthread_mutex_unlock(&comm->lock);
}

ncclResult_t sn_config_read(struct ncclComm *comm, const ncclConfig_t *config)
{
    struct skew_nccl_config_head head = {0};
    size_t size;

    if (!config)
        return ncclSuccess;
    memcpy(&size, config, sizeof(size));
    memcpy(&head, config, size < sizeof(head) ? size : sizeof(head));
    if (head.magic != NCCL_CONFIG_MAGIC)
        return sn_fail(ncclInvalidArgument,
                       "ncclConfig_t argument not initialized via NCCL_CONFIG_INITIALIZER");
    if (head.blocking != NCCL_CONFIG_UNDEF_INT && head.blocking != 0 && head.blocking != 1)
        return sn_fail(ncclInvalidArgument, "Invalid config blocking attribute value %d",
                       head.blocking);
    comm->blocking = head.blocking != 0;
    struct skew_nccl_config_policy policy = {0};
    if (size >= sizeof(policy) && sn_options()->version >= 22700)
        memcpy(&policy, config, sizeof(policy));
    comm->zero_ctas = policy.cta_policy > 0 && policy.cta_policy & NCCL_CTA_POLICY_ZERO;
    return ncclSuccess;
}
