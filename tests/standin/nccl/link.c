/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The link model, and the truth about time. Ranks tell each other when they arrived: a message
 * carries the sender's arrival, and the receiver answers with its own, so that every rank knows the
 * last arrival among those it exchanges with. Model time and truth lines follow from that and from
 * the bytes of the operation alone. Runs at the end of each operation, under the communicator's
 * run_lock.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "standin.h"

/* Bytes through this rank's port, the way a bandwidth-optimal algorithm moves a collective. */
static void add_collective(const struct sn_task *t, int nranks, int rank, double *sent,
                           double *received)
{
    double bytes = (double)t->count * skew_nccl_type_size((int)t->type);

    switch (t->func) {
    case SN_ALLGATHER:
    case SN_REDUCESCATTER: /* the count is that of one rank */
        *sent += bytes * (nranks - 1);
        *received += bytes * (nranks - 1);
        break;
    case SN_ALLREDUCE:
        *sent += 2 * bytes * (nranks - 1) / nranks;
        *received += 2 * bytes * (nranks - 1) / nranks;
        break;
    case SN_BROADCAST: /* a chain: the root only sends, the last only receives */
        *(rank == t->root ? sent : received) += bytes;
        break;
    case SN_REDUCE:
        *(rank == t->root ? received : sent) += bytes;
        break;
    default:
        break;
    }
}

static void add_ports(const struct sn_op *op, double *sent, double *received)
{
    const struct ncclComm *comm = op->comm;

    for (int i = 0; i < op->ntasks; i++) {
        const struct sn_task *t = &op->tasks[i];
        double bytes = (double)t->count * skew_nccl_type_size((int)t->type);
        if (t->func == SN_SEND || t->func == SN_PUT)
            *sent += t->root == comm->rank ? 0 : bytes;
        else if (t->func == SN_RECV)
            *received += t->root == comm->rank ? 0 : bytes;
        else
            add_collective(t, comm->nranks, comm->rank, sent, received);
    }
}

static void print_vector(FILE *f, const char *name, const struct sn_op *op, enum sn_func func)
{
    fprintf(f, ",\"%s\":[", name);
    for (int r = 0; r < op->comm->nranks; r++) {
        unsigned long long bytes = 0;
        for (int c = 0; c < op->nchannels; c++)
            for (int i = 0; op->channels[c].peer == r && i < op->channels[c].count; i++) {
                const struct sn_task *t = &op->tasks[op->channels[c].first + i];
                bytes += t->func == func ? t->count * skew_nccl_type_size((int)t->type) : 0;
            }
        fprintf(f, "%s%llu", r ? "," : "", bytes);
    }
    fprintf(f, "]");
}

static FILE *truth_file(struct ncclComm *comm)
{
    char path[512];

    if (comm->truth)
        return comm->truth;
    snprintf(path, sizeof(path), "%s.%016llx.%d", sn_options()->truth,
             (unsigned long long)comm->id.a, comm->rank);
    comm->truth = fopen(path, "ae");
    if (!comm->truth) {
        fprintf(stderr, "stand-in NCCL: cannot write SKEWSCOPE_STANDIN_TRUTH file %s: %m\n", path);
        return NULL;
    }
    fprintf(comm->truth, "{\"comm\":\"%016llx\",\"rank\":%d,\"nranks\":%d,%s}\n",
            (unsigned long long)comm->id.a, comm->rank, comm->nranks,
            comm->origin ? comm->origin : "\"origin\":null");
    return comm->truth;
}

static void write_truth(const struct sn_op *op, uint64_t arrival, uint64_t start, uint64_t end,
                        double sent, double received)
{
    FILE *f = truth_file(op->comm);

    if (!f)
        return;
    fprintf(f,
            "{\"comm\":\"%016llx\",\"rank\":%d,\"op\":%llu,\"arrival_ns\":%llu,\"start_ns\":%llu,"
            "\"end_ns\":%llu,\"sent_bytes\":%.0f,\"received_bytes\":%.0f",
            (unsigned long long)op->comm->id.a, op->comm->rank,
            (unsigned long long)op->comm->op_ordinal, (unsigned long long)arrival,
            (unsigned long long)start, (unsigned long long)end, sent, received);
    print_vector(f, "send", op, SN_SEND);
    print_vector(f, "recv", op, SN_RECV);
    fprintf(f, ",\"kernel\":\"%s\"}\n", op->kernel);
    fflush(f); /* a truth that dies with a killed rank is of no use */
}

void sn_link_finish(const struct sn_op *op, const struct sn_pass *pass, uint64_t *end_ns)
{
    const struct sn_options *o = sn_options();
    double sent = 0, received = 0;

    if (!o->couple)
        return;
    add_ports(op, &sent, &received);
    if (o->link) {
        double busiest = sent > received ? sent : received;
        double ns = pass->heard_any ? o->link_latency_ns + busiest / o->link_bytes_per_ns : 0;
        *end_ns = pass->latest_ns + (uint64_t)ns;
    } else {
        *end_ns = sn_now_ns();
    }
    if (o->truth)
        write_truth(op, pass->arrival_ns, pass->latest_ns, *end_ns, sent, received);
}

uint64_t sn_link_told(const struct sn_pass *pass)
{
    return pass->arrival_ns - (uint64_t)pass->comm->clock_offset_ns;
}

void sn_link_heard(struct sn_pass *pass, uint64_t arrival_ns)
{
    arrival_ns += (uint64_t)pass->comm->clock_offset_ns;
    pass->heard_any = true;
    if (arrival_ns > pass->latest_ns)
        pass->latest_ns = arrival_ns;
}
