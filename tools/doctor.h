/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What `skewscope doctor` finds: a list of verdicts, each with what to do about it. Checks of the
 * machine and of the command's file are in doctor_checks.c, what is seen when the command runs in
 * cmd_doctor.c.
 */
#ifndef SKEW_DOCTOR_H
#define SKEW_DOCTOR_H

#include <jansson.h>

#include "settings.h"

enum skew_verdict { SKEW_OK, SKEW_WARN, SKEW_FAIL };

struct skew_doctor {
    json_t *checks; /* [{"level", "code", "text", "advice"}] */
    bool failed;    /* a FAIL is among them */
    char *library;  /* libskewscope.so, NULL when not found */
    const struct skew_settings *settings;
};

/** `advice` may be NULL. */
__attribute__((format(printf, 5, 6))) void skew_doctor_add(struct skew_doctor *doctor,
                                                           enum skew_verdict level,
                                                           const char *code, const char *advice,
                                                           const char *format, ...);

/** The library, the loader, the spool's place, limits, variables, NCCLs that could be used. */
void skew_doctor_machine(struct skew_doctor *doctor);

/** The command's file, and what the loader would load with it. Runs nothing of it. */
void skew_doctor_file(struct skew_doctor *doctor, const char *command);

#endif
