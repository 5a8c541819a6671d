/* SPDX-License-Identifier: Apache-2.0 */
/* See utf8.h. */
#include "utf8.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Bytes of the well-formed sequence at `text`, or 0. */
static size_t sequence(const unsigned char *text, size_t length)
{
    unsigned char c = text[0];
    size_t need = c < 0x80                ? 1
                  : c >= 0xc2 && c < 0xe0 ? 2
                  : c >= 0xe0 && c < 0xf0 ? 3
                  : c >= 0xf0 && c < 0xf5 ? 4
                                          : 0;
    if (!c || !need || need > length)
        return 0;
    for (size_t i = 1; i < need; i++)
        if ((text[i] & 0xc0) != 0x80)
            return 0;
    if ((c == 0xe0 && text[1] < 0xa0) || (c == 0xed && text[1] >= 0xa0) ||
        (c == 0xf0 && text[1] < 0x90) || (c == 0xf4 && text[1] >= 0x90))
        return 0;
    return need;
}

bool skew_utf8_valid(const char *text, size_t length)
{
    for (size_t at = 0, step; at < length; at += step) {
        step = sequence((const unsigned char *)text + at, length - at);
        if (!step)
            return false;
    }
    return true;
}

char *skew_utf8_clean(const char *text, size_t length)
{
    length = strnlen(text, length);
    char *clean = malloc(length * 3 + 1), *to = clean;
    if (!clean)
        return NULL;
    for (size_t at = 0; at < length;) {
        size_t step = sequence((const unsigned char *)text + at, length - at);
        memcpy(to, step ? text + at : "\xef\xbf\xbd", step ? step : 3);
        to += step ? step : 3;
        at += step ? step : 1;
    }
    *to = 0;
    return clean;
}

static char *put_json(char *to, const char *text)
{
    *to++ = '"';
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\') {
            *to++ = '\\';
            *to++ = (char)c;
        } else if (c < 0x20) {
            to += sprintf(to, "\\u%04x", c);
        } else {
            *to++ = (char)c;
        }
    }
    *to++ = '"';
    return to;
}

char *skew_utf8_json_array(const char *text, size_t length)
{
    /* A byte becomes at most six ("\u001f"), an argument of none still needs quotes and a comma. */
    char *json = malloc(length * 9 + 8), *to = json;
    if (!json)
        return NULL;
    *to++ = '[';
    for (size_t at = 0; at < length;) {
        size_t one = strnlen(text + at, length - at);
        char *clean = skew_utf8_clean(text + at, one);
        if (!clean) {
            free(json);
            return NULL;
        }
        if (at)
            *to++ = ',';
        to = put_json(to, clean);
        free(clean);
        at += one + 1;
    }
    *to++ = ']';
    *to = 0;
    return json;
}
