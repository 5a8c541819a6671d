/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The long-running collector: waits for the lock, then looks at all spools again and again until it
 * is told to end (SIGTERM, SIGINT) or nobody is left to wait for. Sleeps longer the less there is
 * to do.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "follow.h"

#define MS            1000000ull
#define POLL_BUSY     (20 * MS) /* a lot came: look again at once */
#define POLL_NORMAL   (100 * MS)
#define POLL_IDLE     (400 * MS) /* nothing came for a while; still far below the promised second */
#define POLL_STANDBY  (200 * MS)
#define BUSY_BYTES    (8u << 20)
#define IDLE_GRACE    (1000 * MS)
#define FIRST_GRACE   (10000 * MS) /* for the first spool to appear */
#define PUBLISH_SOON  (5000 * MS)  /* after a process ended: its spool takes up memory */
#define PUBLISH_EVERY (60000 * MS)

static volatile sig_atomic_t stop; /* set by the handler, read by the one thread */

static void on_signal(int number)
{
    (void)number;
    stop = 1;
}

static void catch_signals(sigset_t *before)
{
    struct sigaction action = {.sa_handler = on_signal}, ignore = {.sa_handler = SIG_IGN};
    sigset_t block;
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGPIPE, &ignore, NULL);
    sigaction(SIGHUP, &ignore, NULL);
    sigemptyset(&block);
    sigaddset(&block, SIGTERM);
    sigaddset(&block, SIGINT);
    /* Signals arrive while we sleep, never between a look at `stop` and the sleep. */
    sigprocmask(SIG_BLOCK, &block, before);
    sigdelset(before, SIGTERM);
    sigdelset(before, SIGINT);
}

static void doze(uint64_t ns, const sigset_t *signals)
{
    struct timespec time = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
    ppoll(NULL, 0, &time, signals);
}

static void pause_asking(const void *signals)
{
    doze(POLL_NORMAL / 2, signals);
}

/* @return 0 the lock is ours, 1 told to end before that, negative errno */
static int stand_by(struct skew_node *c, bool until_idle, const sigset_t *signals)
{
    int error;
    while ((error = skew_node_lock(c)) == -EWOULDBLOCK) {
        /* One that ends by itself has nothing to wait for once the other one knows the spool for
         * which it was started: that one may be about to end, or needs us to get into our mount
         * namespace. */
        if (until_idle)
            return skew_node_ask(c, SKEW_ASK_LOOK, pause_asking, signals);
        /* Our run is over: what it left must be in the trace before we end. */
        if (stop)
            return skew_node_ask(c, SKEW_ASK_PUBLISH, pause_asking, signals);
        doze(POLL_STANDBY, signals);
    }
    return error;
}

static bool ended_unpublished(const struct skew_node *c)
{
    for (size_t i = 0; i < c->proc_count; i++)
        if (c->procs[i]->gone && c->procs[i]->ended && !c->procs[i]->damaged)
            return true;
    return false;
}

/* Publishing costs a copy, so at most a small part of the time goes into it. */
static bool publish_due(const struct skew_node *c, uint64_t now)
{
    uint64_t since = now - c->published_ns, rest = 20 * c->publish_cost_ns;
    if (!c->changed || !c->db || since < rest)
        return false;
    return since > PUBLISH_EVERY || (ended_unpublished(c) && since > PUBLISH_SOON);
}

static bool is_idle(const struct skew_node *c, uint64_t now, uint64_t start, uint64_t *idle_since)
{
    if (skew_node_live(c) || c->moved) {
        *idle_since = 0;
        return false;
    }
    if (!*idle_since)
        *idle_since = now;
    bool ever = c->result.processes != 0;
    return ever ? now - *idle_since > IDLE_GRACE : now - start > FIRST_GRACE;
}

/* One round, and what others have asked for before it began. Whoever asks later, and finds nobody,
 * does it. */
static int serve(struct skew_node *c, bool publish)
{
    struct skew_requests asked, look;
    publish |= skew_requests_open(c, SKEW_ASK_PUBLISH, &asked) != 0;
    if (skew_requests_open(c, SKEW_ASK_LOOK, &look) || asked.count)
        skew_node_sign(c);
    int error = skew_node_round(c);
    skew_requests_close(c, &look, true);
    if (!error && (publish ? c->changed : publish_due(c, skew_node_now_ns())))
        error = skew_node_publish(c);
    skew_requests_close(c, &asked, !error);
    return error;
}

int skew_node_follow(struct skew_node *c, bool until_idle)
{
    sigset_t signals;
    pid_t parent = getppid();
    bool by_run = c->run_id[0];
    uint64_t start, idle_since = 0, quiet = 0;
    catch_signals(&signals);
    c->follow = true;
    int error = stand_by(c, until_idle, &signals);
    if (error)
        return error < 0;
    start = c->published_ns = skew_node_now_ns();
    while (!stop) {
        error = serve(c, false);
        uint64_t now = skew_node_now_ns();
        /* Started by a `skewscope run` that was killed since: nobody will tell us to end. */
        bool orphan = by_run && getppid() != parent;
        if (!error && (until_idle || orphan) && is_idle(c, now, start, &idle_since))
            break;
        quiet = c->moved ? 0 : quiet + 1;
        doze(error                   ? 10 * POLL_NORMAL
             : c->moved > BUSY_BYTES ? POLL_BUSY
             : quiet < 20            ? POLL_NORMAL
                                     : POLL_IDLE,
             &signals);
    }
    c->last_round = true;
    error = serve(c, true);
    skew_node_finish(c);
    return error != 0;
}
