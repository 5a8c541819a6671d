/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Talking to a person: messages, colour, width, progress, suggestions, sizes. Used by every
 * subcommand; nothing here is called inside a target. Standard error is for people, standard output
 * for results.
 */
#ifndef SKEW_TERM_H
#define SKEW_TERM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/** "skewscope: <text>\n" on standard error, in one write. */
__attribute__((format(printf, 1, 2))) void skew_tell(const char *format, ...);

enum skew_colour_when { SKEW_COLOUR_AUTO, SKEW_COLOUR_ALWAYS, SKEW_COLOUR_NEVER };

/** Whether to colour what goes to `file`: a terminal that can, and no NO_COLOR in the environment.
 */
bool skew_colour(FILE *file, enum skew_colour_when when);

/** "auto", "always", "never"; false for anything else. */
bool skew_colour_parse(const char *text, enum skew_colour_when *when);

/** Columns of the terminal behind `file`, else of $COLUMNS, else 100. */
int skew_columns(FILE *file);

/**
 * The candidate nearest to `word`, when it is near enough to be what was meant, else NULL.
 * `candidates` ends with NULL.
 */
const char *skew_nearest(const char *word, const char *const *candidates);

/** A line that is redrawn while long work goes on: only on a terminal, and not in the first moment.
 */
struct skew_progress {
    bool shown;
    bool off;
    uint64_t started_ns;
    uint64_t drawn_ns;
};
void skew_progress_start(struct skew_progress *progress, bool quiet);
__attribute__((format(printf, 2, 3))) void skew_progress_show(struct skew_progress *progress,
                                                              const char *format, ...);
void skew_progress_end(struct skew_progress *progress); /* removes the line */

/** CLOCK_MONOTONIC. */
uint64_t skew_clock_ns(void);

/** "12.3 MiB" and the like. Returns `text`. */
#define SKEW_BYTES_TEXT 24
char *skew_bytes_text(char text[SKEW_BYTES_TEXT], uint64_t bytes);

/** "1,234,567". Returns `text`. */
#define SKEW_COUNT_TEXT 32
char *skew_count_text(char text[SKEW_COUNT_TEXT], uint64_t count);

/** Replaces control characters of a NUL-terminated UTF-8 text by '?', C1 ones included. */
void skew_term_clean(char *text);

/** A whole number of the range, all of `text` and nothing else; false otherwise. */
bool skew_parse_int(const char *text, int64_t least, int64_t most, int64_t *value);

#endif
