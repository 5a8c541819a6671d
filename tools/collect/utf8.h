/* SPDX-License-Identifier: Apache-2.0 */
/* Text of untrusted origin: made valid UTF-8, and quoted as JSON. */
#ifndef SKEW_COLLECT_UTF8_H
#define SKEW_COLLECT_UTF8_H

#include <stdbool.h>
#include <stddef.h>

/** Whether all of it is well-formed UTF-8 without NUL. */
bool skew_utf8_valid(const char *text, size_t length);

/** A copy up to the first NUL with every malformed byte as U+FFFD. @return malloc'd text or NULL.
 */
char *skew_utf8_clean(const char *text, size_t length);

/** A JSON array of the strings that NUL separates in `text`. @return malloc'd text or NULL. */
char *skew_utf8_json_array(const char *text, size_t length);

#endif
