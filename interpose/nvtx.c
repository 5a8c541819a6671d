/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How NVTX reaches us. The older NVTX is a library, libnvToolsExt.so, whose functions are wrapped
 * like NCCL's (cuda.api). NVTX 3 stands in headers: every program and library that uses it holds
 * the functions itself, and at its first call opens the library that NVTX_INJECTION64_PATH names
 * and hands it its table of function pointers. Here is that entry. The little of NVTX's ABI that is
 * used is declared here, and checked against the real headers where these exist (tests/preload).
 * Application threads.
 *
 * NCCL uses NVTX 3 as well, for every call that it gets. Its own copy is refused, so that it stays
 * as cheap as it is without a tool.
 */
#include <dlfcn.h>
#include <errno.h>
#include <string.h>

#include "bind.h"
#include "handlers.h"
#include "nvtx_abi.h"

#define WIDE_MAX 512u

static bool wanted(void)
{
    struct skew_process *proc = skew_process_get();
    return proc && skew_option_on(proc, SKEW_OPT_NVTX);
}

/* ---- messages ------------------------------------------------------------------------------ */

/* Wide characters as UTF-8; what is no character becomes a question mark. */
static void read_wide(struct skew_message *m, const wchar_t *wide, bool numbers_apart)
{
    char text[WIDE_MAX];
    size_t n = 0;
    for (; wide && *wide && n + 5 < sizeof(text); wide++) {
        uint32_t c = (uint32_t)*wide;
        if (c < 0x80) {
            text[n++] = (char)c;
        } else if (c < 0x800) {
            text[n++] = (char)(0xc0 | c >> 6);
            text[n++] = (char)(0x80 | (c & 0x3f));
        } else if (c < 0x10000) {
            text[n++] = (char)(0xe0 | c >> 12);
            text[n++] = (char)(0x80 | (c >> 6 & 0x3f));
            text[n++] = (char)(0x80 | (c & 0x3f));
        } else if (c < 0x110000) {
            text[n++] = (char)(0xf0 | c >> 18);
            text[n++] = (char)(0x80 | (c >> 12 & 0x3f));
            text[n++] = (char)(0x80 | (c >> 6 & 0x3f));
            text[n++] = (char)(0x80 | (c & 0x3f));
        } else {
            text[n++] = '?';
        }
    }
    text[n] = '\0';
    skew_message_read(m, wide ? text : NULL, numbers_apart);
}

static void read_event(struct skew_message *m, const void *event)
{
    const struct skew_nvtx_event *e = event;
    *m = (struct skew_message){0};
    if (!e || e->size < sizeof(*e))
        return;
    if (e->message_type == SKEW_NVTX_ASCII)
        skew_message_read(m, e->message, true);
    else if (e->message_type == SKEW_NVTX_UNICODE)
        read_wide(m, e->message, true);
    else if (e->message_type == SKEW_NVTX_REGISTERED &&
             ((uintptr_t)e->message & SKEW_NVTX_HANDLE_KIND) == SKEW_NVTX_STRING)
        m->name = (uint32_t)(uintptr_t)e->message;
}

/* ---- what was said, by whichever way ------------------------------------------------------- */

static int push_event_on(struct skew_thread *t, void *domain, const void *event)
{
    struct skew_message m;
    read_event(&m, event);
    return skew_range_push(t, (uintptr_t)domain, &m);
}

static int push_text_on(struct skew_thread *t, const char *message)
{
    struct skew_message m;
    skew_message_read(&m, message, true);
    return skew_range_push(t, 0, &m);
}

static int push_wide_on(struct skew_thread *t, const wchar_t *message)
{
    struct skew_message m;
    read_wide(&m, message, true);
    return skew_range_push(t, 0, &m);
}

static void mark_event_on(struct skew_thread *t, void *domain, const void *event)
{
    struct skew_message m;
    read_event(&m, event);
    skew_range_mark(t, (uintptr_t)domain, &m);
}

static void mark_text_on(struct skew_thread *t, const char *message)
{
    struct skew_message m;
    skew_message_read(&m, message, true);
    skew_range_mark(t, 0, &m);
}

static void mark_wide_on(struct skew_thread *t, const wchar_t *message)
{
    struct skew_message m;
    read_wide(&m, message, true);
    skew_range_mark(t, 0, &m);
}

/* ---- the older library --------------------------------------------------------------------- */

/* Nobody has this function: NVTX's way to say that a range was not begun. */
static int nobody(void)
{
    return -1;
}

struct skew_thread *skew_nvtx_enter(int function)
{
    skew_single_bind((enum skew_api)function, (void *)nobody);
    struct skew_thread *t = wanted() ? skew_thread_early() : NULL;
    if (!t || t->nvtx_busy)
        return NULL;
    t->nvtx_busy = true; /* the real one may be made of NVTX 3, and tell us the same again */
    return t;
}

static struct skew_thread *left(struct skew_thread *t)
{
    t->nvtx_busy = false;
    return t;
}

void skew_nvtx_push(struct skew_thread *t, const char *message)
{
    push_text_on(left(t), message);
}

void skew_nvtx_push_wide(struct skew_thread *t, const wchar_t *message)
{
    push_wide_on(left(t), message);
}

void skew_nvtx_push_domain(struct skew_thread *t, void *domain, const void *event)
{
    push_event_on(left(t), domain, event);
}

void skew_nvtx_push_event(struct skew_thread *t, const void *event)
{
    skew_nvtx_push_domain(t, NULL, event);
}

void skew_nvtx_pop_domain(struct skew_thread *t, void *domain)
{
    skew_range_pop(left(t), (uintptr_t)domain);
}

void skew_nvtx_pop(struct skew_thread *t)
{
    skew_nvtx_pop_domain(t, NULL);
}

void skew_nvtx_mark(struct skew_thread *t, const char *message)
{
    mark_text_on(left(t), message);
}

void skew_nvtx_mark_wide(struct skew_thread *t, const wchar_t *message)
{
    mark_wide_on(left(t), message);
}

void skew_nvtx_mark_domain(struct skew_thread *t, void *domain, const void *event)
{
    mark_event_on(left(t), domain, event);
}

void skew_nvtx_mark_event(struct skew_thread *t, const void *event)
{
    skew_nvtx_mark_domain(t, NULL, event);
}

/* ---- NVTX 3: what stands in its table ------------------------------------------------------ */

/* This thread; NULL: nothing is to be noted. */
static struct skew_thread *listener(void)
{
    struct skew_thread *t = skew_self;
    if (skew_unlikely(t == &skew_nobody))
        t = wanted() ? skew_thread_early() : NULL;
    return t && !t->nvtx_busy ? t : NULL;
}

static int domain_push(void *domain, const void *event)
{
    struct skew_thread *t = listener();
    return t ? push_event_on(t, domain, event) : -1;
}

static int push_event(const void *event)
{
    return domain_push(NULL, event);
}

static int push_text(const char *message)
{
    struct skew_thread *t = listener();
    return t ? push_text_on(t, message) : -1;
}

static int push_wide(const wchar_t *message)
{
    struct skew_thread *t = listener();
    return t ? push_wide_on(t, message) : -1;
}

static int domain_pop(void *domain)
{
    struct skew_thread *t = listener();
    return t ? skew_range_pop(t, (uintptr_t)domain) : -1;
}

static int pop(void)
{
    return domain_pop(NULL);
}

static void domain_mark(void *domain, const void *event)
{
    struct skew_thread *t = listener();
    if (t)
        mark_event_on(t, domain, event);
}

static void mark_event(const void *event)
{
    domain_mark(NULL, event);
}

static void mark_text(const char *message)
{
    struct skew_thread *t = listener();
    if (t)
        mark_text_on(t, message);
}

static void mark_wide(const wchar_t *message)
{
    struct skew_thread *t = listener();
    if (t)
        mark_wide_on(t, message);
}

/* Registered strings keep their numbers: a handle has no room for them. */
static void *named(uintptr_t kind, const char *text, const wchar_t *wide)
{
    struct skew_message m = {0};
    if (wide)
        read_wide(&m, wide, false);
    else
        skew_message_read(&m, text, false);
    return (void *)(kind | m.name);
}

static void *register_text(void *domain, const char *text)
{
    (void)domain;
    return named(SKEW_NVTX_STRING, text, NULL);
}

static void *register_wide(void *domain, const wchar_t *text)
{
    (void)domain;
    return named(SKEW_NVTX_STRING, NULL, text);
}

static void *domain_create(const char *name)
{
    return named(SKEW_NVTX_DOMAIN, name, NULL);
}

static void *domain_create_wide(const wchar_t *name)
{
    return named(SKEW_NVTX_DOMAIN, NULL, name);
}

/* ---- the entry ----------------------------------------------------------------------------- */

static const struct {
    uint8_t module, function;
    void *ours;
} table[] = {
    {SKEW_NVTX_CORE, SKEW_NVTX_MARK_EVENT, (void *)mark_event},
    {SKEW_NVTX_CORE, SKEW_NVTX_MARK_TEXT, (void *)mark_text},
    {SKEW_NVTX_CORE, SKEW_NVTX_MARK_WIDE, (void *)mark_wide},
    {SKEW_NVTX_CORE, SKEW_NVTX_PUSH_EVENT, (void *)push_event},
    {SKEW_NVTX_CORE, SKEW_NVTX_PUSH_TEXT, (void *)push_text},
    {SKEW_NVTX_CORE, SKEW_NVTX_PUSH_WIDE, (void *)push_wide},
    {SKEW_NVTX_CORE, SKEW_NVTX_POP, (void *)pop},
    {SKEW_NVTX_CORE2, SKEW_NVTX_DOMAIN_MARK_EVENT, (void *)domain_mark},
    {SKEW_NVTX_CORE2, SKEW_NVTX_DOMAIN_PUSH_EVENT, (void *)domain_push},
    {SKEW_NVTX_CORE2, SKEW_NVTX_DOMAIN_POP, (void *)domain_pop},
    {SKEW_NVTX_CORE2, SKEW_NVTX_DOMAIN_REGISTER_TEXT, (void *)register_text},
    {SKEW_NVTX_CORE2, SKEW_NVTX_DOMAIN_REGISTER_WIDE, (void *)register_wide},
    {SKEW_NVTX_CORE2, SKEW_NVTX_DOMAIN_CREATE_TEXT, (void *)domain_create},
    {SKEW_NVTX_CORE2, SKEW_NVTX_DOMAIN_CREATE_WIDE, (void *)domain_create_wide},
};

SKEW_EXPORT int InitializeInjectionNvtx2(skew_nvtx_export get_table);

/** NVTX 3 calls this, once for each program or library that holds it. @return 0: no thanks. */
int InitializeInjectionNvtx2(skew_nvtx_export get_table)
{
    int saved = errno;
    const struct skew_nvtx_callbacks *callbacks = NULL;
    bool nccl = skew_bind_is_nccl((void *)get_table);
    if (!nccl && wanted())
        callbacks = get_table(SKEW_NVTX_CALLBACKS);
    if (callbacks && callbacks->size < sizeof(*callbacks))
        callbacks = NULL;
    for (unsigned i = 0; callbacks && i < sizeof(table) / sizeof(table[0]); i++) {
        void ***functions = NULL;
        unsigned count = 0;
        if (callbacks->get_module(table[i].module, &functions, &count) && functions &&
            table[i].function < count && functions[table[i].function])
            *functions[table[i].function] = table[i].ours;
    }
    errno = saved;
    return callbacks != NULL;
}
