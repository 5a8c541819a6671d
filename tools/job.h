/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One traced command from beginning to end: what `run` and `doctor` have in common. The order of
 * things is here; what the command sees is run_child.c's, what the trace learns of it
 * run_record.c's, what is seen of it from outside run_watch.c's.
 */
#ifndef SKEW_JOB_H
#define SKEW_JOB_H

#include "run_child.h"
#include "run_collector.h"
#include "run_record.h"
#include "run_summary.h"
#include "run_watch.h"
#include "settings.h"

struct skew_job {
    /* Set by the caller. */
    struct skew_settings settings;
    char **labels; /* KEY=VALUE, checked */
    size_t label_count;
    bool with_standin;
    bool stdout_to_stderr; /* of the command */
    char **arguments;      /* the command, ends with NULL */

    /* The rest is the job's own. */
    char *library;
    char *standin;  /* directory, NULL: not wanted */
    char *out;      /* absolute and canonical */
    char *state;    /* OUT/.skewscope */
    int exec_error; /* errno when the command could not be executed */
    bool collecting;
    bool packages_taken;
    bool takes_nvtx; /* NVTX 3 of the command is to load our library */
    struct skew_run_record record;
    struct skew_child child;
    struct skew_run_collector collector;
    struct skew_watch *watch;
    struct skew_run_found found; /* after skew_job_end() */
};

/**
 * Makes the output directory, starts collector, command and watch.
 * @return 0; -EINVAL after one sentence about what the user gave; another negative errno after one
 *         sentence: nothing was started.
 */
int skew_job_begin(struct skew_job *job);

/** Until the command has ended; after `limit_ms` (0: no limit) it is asked to end, and then made
 * to. */
void skew_job_follow(struct skew_job *job, uint64_t limit_ms);

/**
 * Drains and fills `found`.
 * @return 0; 1 when collection is switched off; a negative errno when something is left, after
 * which skew_run_collector_message() may tell why.
 */
int skew_job_end(struct skew_job *job);

/** Why nothing was captured, as notes into the record, which is collected once more. */
void skew_job_explain(struct skew_job *job);

void skew_job_free(struct skew_job *job);

/* run_notes.c: what the watch has seen, as notes of the record. */
void skew_notes_seen(struct skew_job *job);
void skew_notes_nothing(struct skew_job *job);

#endif
