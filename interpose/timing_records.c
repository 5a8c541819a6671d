/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From CUPTI's records to times: which group, or which replay of a graph, a kernel or copy belongs
 * to, and what the other streams did. Runs where CUPTI hands buffers back: on its own thread, or on
 * the one that flushes. Bounded everywhere: what finds no room is counted.
 */
#include <string.h>

#include "timing_cupti.h"

#define MERGE_GAP_NS                                                                               \
    5000u /* kernels of a stream that follow each other within this are one row                    \
           */
#define MERGE_MOST 4096u

static void put(struct skew_cupti *cupti, const struct skew_rec *rec, enum skew_untimed otherwise,
                bool counts)
{
    if (skew_put(cupti->writer, rec) == 0) {
        if (counts)
            __atomic_fetch_add(&skew_proc->head->time.timed[SKEW_TIME_CUPTI], 1, __ATOMIC_RELAXED);
    } else if (counts) {
        skew_untimed_add(otherwise, 1);
    }
}

/* CUPTI's clock to the host's. */
static bool host_time(const struct skew_cupti *cupti, uint64_t timestamp, uint64_t *ns,
                      uint64_t *error_ns)
{
    double host, error;
    double device = (double)(int64_t)(timestamp - cupti->first_timestamp);
    if (!skew_clock_convert(&cupti->clock, device, &host, &error) || host < 0)
        return false;
    *ns = (uint64_t)host;
    *error_ns = (uint64_t)error + 1;
    return true;
}

/* ---- other streams' kernels ---------------------------------------------------------------- */

/* What sets communication apart from computation in the names of kernels, mangled or not. Only
 * decides what is merged: what a kernel does is found out by who reads the trace. A kernel that
 * moves tokens but has none of these words would lose its times in a merged row; tests/timing
 * launches all that schema/kernels.json knows. */
static bool is_communication(const char *name)
{
    static const char *const words[] = {
        "nccl",      "dispatch", "combine",  "lltoall",   "llToAll",   "all_to_all",
        "all2all",   "a2a",      "A2A",      "deep_ep",   "hybrid_ep", "_ep_",
        "uccl",      "nvshmem",  "notify",   "AllReduce", "allreduce", "exchangeSplit",
        "peer_ptrs", "moe_comm", "mega_moe", NULL};
    for (const char *const *word = words; *word; word++)
        if (strstr(name, *word))
            return true;
    return false;
}

static bool is_nccl(const char *name)
{
    return strstr(name, "ncclDevKernel_") || strstr(name, "ncclKernel_") ||
           strstr(name, "ncclSymkDevKernel_");
}

/* What is known of a name; asked about once, since a kernel's name can be long. NULL: no room. */
static struct skew_kernel_name *name_of(struct skew_cupti *cupti, const char *name)
{
    uint32_t at = (uint32_t)(((uintptr_t)name >> 3) * 2654435761u) % SKEW_CUPTI_NAMES;
    for (uint32_t n = 0; n < 64; n++, at = (at + 1) % SKEW_CUPTI_NAMES) {
        if (cupti->name[at].at == name)
            return &cupti->name[at];
        if (cupti->name[at].at)
            continue;
        cupti->name[at].at = name;
        cupti->name[at].apart = is_communication(name);
        return &cupti->name[at];
    }
    return NULL;
}
static uint32_t name_number(struct skew_cupti *cupti, struct skew_kernel_name *name)
{
    struct skew_rec_text rec = {.head = {.type = SKEW_REC_KERNEL_NAME}, .ns = skew_now()};
    if (!name || name->put)
        return name ? name->number : 0;
    size_t length = strnlen(name->at, 2000);
    rec.what = ++cupti->names;
    rec.length = (uint32_t)length;
    skew_lock(skew_proc);
    int error = skew_defs_put(skew_proc, &rec.head, sizeof(rec), name->at, length);
    skew_unlock(skew_proc);
    name->put = true;
    name->number = error ? 0 : rec.what;
    return name->number;
}

static void put_merged(struct skew_cupti *cupti, struct skew_merged *m)
{
    struct skew_rec_kernel rec = {
        .head = {.bytes = sizeof(rec), .type = SKEW_REC_KERNEL},
        .name = m->name,
        .kernels = m->kernels,
        .device = m->device,
        .stream = m->stream,
        .start_ns = m->start,
        .end_ns = m->end,
        .busy_ns = m->busy,
    };
    if (m->used)
        put(cupti, &rec.head, SKEW_UNTIMED_NO_ROOM, false);
    m->used = 0;
}

static void other_work(struct skew_cupti *cupti, const struct skew_activity *a)
{
    struct skew_merged *m = &cupti->merged[(a->stream * 31 + a->device) % SKEW_CUPTI_STREAMS];
    struct skew_kernel_name *name = a->name ? name_of(cupti, a->name) : NULL;
    bool apart = a->name && (name ? name->apart : is_communication(a->name));
    uint64_t start, end, error;
    if (!host_time(cupti, a->start, &start, &error) || !host_time(cupti, a->end, &end, &error) ||
        end < start)
        return;
    bool same = m->used && m->stream == a->stream && m->device == a->device && !apart &&
                !m->name == !a->name && start <= m->end + MERGE_GAP_NS && end >= m->end &&
                m->kernels < MERGE_MOST;
    if (same) {
        m->busy += end - (start > m->end ? start : m->end);
        m->end = end;
        m->kernels++;
        return;
    }
    put_merged(cupti, m);
    *m = (struct skew_merged){.used = 1,
                              .device = a->device,
                              .stream = a->stream,
                              .kernels = 1,
                              .start = start,
                              .end = end,
                              .busy = end - start,
                              .name = name_number(cupti, name)};
    if (apart)
        put_merged(cupti, m);
}

/* ---- work of groups and graphs ------------------------------------------------------------- */

void skew_cupti_external(struct skew_cupti *cupti, uint32_t correlation, uint64_t id)
{
    cupti->known[correlation % SKEW_CUPTI_CORRELATIONS].correlation = correlation;
    cupti->known[correlation % SKEW_CUPTI_CORRELATIONS].id = id;
}

static struct skew_entry *entry_of(struct skew_cupti *cupti, uint32_t correlation)
{
    uint32_t at = correlation % SKEW_CUPTI_CORRELATIONS;
    uint64_t id = cupti->known[at].id;
    struct skew_entry *entry = &cupti->entry[id % SKEW_CUPTI_ENTRIES];
    return id && cupti->known[at].correlation == correlation && entry->id == id ? entry : NULL;
}

static void add_node(struct skew_cupti *cupti, struct skew_entry *entry,
                     const struct skew_activity *a)
{
    if (cupti->nodes - 0u >= UINT32_MAX - 1)
        return;
    uint32_t at = cupti->nodes++ % SKEW_CUPTI_NODES;
    cupti->node[at].start = a->start;
    cupti->node[at].end = a->end;
    cupti->node[at].next = entry->first_node;
    entry->first_node = at + 1;
    entry->nodes++;
}

static void add_to(struct skew_cupti *cupti, struct skew_entry *entry,
                   const struct skew_activity *a)
{
    uint32_t i = 0;
    cupti->seen = entry->id > cupti->seen ? entry->id : cupti->seen;
    if (entry->launch_ns) {
        if (a->name && is_nccl(a->name))
            add_node(cupti, entry, a);
        else
            other_work(cupti, a);
        return;
    }
    while (i < entry->comms && entry->of[i].cuda_stream && entry->of[i].cuda_stream != a->stream)
        i++;
    if (i == entry->comms)
        return; /* on a stream of none of them: NCCL's own housekeeping */
    if (!entry->of[i].records || a->start < entry->of[i].start)
        entry->of[i].start = a->start;
    if (a->end > entry->of[i].end)
        entry->of[i].end = a->end;
    entry->of[i].records++;
    entry->of[i].kernels += a->name != NULL;
}

/** Takes a kernel or copy. Where its external id is not known yet it waits for some more buffers:
 * threads have buffers of their own, and these come back in no particular order. */
void skew_cupti_activity(struct skew_cupti *cupti, const struct skew_activity *a)
{
    struct skew_entry *entry = entry_of(cupti, a->correlation);
    if (!a->start || a->end < a->start)
        return; /* CUPTI had no times for it */
    if (entry) {
        add_to(cupti, entry, a);
    } else if (a->buffers == SKEW_CUPTI_PATIENCE || (a->name && !is_nccl(a->name))) {
        other_work(cupti, a);
    } else if (cupti->waitings < SKEW_CUPTI_WAITING) {
        cupti->waiting[cupti->waitings] = *a;
        cupti->waiting[cupti->waitings++].buffers++;
    } else {
        __atomic_fetch_add(&skew_proc->head->time.dropped, 1, __ATOMIC_RELAXED);
    }
}

/** Looks again at those that wait. `all`: nothing more will come. */
void skew_cupti_retry(struct skew_cupti *cupti, bool all)
{
    uint32_t count = cupti->waitings;
    cupti->waitings = 0;
    for (uint32_t i = 0; i < count; i++) {
        struct skew_activity a = cupti->waiting[i];
        a.buffers = all ? SKEW_CUPTI_PATIENCE : a.buffers;
        skew_cupti_activity(cupti, &a);
    }
}

static void emit_group(struct skew_cupti *cupti, const struct skew_entry *entry)
{
    for (uint32_t i = 0; i < entry->comms; i++) {
        uint64_t error_end;
        struct skew_rec_time rec = {
            .head = {.bytes = sizeof(rec), .type = SKEW_REC_TIME},
            .comm = entry->of[i].comm,
            .stream = entry->stream,
            .group = entry->group,
            .source = SKEW_TIME_CUPTI,
        };
        if (!entry->of[i].records)
            skew_untimed_add(SKEW_UNTIMED_NO_RECORD, 1);
        else if (!entry->of[i].kernels &&
                 !entry->of[i].alone) /* the first copy began after all waiting */
            skew_untimed_add(SKEW_UNTIMED_COPIES, 1);
        else if (!host_time(cupti, entry->of[i].start, &rec.start_ns, &rec.error_ns) ||
                 !host_time(cupti, entry->of[i].end, &rec.end_ns, &error_end) ||
                 rec.end_ns < rec.start_ns)
            skew_untimed_add(SKEW_UNTIMED_NO_CLOCK, 1);
        else
            put(cupti, &rec.head, SKEW_UNTIMED_NO_ROOM, true);
    }
}

/* The NCCL kernels of one replay in the order in which they began: that in which they were
 * captured, since those of one communicator follow each other. The collector knows what was
 * captured. */
static void emit_graph(struct skew_cupti *cupti, const struct skew_entry *entry)
{
    const struct skew_rec_replay none = {
        .head = {.bytes = sizeof(none), .type = SKEW_REC_REPLAY},
        .launch_ns = entry->launch_ns,
        .exec = entry->exec,
        .source = SKEW_TIME_CUPTI,
    };
    if (!entry->nodes)
        put(cupti, &none.head, SKEW_UNTIMED_NO_ROOM, false);
    for (uint32_t at = entry->first_node, i = 0; at && i < entry->nodes;
         at = cupti->node[at - 1].next, i++) {
        uint64_t error_end;
        uint32_t before = 0;
        struct skew_rec_replay rec = {
            .head = {.bytes = sizeof(rec), .type = SKEW_REC_REPLAY},
            .launch_ns = entry->launch_ns,
            .exec = entry->exec,
            .count = entry->nodes,
            .source = SKEW_TIME_CUPTI,
        };
        for (uint32_t other = entry->first_node; other; other = cupti->node[other - 1].next)
            before += cupti->node[other - 1].start < cupti->node[at - 1].start;
        rec.ordinal = before;
        if (host_time(cupti, cupti->node[at - 1].start, &rec.start_ns, &rec.error_ns) &&
            host_time(cupti, cupti->node[at - 1].end, &rec.end_ns, &error_end) &&
            rec.end_ns >= rec.start_ns)
            put(cupti, &rec.head, SKEW_UNTIMED_NO_ROOM, true);
        else
            skew_untimed_add(SKEW_UNTIMED_NO_CLOCK, 1);
    }
}

/** Writes what launches have come to: those that are old enough that no more records will come, or
 * all. */
void skew_cupti_emit(struct skew_cupti *cupti, bool all)
{
    uint64_t until = all                               ? cupti->next_id
                     : cupti->seen > SKEW_CUPTI_WINDOW ? cupti->seen - SKEW_CUPTI_WINDOW
                                                       : 0;
    for (; cupti->emitted < until; cupti->emitted++) {
        struct skew_entry *entry = &cupti->entry[(cupti->emitted + 1) % SKEW_CUPTI_ENTRIES];
        if (entry->id != cupti->emitted + 1)
            continue;
        if (entry->state == SKEW_ENTRY_LAUNCHED && entry->launch_ns)
            emit_graph(cupti, entry);
        else if (entry->state == SKEW_ENTRY_LAUNCHED)
            emit_group(cupti, entry);
        entry->id = 0;
        entry->state = SKEW_ENTRY_FREE;
    }
    for (uint32_t i = 0; all && i < SKEW_CUPTI_STREAMS; i++)
        put_merged(cupti, &cupti->merged[i]);
}
