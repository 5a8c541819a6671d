/* SPDX-License-Identifier: Apache-2.0 */
/*
 * In which NVTX ranges a thread is. Pushing and popping only moves the thread's own stack; the
 * spool hears of it right before the next record of this thread (struct skew_rec_ranges), so a
 * range without NCCL calls in it costs no room, and a program without NCCL gets no file. What it
 * costs a program that uses no NVTX: nothing, since a change announces itself by an empty `limit`
 * (record.h), which the hot path tests in any case.
 *
 * Messages are texts of the application. Their whole numbers are taken out first, so that "step 1"
 * to "step 1000000" are one name, and names are kept in a table of fixed size. It has no lock:
 * entries are claimed by compare-and-swap and never change. It survives a fork, as the handles do
 * that the application holds; which names the spool has been told does not. Application threads; no
 * allocation, no lock, no system call but for the first use.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "nvtx_abi.h"
#include "record.h"

#define SLOTS      (2 * SKEW_NAMES_MAX)
#define PROBES_MAX 64u
#define DEPTH_MAX  16u
#define MARKS_MAX  4u
#define DIGITS_MAX 18u  /* of a number that is kept apart: fits 63 bits */
#define SOURCE_MAX 512u /* bytes of a message that are looked at */

struct name_slot {
    uint64_t hash; /* 0: free */
    uint32_t id;   /* release, once the text is there; 0: not yet */
};

struct name_text {
    uint16_t length;
    char text[SKEW_RANGE_TEXT];
};

struct names {
    uint32_t count;
    struct name_slot slot[SLOTS];
    struct name_text text[SKEW_NAMES_MAX];
};

struct entry {
    struct skew_range range; /* but for `domain` */
    uintptr_t domain;
};

/* One thread's. What the spool was told last follows from the innermost range: the outer ones
 * cannot have changed. */
struct skew_range_state {
    uint64_t serial;
    uint64_t told_serial;
    uint32_t depth, told_depth; /* may exceed DEPTH_MAX */
    uint32_t marks, more_marks;
    struct entry stack[DEPTH_MAX];
    struct entry mark[MARKS_MAX];
};

static struct names *the_names; /* set once, by compare-and-swap */

static void *map(size_t bytes)
{
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return at == MAP_FAILED ? NULL : at;
}

/* ---- names --------------------------------------------------------------------------------- */

static struct names *names_get(void)
{
    struct names *names = __atomic_load_n(&the_names, __ATOMIC_ACQUIRE);
    if (skew_likely(names != NULL))
        return names;
    struct names *fresh = map(sizeof(*fresh));
    if (!fresh)
        return NULL;
    if (__atomic_compare_exchange_n(&the_names, &names, fresh, false, __ATOMIC_ACQ_REL,
                                    __ATOMIC_ACQUIRE))
        return fresh;
    munmap(fresh, sizeof(*fresh));
    return names;
}

static uint32_t name_add(struct names *names, struct name_slot *slot, const char *text,
                         uint32_t length)
{
    uint32_t id = __atomic_add_fetch(&names->count, 1, __ATOMIC_RELAXED);
    if (id > SKEW_NAMES_MAX)
        return 0; /* several threads at once found the last place: this slot stays without a name */
    struct name_text *t = &names->text[id - 1];
    memcpy(t->text, text, length);
    t->length = (uint16_t)length;
    __atomic_store_n(&slot->id, id, __ATOMIC_RELEASE);
    return id;
}

/* The number of this text; 0: there is no room, or another thread is just adding it. */
static uint32_t name_of(const char *text, uint32_t length, uint64_t hash)
{
    struct names *names = names_get();
    for (uint32_t i = 0; names && i < PROBES_MAX; i++) {
        struct name_slot *slot = &names->slot[(hash + i) % SLOTS];
        uint64_t there = __atomic_load_n(&slot->hash, __ATOMIC_ACQUIRE);
        if (!there) {
            if (__atomic_load_n(&names->count, __ATOMIC_RELAXED) >= SKEW_NAMES_MAX)
                break;
            if (__atomic_compare_exchange_n(&slot->hash, &there, hash, false, __ATOMIC_ACQ_REL,
                                            __ATOMIC_ACQUIRE))
                return name_add(names, slot, text, length);
        }
        if (there != hash)
            continue;
        uint32_t id = __atomic_load_n(&slot->id, __ATOMIC_ACQUIRE);
        if (!id)
            return 0;
        const struct name_text *t = &names->text[id - 1];
        if (t->length == length && memcmp(t->text, text, length) == 0)
            return id;
    }
    skew_diag_once(SKEW_DIAG_NVTX,
                   "there are more different NVTX messages than can be kept: later ones are ranges "
                   "without a name");
    return 0;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* The number at `text`, of `digits` digits, unless it would not look the same again when written
 * out. */
static bool number_at(const char *text, uint32_t *digits, int64_t *value)
{
    *digits = 0;
    *value = 0;
    while (is_digit(text[*digits])) {
        if (*digits < DIGITS_MAX)
            *value = *value * 10 + (text[*digits] - '0');
        ++*digits;
    }
    return *digits && *digits <= DIGITS_MAX && (text[0] != '0' || *digits == 1);
}

/** What a message says: the number of its text and, kept apart, its first whole numbers. */
void skew_message_read(struct skew_message *m, const char *text, bool numbers_apart)
{
    char kept[SKEW_RANGE_TEXT];
    uint64_t hash = 0xcbf29ce484222325u;
    uint32_t length = 0, digits;
    m->name = m->numbers = 0;
    if (!text)
        return;
    for (uint32_t i = 0; i < SOURCE_MAX && text[i] && length < SKEW_RANGE_TEXT; i++) {
        char c = text[i] == SKEW_RANGE_HOLE ? '?' : text[i];
        if (numbers_apart && is_digit(c) && m->numbers < SKEW_RANGE_NUMBERS &&
            (!i || !is_digit(text[i - 1])) &&
            number_at(text + i, &digits, &m->number[m->numbers])) {
            m->numbers++;
            i += digits - 1;
            c = SKEW_RANGE_HOLE;
        }
        kept[length++] = c;
        hash = (hash ^ (uint8_t)c) * 0x100000001b3u;
    }
    m->name = name_of(kept, length, hash | 1);
}

/* ---- the stack ----------------------------------------------------------------------------- */

static struct skew_range_state *state_of(struct skew_thread *t)
{
    if (!t->ranges)
        t->ranges = map(sizeof(*t->ranges));
    return t->ranges;
}

static uint64_t innermost(const struct skew_range_state *s)
{
    uint32_t kept = s->depth < DEPTH_MAX ? s->depth : DEPTH_MAX;
    return kept ? s->stack[kept - 1].range.serial : 0;
}

/* Has the next record preceded by what is new, if anything is. */
static void changed(struct skew_thread *t)
{
    struct skew_range_state *s = t->ranges;
    t->ranges_news = s->marks || s->depth != s->told_depth || innermost(s) != s->told_serial;
    if (skew_record_is_open(t) && !skew_record_is_empty(t)) {
        t->watch |= SKEW_WATCH_RANGES; /* too late for this group: it is where its first call was */
        return;
    }
    if (skew_record_is_open(t))
        skew_record_close(
            t); /* that of a group without calls so far; the first one opens it again */
    t->limit = skew_limit_closed(t);
}

static void fill(struct skew_range_state *s, struct entry *e, enum skew_range_kind kind,
                 uintptr_t domain, const struct skew_message *m)
{
    e->range = (struct skew_range){
        .name = m->name, .kind = (uint16_t)kind, .numbers = m->numbers, .serial = ++s->serial};
    for (uint32_t i = 0; i < m->numbers; i++)
        e->range.number[i] = m->number[i];
    e->domain = domain;
}

/** @return the level of the range from 0, as NVTX has it; −1: it was not noted. */
int skew_range_push(struct skew_thread *t, uintptr_t domain, const struct skew_message *m)
{
    struct skew_range_state *s = state_of(t);
    if (!s)
        return -1;
    if (s->depth < DEPTH_MAX)
        fill(s, &s->stack[s->depth], SKEW_RANGE_PUSHED, domain, m);
    s->depth++;
    changed(t);
    return (int)s->depth - 1;
}

/** Ends the innermost range of the domain. @return its level; −1: there is none. */
int skew_range_pop(struct skew_thread *t, uintptr_t domain)
{
    struct skew_range_state *s = t->ranges;
    uint32_t at;
    if (!s)
        return -1;
    if (s->depth > DEPTH_MAX) { /* of which domain those are is not known: as if they nested */
        at = --s->depth;
        changed(t);
        return (int)at;
    }
    for (at = s->depth; at && s->stack[at - 1].domain != domain; at--)
        ;
    if (!at)
        return -1;
    at--;
    memmove(&s->stack[at], &s->stack[at + 1], (s->depth - at - 1) * sizeof(s->stack[0]));
    s->depth--;
    changed(t);
    return (int)at;
}

void skew_range_mark(struct skew_thread *t, uintptr_t domain, const struct skew_message *m)
{
    struct skew_range_state *s = state_of(t);
    if (!s)
        return;
    if (s->marks == MARKS_MAX) { /* the latest ones say where we are */
        memmove(&s->mark[0], &s->mark[1], (MARKS_MAX - 1) * sizeof(s->mark[0]));
        s->marks--;
        s->more_marks++;
    }
    fill(s, &s->mark[s->marks++], SKEW_RANGE_MARK, domain, m);
    changed(t);
}

/* ---- into the spool ------------------------------------------------------------------------ */

/* Makes sure that the spool holds this name. 0: it has no room for it. */
static uint32_t tell_name(struct skew_process *proc, uint32_t name)
{
    if (!name || name > SKEW_NAMES_MAX || !the_names)
        return 0;
    uint64_t *told = &proc->names_told[(name - 1) / 64], bit = 1ull << ((name - 1) % 64);
    if (__atomic_load_n(told, __ATOMIC_ACQUIRE) & bit)
        return name;
    const struct name_text *t = &the_names->text[name - 1];
    struct skew_rec_range_name rec = {
        .head = {.type = SKEW_REC_RANGE_NAME}, .name = name, .length = t->length};
    skew_lock(proc);
    bool stored = skew_defs_put(proc, &rec.head, sizeof(rec), t->text, t->length) == 0;
    if (stored)
        __atomic_fetch_or(told, bit, __ATOMIC_RELEASE);
    skew_unlock(proc);
    return stored ? name : 0;
}

static void put_entry(struct skew_process *proc, struct skew_range *to, const struct entry *from)
{
    *to = from->range;
    to->name = tell_name(proc, to->name);
    if ((from->domain & SKEW_NVTX_HANDLE_KIND) == SKEW_NVTX_DOMAIN)
        to->domain = tell_name(proc, (uint32_t)from->domain);
}

size_t skew_ranges_bytes(const struct skew_thread *t)
{
    const struct skew_range_state *s = t->ranges;
    uint32_t kept = s->depth < DEPTH_MAX ? s->depth : DEPTH_MAX;
    return sizeof(struct skew_rec_ranges) + (kept + s->marks) * sizeof(struct skew_range);
}

/** Writes what has changed at `at`, where there is room. @return where the record ends. */
uint8_t *skew_ranges_put(struct skew_process *proc, struct skew_thread *t, uint8_t *at)
{
    struct skew_range_state *s = t->ranges;
    uint32_t kept = s->depth < DEPTH_MAX ? s->depth : DEPTH_MAX;
    struct skew_rec_ranges *rec = (struct skew_rec_ranges *)at;
    struct skew_range *to = (struct skew_range *)(rec + 1);
    size_t bytes = skew_ranges_bytes(t);
    *rec = (struct skew_rec_ranges){
        .head = {.bytes = (uint32_t)bytes, .type = SKEW_REC_RANGES},
        .group = t->groups + 1,
        .depth = (uint16_t)kept,
        .marks = (uint16_t)s->marks,
        .deeper = (uint16_t)(s->depth - kept),
        .more_marks = (uint16_t)(s->more_marks < UINT16_MAX ? s->more_marks : UINT16_MAX),
    };
    for (uint32_t i = 0; i < kept; i++)
        put_entry(proc, to++, &s->stack[i]);
    for (uint32_t i = 0; i < s->marks; i++)
        put_entry(proc, to++, &s->mark[i]);
    s->marks = s->more_marks = 0;
    s->told_depth = s->depth;
    s->told_serial = innermost(s);
    t->ranges_news = false;
    return at + bytes;
}

/** After a group in which ranges have changed: the next record needs to be told. */
void skew_ranges_settle(struct skew_thread *t)
{
    if (!(t->watch & SKEW_WATCH_RANGES) || skew_record_is_open(t))
        return;
    t->watch &= ~(uint32_t)SKEW_WATCH_RANGES;
    t->limit = skew_limit_closed(t);
}

void skew_ranges_thread_end(struct skew_thread *t)
{
    if (t->ranges)
        munmap(t->ranges, sizeof(*t->ranges));
    t->ranges = NULL;
    t->ranges_news = false;
}
