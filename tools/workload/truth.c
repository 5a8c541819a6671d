/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes the ground truth from the exchanges' own calls. One file a rank, used by that rank alone.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "comms.h"
#include "exchange.h"
#include "layer.h"
#include "results.h"
#include "serve.h"
#include "truth.h"

struct skew_truth {
    FILE *file;
    uint64_t seq;
};

static void part_name(const char *path, unsigned rank, char *name, size_t size)
{
    snprintf(name, size, "%s.part%u", path, rank);
}

void skew_truth_open(struct skew_rank *rank)
{
    char name[4096];
    if (!rank->job->opt->truth)
        return;
    part_name(rank->job->opt->truth, rank->world_rank, name, sizeof name);
    rank->truth = skew_xrealloc(NULL, sizeof *rank->truth);
    rank->truth->seq = 0;
    rank->truth->file = fopen(name, "we");
    if (!rank->truth->file)
        skew_rank_fail(rank, "--truth: %s: %s", name, strerror(errno));
}

void skew_truth_close(struct skew_rank *rank)
{
    if (!rank->truth)
        return;
    if (ferror(rank->truth->file) | fclose(rank->truth->file))
        skew_rank_fail(rank, "--truth: could not be written whole");
    free(rank->truth);
    rank->truth = NULL;
}

/* Cells [first, end) are the calls of one outermost group, or one call. */
struct span {
    unsigned first, end;
};

static bool moves(const struct skew_call *c)
{
    return c->kind != SKEW_CALL_GROUP_START && c->kind != SKEW_CALL_GROUP_END;
}

static void write_head(const struct skew_rank *rank, const struct skew_exchange *x)
{
    static const char *const phases[] = {"forward", "backward", "recompute"};
    fprintf(rank->truth->file,
            "{\"rank\":%u,\"seq\":%llu,\"comm\":\"%s\",\"comm_rank\":%u,\"comm_size\":%u,"
            "\"ep_group\":%u,\"role\":\"%s\",\"phase\":\"%s\",\"step\":%u,\"micro_batch\":%u,"
            "\"layer\":%u",
            rank->world_rank, (unsigned long long)rank->truth->seq++, skew_comm_name(x->comm),
            rank->comm[x->comm].rank, rank->comm[x->comm].size, rank->ep_group,
            skew_role_name(x->role), phases[x->at.phase], x->at.step, x->at.micro_batch,
            x->at.layer);
    if (rank->recording)
        fprintf(rank->truth->file, ",\"captured\":true");
    const char *stage = skew_serve_stage(rank->job->opt, x->at.step);
    if (stage)
        fprintf(rank->truth->file, ",\"stage\":\"%s\"", stage);
    for (unsigned i = 0; i < rank->ranges; i++)
        fprintf(rank->truth->file, "%s\"%s\"%s", i ? "," : ",\"nvtx\":[", rank->range[i],
                i + 1 < rank->ranges ? "" : "]");
}

/* Bytes to (or from) each peer, and the single calls where some peer has other than one. */
static void write_direction(const struct skew_rank *rank, const struct skew_exchange *x,
                            struct span span, enum skew_call_kind kind, const char *name)
{
    FILE *f = rank->truth->file;
    unsigned size = rank->comm[x->comm].size, calls = 0;
    const char *comma = "";
    fprintf(f, ",\"%s_bytes\":[", name);
    for (unsigned p = 0; p < size; p++) {
        uint64_t sum = 0;
        for (unsigned i = span.first; i < span.end; i++) {
            const struct skew_call *c = &x->calls[i];
            if (c->kind == SKEW_CALL_ALLTOALL || (c->kind == kind && c->peer == p))
                sum += c->count * skew_nccl_type_size(c->type);
        }
        fprintf(f, "%s%llu", p ? "," : "", (unsigned long long)sum);
    }
    for (unsigned i = span.first; i < span.end; i++)
        calls += x->calls[i].kind == kind;
    fprintf(f, "],\"%ss\":%u", name, calls);
    if (calls <= size)
        return;
    fprintf(f, ",\"%s_list\":[", name);
    for (unsigned i = span.first; i < span.end; i++) {
        const struct skew_call *c = &x->calls[i];
        if (c->kind != kind)
            continue;
        fprintf(f, "%s[%u,%llu]", comma, c->peer,
                (unsigned long long)(c->count * skew_nccl_type_size(c->type)));
        comma = ",";
    }
    fprintf(f, "]");
}

/* The calls themselves: name, elements, data type, root. */
static void write_collectives(const struct skew_rank *rank, const struct skew_exchange *x,
                              struct span span)
{
    const char *comma = "";
    fprintf(rank->truth->file, ",\"calls\":[");
    for (unsigned i = span.first; i < span.end; i++) {
        const struct skew_call *c = &x->calls[i];
        if (!moves(c))
            continue;
        fprintf(rank->truth->file, "%s[\"%s\",%zu,%d,%u]", comma, skew_call_name(c->kind), c->count,
                (int)c->type, c->peer);
        comma = ",";
    }
    fprintf(rank->truth->file, "]");
}

static void write_tokens(const struct skew_rank *rank)
{
    const struct skew_options *opt = rank->job->opt;
    unsigned *tokens = skew_xrealloc(NULL, opt->experts * sizeof *tokens);
    uint32_t rows = skew_layer_start(rank, rank->ep_rank, opt->experts);
    memset(tokens, 0, opt->experts * sizeof *tokens);
    for (uint32_t i = 0; i < rows; i++)
        tokens[rank->layer->row[rank->ep_rank][i].expert]++;
    for (unsigned e = 0; e < opt->experts; e++)
        fprintf(rank->truth->file, "%s%u", e ? "," : ",\"expert_tokens\":[", tokens[e]);
    fprintf(rank->truth->file, "]");
    free(tokens);
}

static void write_span(const struct skew_rank *rank, const struct skew_exchange *x,
                       struct span span, unsigned ordinal)
{
    FILE *f = rank->truth->file;
    const struct skew_call *c = NULL;
    write_head(rank, x);
    for (unsigned i = span.first; !c && i < span.end; i++)
        if (moves(&x->calls[i]))
            c = &x->calls[i];
    if (x->expert_groups)
        fprintf(f, ",\"local_expert\":%u", ordinal);
    if (!c) {
        fprintf(f, ",\"op\":\"empty\"");
    } else {
        bool p2p = c->kind == SKEW_CALL_SEND || c->kind == SKEW_CALL_RECV;
        fprintf(f, ",\"op\":\"%s\",\"datatype\":%d",
                p2p                         ? "sendrecv"
                : span.end - span.first > 1 ? "collectives"
                                            : skew_call_name(c->kind),
                (int)c->type);
        if (!p2p)
            fprintf(f, ",\"count\":%zu", c->count);
        if (p2p || c->kind == SKEW_CALL_ALLTOALL) {
            write_direction(rank, x, span, SKEW_CALL_SEND, "send");
            write_direction(rank, x, span, SKEW_CALL_RECV, "recv");
        } else if (span.end - span.first > 1) {
            write_collectives(rank, x, span);
        }
    }
    if (!ordinal && (x->role == SKEW_ROLE_COUNT || x->role == SKEW_ROLE_DISPATCH))
        write_tokens(rank);
    fprintf(f, "}\n");
}

void skew_truth_exchange(const struct skew_rank *rank, const struct skew_exchange *x)
{
    unsigned depth = 0, first = 0, ordinal = 0;
    if (!rank->truth)
        return;
    for (unsigned i = 0; i < x->n_calls; i++) {
        depth += x->calls[i].kind == SKEW_CALL_GROUP_START;
        depth -= x->calls[i].kind == SKEW_CALL_GROUP_END;
        if (depth)
            continue;
        write_span(rank, x, (struct span){first, i + 1}, ordinal++);
        first = i + 1;
    }
}

void skew_truth_launch(const struct skew_rank *rank, unsigned launch, unsigned step)
{
    if (rank->truth)
        fprintf(rank->truth->file,
                "{\"rank\":%u,\"seq\":%llu,\"op\":\"cudaGraphLaunch\",\"launch\":%u,\"step\":%u}\n",
                rank->world_rank, (unsigned long long)rank->truth->seq++, launch, step);
}

static int append(FILE *out, const char *name)
{
    char buffer[1 << 16];
    size_t n;
    FILE *in = fopen(name, "re");
    if (!in)
        return -errno;
    while ((n = fread(buffer, 1, sizeof buffer, in)) > 0)
        fwrite(buffer, 1, n, out);
    int rc = ferror(in) || ferror(out) ? -EIO : 0;
    fclose(in);
    return rc;
}

int skew_truth_join(const char *path, unsigned ranks)
{
    char name[4096];
    FILE *out = fopen(path, "we");
    int rc = out ? 0 : -errno;
    for (unsigned r = 0; !rc && r < ranks; r++) {
        part_name(path, r, name, sizeof name);
        rc = append(out, name);
        if (!rc)
            unlink(name);
    }
    if (out && fclose(out) && !rc)
        rc = -EIO;
    return rc;
}
