/* SPDX-License-Identifier: Apache-2.0 */
/* Every constant, size and offset that the stand-ins declare, against the real headers. */
#include <stdio.h>
#include <string.h>

#include "tests/abi_table.h"

int main(void)
{
    int rows = 0, wrong = 0;
    for (; abi_ours[rows].name != NULL && abi_real[rows].name != NULL; rows++) {
        if (strcmp(abi_ours[rows].name, abi_real[rows].name) != 0 ||
            abi_ours[rows].value != abi_real[rows].value) {
            fprintf(stderr, "%s is %lld here, %lld in the real headers\n", abi_ours[rows].name,
                    abi_ours[rows].value, abi_real[rows].value);
            wrong++;
        }
    }
    printf("%d constants, sizes and offsets compared\n", rows);
    return wrong != 0 || rows < 700 || abi_ours[rows].name != abi_real[rows].name;
}
