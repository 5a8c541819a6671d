/* SPDX-License-Identifier: Apache-2.0 */
/* Two tables of the same names (gen_abi.py): by our headers, and by the real ones. */
#ifndef STANDIN_ABI_TABLE_H
#define STANDIN_ABI_TABLE_H

struct abi_row {
    const char *name;
    long long value;
};

extern const struct abi_row abi_ours[];
extern const struct abi_row abi_real[];

#endif
