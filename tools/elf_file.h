/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an ELF file says about itself, as far as it decides whether LD_PRELOAD enters it and whether
 * NCCL is linked into it. Reads the file, never loads it; any input is survived.
 */
#ifndef SKEW_ELF_FILE_H
#define SKEW_ELF_FILE_H

#include <stdbool.h>
#include <stdint.h>

struct skew_elf {
    bool elf;         /* false: a script, or anything else */
    char script[256]; /* the interpreter line after #!, when it is a script */
    uint8_t bits;     /* 32 or 64 */
    uint16_t machine; /* EM_… */
    bool program;     /* has an entry that the kernel can start (ET_EXEC, or ET_DYN with one) */
    bool loader;      /* has a PT_INTERP: is dynamically linked */
    char interp[256]; /* it */
    bool needs_nccl;  /* libnccl or librccl among DT_NEEDED */
    bool needs_cuda;  /* libcudart or libcuda among DT_NEEDED */
    bool device_code; /* has CUDA device code (.nv_fatbin) or HIP's (.hip_fatbin) */
    bool set_id;      /* runs with another identity: setuid, setgid or with capabilities */
};

/** 0, also for what is no ELF file; a negative errno when it cannot be read. */
int skew_elf_read(struct skew_elf *elf, const char *path);

/**
 * Whether NCCL itself, kernels included, is linked into this object (which is not libnccl by name).
 * Searches its read-only data for the names of NCCL's kernels. *stop set by another thread ends it.
 */
bool skew_elf_static_nccl(const char *path, const struct skew_elf *elf, const bool *stop);

/** "2.28.9" from the version text inside an NCCL library; "" when there is none. */
void skew_elf_nccl_version(const char *path, char version[32]);

#endif
