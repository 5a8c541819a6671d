/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of the stand-in CUDA share. A failed check says what and where, and ends the test.
 */
#ifndef STANDIN_TEST_CHECK_H
#define STANDIN_TEST_CHECK_H

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition);              \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

#define CHECK_IS(expression, wanted)                                                               \
    do {                                                                                           \
        long long got_ = (long long)(expression), wanted_ = (long long)(wanted);                   \
        if (got_ != wanted_) {                                                                     \
            fprintf(stderr, "%s:%d: %s is %lld, not %lld\n", __FILE__, __LINE__, #expression,      \
                    got_, wanted_);                                                                \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

#define OK(call) CHECK_IS(call, 0)

/* A gate that work on a stream waits at until the test opens it. */
struct gate {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool open;
    int waiting;
};

#define GATE_INITIALIZER                                                                           \
    {                                                                                              \
        PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false, 0                              \
    }

static inline void gate_wait(void *arg)
{
    struct gate *gate = arg;
    pthread_mutex_lock(&gate->lock);
    gate->waiting++;
    pthread_cond_broadcast(&gate->changed);
    while (!gate->open)
        pthread_cond_wait(&gate->changed, &gate->lock);
    pthread_mutex_unlock(&gate->lock);
}

static inline void gate_open(struct gate *gate)
{
    pthread_mutex_lock(&gate->lock);
    gate->open = true;
    pthread_cond_broadcast(&gate->changed);
    pthread_mutex_unlock(&gate->lock);
}

/* Returns once somebody stands at the gate. */
static inline void gate_reached(struct gate *gate)
{
    pthread_mutex_lock(&gate->lock);
    while (gate->waiting == 0)
        pthread_cond_wait(&gate->changed, &gate->lock);
    pthread_mutex_unlock(&gate->lock);
}

#endif
