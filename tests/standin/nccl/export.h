/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How NCCL exports: a weak ncclX and, at the same address, pncclX. Being weak and of default
 * visibility, ncclX is called through the PLT also from inside the library; only the calls that
 * real NCCL makes that way may name an exported function (README.md lists them). Everything else
 * calls static or sn_ functions.
 */
#ifndef STANDIN_EXPORT_H
#define STANDIN_EXPORT_H

#define SN_EXPORT(ret, name, args)                                                                 \
    __attribute__((visibility("default"), weak)) ret name args;                                    \
    __attribute__((visibility("default"), alias(#name))) ret p##name args;                         \
    ret name args

#endif
