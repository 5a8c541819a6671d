/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Entries of functions whose prototypes we do not know (interpose/ep.api). Each asks
 * skew_call_noted(number, first argument, return address, frame) for the real function and jumps there as if we had
 * not been: every register that may hold an argument, or be passed on with one, is as the caller left it, and so
 * is the stack. On x86-64 vector registers are kept in their full width where the processor has XSAVE; on aarch64
 * the 128 bits that the procedure call standard names (arguments of scalable vector types would not pass).
 */
    .text

#if defined(__x86_64__)
/* Space of XSAVE's standard format up to AVX-512's upper registers, and which state that is: SSE, AVX, AVX-512. */
#define XSAVE_BYTES 2752
#define XSAVE_STATE 0xe6

.macro ENTRY name, number
    .globl \name
    .type \name, %function
\name:
    .cfi_startproc
    endbr64
    movl $\number, %r11d
    jmp noted
    .cfi_endproc
    .size \name, . - \name
.endm

    .type noted, %function
noted:
    .cfi_startproc
    pushq %rbp
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset rbp, 0
    movq %rsp, %rbp
    .cfi_def_cfa_register rbp
    pushq %rdi
    pushq %rsi
    pushq %rdx
    pushq %rcx
    pushq %r8
    pushq %r9
    pushq %rax /* how many vector registers a variadic call uses */
    pushq %r10 /* the static chain */
    subq $XSAVE_BYTES, %rsp
    andq $-64, %rsp
    movl has_xsave(%rip), %eax
    testl %eax, %eax
    jnz 1f
    /* Asked once: the operating system has switched XSAVE on (1), or it has not (2). */
    pushq %rbx
    movl $1, %eax
    cpuid
    popq %rbx
    movl $2, %eax
    btl $27, %ecx
    sbbl $0, %eax
    movl %eax, has_xsave(%rip)
1:  cmpl $1, %eax
    jne 2f
    xorl %eax, %eax
    movq %rax, 512(%rsp) /* the header of the area has to be zero */
    movq %rax, 520(%rsp)
    movq %rax, 528(%rsp)
    movq %rax, 536(%rsp)
    movq %rax, 544(%rsp)
    movq %rax, 552(%rsp)
    movq %rax, 560(%rsp)
    movq %rax, 568(%rsp)
    movl $XSAVE_STATE, %eax
    xorl %edx, %edx
    xsave64 (%rsp)
    jmp 3f
2:  fxsave64 (%rsp)
3:  movl %r11d, %edi
    movq -8(%rbp), %rsi
    movq 8(%rbp), %rdx
    leaq 16(%rbp), %rcx
    call skew_call_noted@PLT
    movq %rax, %r11
    cmpl $1, has_xsave(%rip)
    jne 4f
    movl $XSAVE_STATE, %eax
    xorl %edx, %edx
    xrstor64 (%rsp)
    jmp 5f
4:  fxrstor64 (%rsp)
5:  movq -8(%rbp), %rdi
    movq -16(%rbp), %rsi
    movq -24(%rbp), %rdx
    movq -32(%rbp), %rcx
    movq -40(%rbp), %r8
    movq -48(%rbp), %r9
    movq -56(%rbp), %rax
    movq -64(%rbp), %r10
    leave
    .cfi_def_cfa rsp, 8
    .cfi_restore rbp
    jmp *%r11
    .cfi_endproc
    .size noted, . - noted

#include "api_entries.h"

    .data
    .balign 4
has_xsave:
    .long 0 /* 0: not asked yet */

#elif defined(__aarch64__)
.macro ENTRY name, number
    .globl \name
    .type \name, %function
\name:
    .cfi_startproc
    hint #34 /* bti c */
    mov w17, #\number
    b noted
    .cfi_endproc
    .size \name, . - \name
.endm

    .type noted, %function
noted:
    .cfi_startproc
    stp x29, x30, [sp, #-240]!
    .cfi_def_cfa_offset 240
    .cfi_offset 29, -240
    .cfi_offset 30, -232
    mov x29, sp
    stp x0, x1, [sp, #16]
    stp x2, x3, [sp, #32]
    stp x4, x5, [sp, #48]
    stp x6, x7, [sp, #64]
    stp x8, x18, [sp, #80] /* where a large result goes; the platform's own */
    stp q0, q1, [sp, #96]
    stp q2, q3, [sp, #128]
    stp q4, q5, [sp, #160]
    stp q6, q7, [sp, #192]
    mov x1, x0
    mov w0, w17
    mov x2, x30
    add x3, sp, #240
    bl skew_call_noted
    mov x16, x0
    ldp q6, q7, [sp, #192]
    ldp q4, q5, [sp, #160]
    ldp q2, q3, [sp, #128]
    ldp q0, q1, [sp, #96]
    ldp x8, x18, [sp, #80]
    ldp x6, x7, [sp, #64]
    ldp x4, x5, [sp, #48]
    ldp x2, x3, [sp, #32]
    ldp x0, x1, [sp, #16]
    ldp x29, x30, [sp], #240
    .cfi_restore 29
    .cfi_restore 30
    .cfi_def_cfa_offset 0
    br x16
    .cfi_endproc
    .size noted, . - noted

#include "api_entries.h"

#else
#error "write the entries for this processor: keep all argument registers, ask skew_call_noted(), jump to its answer"
#endif
    .section .note.GNU-stack, "", %progbits
