/* SPDX-License-Identifier: Apache-2.0 */
/* For interpose_elf.c: built once with each kind of hash table. */
#include <unistd.h>

int styled_data = 5;
int styled_function(void);
int another_function(void);

int styled_function(void)
{
    return getpid() + styled_data;
}

int another_function(void)
{
    return styled_function() + 1;
}
