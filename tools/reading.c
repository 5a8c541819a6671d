/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opening a trace for a command: see reading.h.
 */
#include "reading.h"
#include "collect/collect.h"
#include "term.h"

#include <errno.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* Brings left-over spools of a directory into its trace; a file is left alone. Failure has been
 * told by then and is no reason not to read what there is. */
static void drain(const char *path)
{
    struct stat info;

    if (stat(path, &info) == 0 && S_ISDIR(info.st_mode) &&
        skew_collect_left(path, stderr, isatty(STDERR_FILENO), NULL) < 0)
        skew_tell("%s: what is left in spools could not be collected; what follows is without it",
                  path);
}

int skew_reading_open(struct skew_reading *reading, const char *path)
{
    struct skew_trace_list list;
    struct skew_error error;
    int result;

    *reading = (struct skew_reading){0};
    drain(path);
    result = skew_trace_list(&list, path, &error);
    if (result < 0) {
        skew_tell("%s", error.text);
        return result;
    }
    reading->traces = calloc(list.count, sizeof *reading->traces);
    if (!reading->traces) {
        result = -ENOMEM;
        skew_tell("out of memory");
    }
    for (size_t i = 0; i < list.count && result == 0; i++) {
        result = skew_trace_open(&reading->traces[i], list.files[i], &error);
        if (result < 0)
            skew_tell("%s", error.text);
        else
            reading->count++;
    }
    skew_trace_list_free(&list);
    if (result < 0)
        skew_reading_close(reading);
    return result;
}

/* Whether a query of one database has any row. */
static bool any_row(struct skew_trace *trace, const char *sql)
{
    sqlite3_stmt *s = NULL;
    bool found = sqlite3_prepare_v2(skew_trace_db(trace), sql, -1, &s, NULL) == SQLITE_OK &&
                 sqlite3_step(s) == SQLITE_ROW;

    sqlite3_finalize(s);
    return found;
}

bool skew_reading_any(const struct skew_reading *reading, const char *sql)
{
    bool found = false;

    for (size_t i = 0; i < reading->count && !found; i++)
        found = any_row(reading->traces[i], sql);
    return found;
}

bool skew_reading_standin(const struct skew_reading *reading)
{
    return skew_reading_any(reading,
                            "SELECT 1 FROM run_label WHERE key = 'standin' AND value = '1'");
}

bool skew_reading_imported(const struct skew_reading *reading)
{
    bool all = reading->count > 0;

    for (size_t i = 0; i < reading->count && all; i++)
        all = any_row(reading->traces[i],
                      "SELECT 1 FROM meta WHERE key = 'origin' AND value LIKE 'import %'");
    return all;
}

void skew_reading_close(struct skew_reading *reading)
{
    for (size_t i = 0; i < reading->count; i++)
        skew_trace_close(&reading->traces[i]);
    free(reading->traces);
    *reading = (struct skew_reading){0};
}
