/* SPDX-License-Identifier: Apache-2.0 */
/*
 * OUT/.skewscope/run-ID.json: what `run` knows of a run and the collector brings into the trace.
 * Replaced atomically whenever more is known. See docs/cli.md for its keys.
 */
#ifndef SKEW_RUN_RECORD_H
#define SKEW_RUN_RECORD_H

#include <jansson.h>
#include <stdbool.h>

#include "spool.h"

struct skew_run_record {
    char id[SKEW_RUN_ID_BYTES];
    char *path; /* of the file */
    json_t *root;
};

/** Starts a record of a run of `arguments` in `state_dir`; not yet written. 0 or a negative errno.
 */
int skew_run_record_create(struct skew_run_record *record, const char *state_dir, char **arguments);
void skew_run_record_free(struct skew_run_record *record);

/** false when the label has no '=' or no key. */
bool skew_run_record_label(struct skew_run_record *record, const char *label);

void skew_run_record_package(struct skew_run_record *record, const char *name, const char *version,
                             const char *path);

/** `driver` may be NULL. */
void skew_run_record_gpu(struct skew_run_record *record, const char *bus, const char *model,
                         const char *driver);

/** Adds a note, once: `severity` is info, warning or error; `code` a stable name. */
__attribute__((format(printf, 4, 5))) void skew_run_record_note(struct skew_run_record *record,
                                                                const char *code,
                                                                const char *severity,
                                                                const char *format, ...);

/** Notes the end, with the status of waitpid. */
void skew_run_record_end(struct skew_run_record *record, int status);

/** Writes it, `durable` to the medium; 0 or a negative errno. */
int skew_run_record_write(const struct skew_run_record *record, bool durable);

/** Whether a variable belongs into a trace: about the job and its libraries, and no secret. */
bool skew_run_record_wants(const char *name);

#endif
