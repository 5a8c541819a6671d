/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dlsym(handle, name): asks skew_dlsym_decide(handle, name, &answer, caller), then either returns its answer or
 * jumps to the real dlsym with the caller's own return address and arguments, as if we had not been there.
 */
    .text
    .globl dlsym
    .type dlsym, %function
#if defined(__x86_64__)
dlsym:
    .cfi_startproc
    endbr64
    movq (%rsp), %rcx
    pushq %rdi
    .cfi_adjust_cfa_offset 8
    pushq %rsi
    .cfi_adjust_cfa_offset 8
    subq $24, %rsp
    .cfi_adjust_cfa_offset 24
    movq $0, 8(%rsp)
    leaq 8(%rsp), %rdx
    call skew_dlsym_decide@PLT
    movq %rax, %r11
    movq 8(%rsp), %rax
    addq $24, %rsp
    .cfi_adjust_cfa_offset -24
    popq %rsi
    .cfi_adjust_cfa_offset -8
    popq %rdi
    .cfi_adjust_cfa_offset -8
    testq %r11, %r11
    jz 1f
    jmp *%r11
1:  ret
    .cfi_endproc
#elif defined(__aarch64__)
dlsym:
    .cfi_startproc
    hint #34 /* bti c */
    stp x29, x30, [sp, #-48]!
    .cfi_def_cfa_offset 48
    .cfi_offset 29, -48
    .cfi_offset 30, -40
    stp x0, x1, [sp, #16]
    str xzr, [sp, #32]
    add x2, sp, #32
    mov x3, x30
    bl skew_dlsym_decide
    mov x16, x0
    ldr x9, [sp, #32]
    ldp x0, x1, [sp, #16]
    ldp x29, x30, [sp], #48
    .cfi_restore 29
    .cfi_restore 30
    .cfi_def_cfa_offset 0
    cbz x16, 1f
    br x16
1:  mov x0, x9
    ret
    .cfi_endproc
#else
#error "write the entry of dlsym for this processor: a tail jump to skew_dlsym_decide()'s result"
#endif
    .size dlsym, . - dlsym
    .section .note.GNU-stack, "", %progbits
