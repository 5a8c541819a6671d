/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calls of a library that moves tokens from inside its kernels, and whose prototypes we do not
 * know: NCCL EP. That a call was made is counted in the spool's head and noted as a record; what it
 * asked for is not read. The entries in call_entry.S ask here for the real function before they
 * jump to it. Application threads; nothing is held when the real function runs, so that what it
 * calls of NCCL is recorded like any other call.
 */
#include <errno.h>

#include "bind.h"
#include "hot.h"

/* Where the library's own code lies: its functions call each other by way of the loader, and only
 * what the application calls counts. The end is stored last. */
static uintptr_t inside_start SKEW_EARLY, inside_end SKEW_EARLY;

static SKEW_COLD void find_inside(const void *real)
{
    struct dl_phdr_info module;
    uintptr_t start = UINTPTR_MAX, end = 1;
    if (skew_elf_module_of(real, &module))
        for (int i = 0; i < module.dlpi_phnum; i++) {
            const ElfW(Phdr) *ph = &module.dlpi_phdr[i];
            uintptr_t at = module.dlpi_addr + ph->p_vaddr;
            if (ph->p_type != PT_LOAD)
                continue;
            start = at < start ? at : start;
            end = at + ph->p_memsz > end ? at + ph->p_memsz : end;
        }
    __atomic_store_n(&inside_start, start, __ATOMIC_RELAXED);
    __atomic_store_n(&inside_end, end, __ATOMIC_RELEASE);
}

static bool is_inside(const void *real, uintptr_t address)
{
    uintptr_t end = __atomic_load_n(&inside_end, __ATOMIC_ACQUIRE);
    if (skew_unlikely(!end)) {
        find_inside(real);
        end = __atomic_load_n(&inside_end, __ATOMIC_ACQUIRE);
    }
    return address >= __atomic_load_n(&inside_start, __ATOMIC_RELAXED) && address < end;
}

static void put_call(struct skew_thread *thread, uint32_t call, uint64_t ns, const void *object,
                     uint32_t site)
{
    struct skew_process *proc = skew_proc;
    struct skew_rec_backend_call rec = {
        .head = {.bytes = sizeof(rec), .type = SKEW_REC_BACKEND_CALL},
        .ns = ns,
        .object = (uintptr_t)object,
        .call = call,
        .site = site,
        .tid = thread->tid,
    };
    if (skew_put(thread, &rec.head) == 0)
        return;
    skew_lock(proc);
    skew_loss_add(proc, proc->defs_loss ? proc->defs_loss - 1 : SKEW_LOSS_SPOOL_FULL,
                  &(struct skew_loss_count){.cells = 1});
    skew_unlock(proc);
}

static void note(uint32_t call, const void *object, uintptr_t address, uintptr_t frame)
{
    struct skew_process *proc = skew_process_get();
    if (!proc || __atomic_load_n(&proc->phase, __ATOMIC_ACQUIRE) != SKEW_PHASE_READY)
        return;
    uint64_t ns = skew_now();
    if (!proc->head) { /* no communicator yet: counted with the first call that finds a spool */
        __atomic_fetch_add(&proc->early_calls[call], 1, __ATOMIC_RELAXED);
        return;
    }
    for (uint32_t i = 0; i < SKEW_BACKEND_CALLS; i++)
        if (skew_unlikely(__atomic_load_n(&proc->early_calls[i], __ATOMIC_RELAXED)))
            __atomic_fetch_add(&proc->head->backend_calls[i],
                               __atomic_exchange_n(&proc->early_calls[i], 0, __ATOMIC_RELAXED),
                               __ATOMIC_RELAXED);
    __atomic_fetch_add(&proc->head->backend_calls[call], 1, __ATOMIC_RELAXED);
    struct skew_thread *thread = skew_enter();
    if (!thread)
        return;
    put_call(thread, call, ns, object, skew_site(thread, address, frame));
    skew_leave(thread);
}

/**
 * Called by the entries. @param function enum skew_api @param object the first argument, if it is a
 * pointer
 * @return the real function
 */
__attribute__((visibility("hidden"))) void *skew_call_noted(uint32_t function, const void *object,
                                                            uintptr_t address, uintptr_t frame);
void *skew_call_noted(uint32_t function, const void *object, uintptr_t address, uintptr_t frame)
{
    int saved = errno;
    void *real = skew_single_bind((enum skew_api)function, NULL);
    if (!is_inside(real, address))
        note(skew_backend_call_of[function], object, address, frame);
    errno = saved;
    return real;
}
