/* SPDX-License-Identifier: Apache-2.0 */
/* See late.h. The application's own libraries are initialised before preloaded ones, so this runs
 * last. */
#include <stddef.h>

#include "late.h"

void (*late_call)(void) = NULL;

static __attribute__((destructor)) void call_late(void)
{
    if (late_call)
        late_call();
}
