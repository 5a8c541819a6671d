/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Modules, libraries, kernels and functions. No code is ever run, so an image is not even looked at
 * (it may be compressed), and any name that is asked for exists: a function is its name. A library
 * and its module are one object, as are a kernel and its function. Variables are not known.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "call.h"
#include "drv_impl.h"
#include "module.h"

struct name {
    struct name *next;
    char text[];
};

static pthread_mutex_t name_lock = PTHREAD_MUTEX_INITIALIZER;
static struct name *names[1024]; /* hash chains; guarded by name_lock, entries are never removed */

const char *si_name_intern(const char *text)
{
    unsigned hash = 5381;
    for (const char *c = text; *c != '\0'; c++)
        hash = hash * 33 + (unsigned char)*c;
    struct name **chain = &names[hash % 1024], *entry;
    pthread_mutex_lock(&name_lock);
    for (entry = *chain; entry != NULL; entry = entry->next) {
        if (strcmp(entry->text, text) == 0)
            break;
    }
    if (entry == NULL) {
        size_t bytes = strlen(text) + 1;
        entry = malloc(sizeof(*entry) + bytes);
        if (entry != NULL) {
            memcpy(entry->text, text, bytes);
            entry->next = *chain;
            *chain = entry;
        }
    }
    pthread_mutex_unlock(&name_lock);
    return entry != NULL ? entry->text : NULL;
}

/* Callers ask whether some pointer is a function at all, so that even its alignment is not sure. */
CUresult si_function_check(CUfunction function)
{
    bool aligned = (uintptr_t)function % _Alignof(struct CUfunc_st) == 0;

    return function != NULL && aligned && function->magic == SI_MAGIC_FUNC
               ? CUDA_SUCCESS
               : CUDA_ERROR_INVALID_HANDLE;
}

static CUresult module_new(CUmodule *module)
{
    if (module == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    CUmodule made = calloc(1, sizeof(*made));
    if (made == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    made->magic = SI_MAGIC_MODULE;
    pthread_mutex_init(&made->lock, NULL);
    *module = made;
    return CUDA_SUCCESS;
}

/* Its functions stay in memory: ops and graph nodes may still name them. */
static CUresult module_close(CUmodule module)
{
    if (module == NULL || module->magic != SI_MAGIC_MODULE)
        return CUDA_ERROR_INVALID_HANDLE;
    module->magic = 0;
    return CUDA_SUCCESS;
}

static CUresult module_function(CUmodule module, const char *name, CUfunction *function)
{
    if (module == NULL || module->magic != SI_MAGIC_MODULE)
        return CUDA_ERROR_INVALID_HANDLE;
    if (function == NULL || name == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    const char *interned = si_name_intern(name);
    if (*name == '\0' || interned == NULL)
        return CUDA_ERROR_NOT_FOUND;
    pthread_mutex_lock(&module->lock);
    struct CUfunc_st *f = module->functions;
    while (f != NULL && f->name != interned)
        f = f->next;
    if (f == NULL && (f = calloc(1, sizeof(*f))) != NULL) {
        f->magic = SI_MAGIC_FUNC;
        f->name = interned;
        f->module = module;
        f->attributes[CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK] = 1024;
        f->attributes[CU_FUNC_ATTRIBUTE_NUM_REGS] = 32;
        f->attributes[CU_FUNC_ATTRIBUTE_PTX_VERSION] = 90;
        f->attributes[CU_FUNC_ATTRIBUTE_BINARY_VERSION] = 90;
        f->attributes[CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES] = 49152;
        f->attributes[CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT] = -1;
        f->next = module->functions;
        module->functions = f;
    }
    pthread_mutex_unlock(&module->lock);
    *function = f;
    return f != NULL ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUfunction si_function_named(const char *name)
{
    static struct CUmod_st module = {.magic = SI_MAGIC_MODULE, .lock = PTHREAD_MUTEX_INITIALIZER};
    CUfunction function = NULL;
    return module_function(&module, name, &function) == CUDA_SUCCESS ? function : NULL;
}

CUresult drv_cuModuleLoad(CUmodule *module, const char *fname)
{
    if (fname == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    return access(fname, R_OK) == 0 ? module_new(module) : CUDA_ERROR_FILE_NOT_FOUND;
}

CUresult drv_cuModuleLoadData(CUmodule *module, const void *image)
{
    return image != NULL ? module_new(module) : CUDA_ERROR_INVALID_VALUE;
}

CUresult drv_cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned int numOptions,
                                CUjit_option *options, void **optionValues)
{
    (void)numOptions;
    (void)options;
    (void)optionValues;
    return drv_cuModuleLoadData(module, image);
}

CUresult drv_cuModuleLoadFatBinary(CUmodule *module, const void *fatCubin)
{
    return drv_cuModuleLoadData(module, fatCubin);
}

CUresult drv_cuModuleUnload(CUmodule hmod)
{
    return module_close(hmod);
}

CUresult drv_cuModuleGetLoadingMode(CUmoduleLoadingMode *mode)
{
    *mode = 2; /* lazy */
    return CUDA_SUCCESS;
}

CUresult drv_cuModuleGetFunction(CUfunction *hfunc, CUmodule hmod, const char *name)
{
    return module_function(hmod, name, hfunc);
}

CUresult drv_cuModuleGetGlobal_v2(CUdeviceptr *dptr, size_t *bytes, CUmodule hmod, const char *name)
{
    (void)dptr;
    (void)bytes;
    (void)hmod;
    (void)name;
    return CUDA_ERROR_NOT_FOUND;
}

CUresult drv_cuLibraryLoadData(CUlibrary *library, const void *code, CUjit_option *jitOptions,
                               void **jitOptionsValues, unsigned int numJitOptions,
                               CUlibraryOption *libraryOptions, void **libraryOptionValues,
                               unsigned int numLibraryOptions)
{
    (void)jitOptions;
    (void)jitOptionsValues;
    (void)numJitOptions;
    (void)libraryOptions;
    (void)libraryOptionValues;
    (void)numLibraryOptions;
    return drv_cuModuleLoadData((CUmodule *)library, code);
}

CUresult drv_cuLibraryLoadFromFile(CUlibrary *library, const char *fileName,
                                   CUjit_option *jitOptions, void **jitOptionsValues,
                                   unsigned int numJitOptions, CUlibraryOption *libraryOptions,
                                   void **libraryOptionValues, unsigned int numLibraryOptions)
{
    (void)jitOptions;
    (void)jitOptionsValues;
    (void)numJitOptions;
    (void)libraryOptions;
    (void)libraryOptionValues;
    (void)numLibraryOptions;
    return drv_cuModuleLoad((CUmodule *)library, fileName);
}

CUresult drv_cuLibraryUnload(CUlibrary library)
{
    return module_close((CUmodule)library);
}

CUresult drv_cuLibraryGetKernel(CUkernel *pKernel, CUlibrary library, const char *name)
{
    return module_function((CUmodule)library, name, (CUfunction *)pKernel);
}

CUresult drv_cuLibraryGetModule(CUmodule *pMod, CUlibrary library)
{
    *pMod = (CUmodule)library;
    return library != NULL ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

CUresult drv_cuLibraryGetGlobal(CUdeviceptr *dptr, size_t *bytes, CUlibrary library,
                                const char *name)
{
    return drv_cuModuleGetGlobal_v2(dptr, bytes, (CUmodule)library, name);
}

CUresult drv_cuLibraryGetManaged(CUdeviceptr *dptr, size_t *bytes, CUlibrary library,
                                 const char *name)
{
    return drv_cuModuleGetGlobal_v2(dptr, bytes, (CUmodule)library, name);
}

CUresult drv_cuKernelGetFunction(CUfunction *pFunc, CUkernel kernel)
{
    CUresult err = si_function_check((CUfunction)kernel);
    if (err == CUDA_SUCCESS)
        *pFunc = (CUfunction)kernel;
    return err;
}

CUresult drv_cuKernelGetLibrary(CUlibrary *pLib, CUkernel kernel)
{
    CUresult err = si_function_check((CUfunction)kernel);
    if (err == CUDA_SUCCESS)
        *pLib = (CUlibrary)((CUfunction)kernel)->module;
    return err;
}

CUresult drv_cuKernelGetName(const char **name, CUkernel hfunc)
{
    return drv_cuFuncGetName(name, (CUfunction)hfunc);
}

CUresult drv_cuKernelGetAttribute(int *pi, CUfunction_attribute attrib, CUkernel kernel,
                                  CUdevice dev)
{
    (void)dev;
    return drv_cuFuncGetAttribute(pi, attrib, (CUfunction)kernel);
}

CUresult drv_cuKernelSetAttribute(CUfunction_attribute attrib, int val, CUkernel kernel,
                                  CUdevice dev)
{
    (void)dev;
    return drv_cuFuncSetAttribute((CUfunction)kernel, attrib, val);
}

CUresult drv_cuKernelSetCacheConfig(CUkernel kernel, CUfunc_cache config, CUdevice dev)
{
    (void)config;
    (void)dev;
    return si_function_check((CUfunction)kernel);
}

CUresult drv_cuFuncGetAttribute(int *pi, CUfunction_attribute attrib, CUfunction hfunc)
{
    CUresult err = si_function_check(hfunc);
    if (err != CUDA_SUCCESS)
        return err;
    if (pi == NULL || attrib < 0 || attrib >= CU_FUNC_ATTRIBUTE_MAX)
        return CUDA_ERROR_INVALID_VALUE;
    *pi = hfunc->attributes[attrib];
    return CUDA_SUCCESS;
}

CUresult drv_cuFuncSetAttribute(CUfunction hfunc, CUfunction_attribute attrib, int value)
{
    CUresult err = si_function_check(hfunc);
    if (err != CUDA_SUCCESS)
        return err;
    if (attrib < CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES || attrib >= CU_FUNC_ATTRIBUTE_MAX)
        return CUDA_ERROR_INVALID_VALUE;
    hfunc->attributes[attrib] = value;
    return CUDA_SUCCESS;
}

CUresult drv_cuFuncSetCacheConfig(CUfunction hfunc, CUfunc_cache config)
{
    (void)config;
    return si_function_check(hfunc);
}

CUresult drv_cuFuncSetSharedMemConfig(CUfunction hfunc, CUsharedconfig config)
{
    (void)config;
    return si_function_check(hfunc);
}

CUresult drv_cuFuncGetModule(CUmodule *hmod, CUfunction hfunc)
{
    CUresult err = si_function_check(hfunc);
    if (err == CUDA_SUCCESS)
        *hmod = hfunc->module;
    return err;
}

CUresult drv_cuFuncGetName(const char **name, CUfunction hfunc)
{
    CUresult err = si_function_check(hfunc);
    if (err == CUDA_SUCCESS)
        *name = hfunc->name;
    return err;
}

CUresult drv_cuFuncIsLoaded(CUfunctionLoadingState *state, CUfunction function)
{
    CUresult err = si_function_check(function);
    if (err == CUDA_SUCCESS)
        *state = 1;
    return err;
}

CUresult drv_cuFuncLoad(CUfunction function)
{
    return si_function_check(function);
}
