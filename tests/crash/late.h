/* SPDX-License-Identifier: Apache-2.0 */
/* A library whose destructor runs after that of a preloaded one, and calls what it was given. */
#ifndef SKEW_TEST_LATE_H
#define SKEW_TEST_LATE_H

extern __attribute__((visibility("default"))) void (*late_call)(void);

#endif
