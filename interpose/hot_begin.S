/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where the code of a usual exchange begins (SKEW_HOT): aligned so that all of it lies on one page. Has to be
 * the first of the library's sources; elsewhere it would only cost some bytes.
 */
    .section skew_hot_text, "ax", %progbits
    .p2align 11
    .section .note.GNU-stack, "", %progbits
