/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Talking to a person: see term.h.
 */
#include "term.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

void skew_tell(const char *format, ...)
{
    char text[2048];
    va_list arguments;
    int used = snprintf(text, sizeof text, "skewscope: ");

    va_start(arguments, format);
    int more = vsnprintf(text + used, sizeof text - (size_t)used - 1, format, arguments);
    va_end(arguments);
    if (more < 0)
        return;
    size_t length = strlen(text);
    text[length++] = '\n';
    fflush(stdout);
    if (write(STDERR_FILENO, text, length) < 0)
        return; /* there is nobody left to tell */
}

bool skew_colour(FILE *file, enum skew_colour_when when)
{
    const char *no = getenv("NO_COLOR"), *term = getenv("TERM");

    if (when != SKEW_COLOUR_AUTO)
        return when == SKEW_COLOUR_ALWAYS;
    if (no && *no)
        return false;
    return isatty(fileno(file)) && term && *term && strcmp(term, "dumb") != 0;
}

bool skew_colour_parse(const char *text, enum skew_colour_when *when)
{
    static const char *const names[] = {"auto", "always", "never"};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(text, names[i]) == 0) {
            *when = (enum skew_colour_when)i;
            return true;
        }
    }
    return false;
}

int skew_columns(FILE *file)
{
    struct winsize size;
    const char *columns = getenv("COLUMNS");
    int64_t value;

    if (isatty(fileno(file)) && ioctl(fileno(file), TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
        return size.ws_col;
    if (columns && skew_parse_int(columns, 20, 10000, &value))
        return (int)value;
    return 100;
}

/* Edit distance with swaps of neighbours, case ignored. Words here are short. */
static int distance(const char *a, const char *b)
{
    enum { MOST = 40 };
    int rows[3][MOST + 1];
    int la = (int)strlen(a), lb = (int)strlen(b);

    if (la > MOST || lb > MOST)
        return MOST;
    for (int j = 0; j <= lb; j++)
        rows[0][j] = j;
    for (int i = 1; i <= la; i++) {
        int *before = rows[(i + 1) % 3], *last = rows[(i - 1) % 3], *row = rows[i % 3];
        row[0] = i;
        for (int j = 1; j <= lb; j++) {
            int same = strncasecmp(&a[i - 1], &b[j - 1], 1) == 0;
            int best = last[j - 1] + !same;
            if (last[j] + 1 < best)
                best = last[j] + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                before[j - 2] + 1 < best)
                best = before[j - 2] + 1;
            row[j] = best;
        }
    }
    return rows[la % 3][lb];
}

const char *skew_nearest(const char *word, const char *const *candidates)
{
    const char *nearest = NULL;
    int least = (int)strlen(word) / 3 + 1;

    if (least > 3)
        least = 3;
    for (; *candidates; candidates++) {
        int d = distance(word, *candidates);
        size_t length = strlen(word);
        if (length >= 2 && strncasecmp(word, *candidates, length) == 0)
            d = 1; /* the beginning of it */
        if (d < least || (d == least && !nearest)) {
            least = d;
            nearest = *candidates;
        }
    }
    return nearest;
}

uint64_t skew_clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void skew_progress_start(struct skew_progress *progress, bool quiet)
{
    *progress = (struct skew_progress){.off = quiet || !isatty(STDERR_FILENO),
                                       .started_ns = skew_clock_ns()};
}

void skew_progress_show(struct skew_progress *progress, const char *format, ...)
{
    uint64_t now = skew_clock_ns();
    va_list arguments;

    if (progress->off || now - progress->started_ns < 500000000u ||
        now - progress->drawn_ns < 100000000u)
        return;
    progress->drawn_ns = now;
    progress->shown = true;
    fprintf(stderr, "\r\033[Kskewscope: ");
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fflush(stderr);
}

void skew_progress_end(struct skew_progress *progress)
{
    if (progress->shown) {
        fprintf(stderr, "\r\033[K");
        fflush(stderr);
    }
    progress->shown = false;
}

char *skew_bytes_text(char text[SKEW_BYTES_TEXT], uint64_t bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double value = (double)bytes;
    size_t unit = 0;

    while (value >= 1023.95 && unit + 1 < sizeof units / sizeof *units) {
        value /= 1024;
        unit++;
    }
    if (unit == 0)
        snprintf(text, SKEW_BYTES_TEXT, "%" PRIu64 " B", bytes);
    else
        snprintf(text, SKEW_BYTES_TEXT, "%.*f %s", value < 9.995 ? 2 : 1, value, units[unit]);
    return text;
}

char *skew_count_text(char text[SKEW_COUNT_TEXT], uint64_t count)
{
    char digits[24];
    int length = snprintf(digits, sizeof digits, "%" PRIu64, count);
    char *at = text;

    for (int i = 0; i < length; i++) {
        if (i && (length - i) % 3 == 0)
            *at++ = ',';
        *at++ = digits[i];
    }
    *at = '\0';
    return text;
}

void skew_term_clean(char *text)
{
    for (unsigned char *c = (unsigned char *)text; *c; c++) {
        if (*c < ' ' || *c == 127)
            *c = '?';
        else if (*c == 0xc2 && c[1] >= 0x80 && c[1] < 0xa0) /* U+0080 … U+009F */
            *c = c[1] = '?';
    }
}

bool skew_parse_int(const char *text, int64_t least, int64_t most, int64_t *value)
{
    char *end;

    if (*text != '-' && (*text < '0' || *text > '9'))
        return false; /* strtoll would take blanks and '+' */
    errno = 0;
    *value = strtoll(text, &end, 10);
    return errno == 0 && *end == '\0' && *value >= least && *value <= most;
}
