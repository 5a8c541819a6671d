/* SPDX-License-Identifier: Apache-2.0 */
/* What the stand-in for libnvToolsExt.so has: a part of nvToolsExt.h, with handles as void *. */
#ifndef NVTX_LIBRARY_H
#define NVTX_LIBRARY_H

#include <wchar.h>

int nvtxRangePushA(const char *message);
int nvtxRangePushW(const wchar_t *message);
int nvtxRangePop(void);
void nvtxMarkA(const char *message);
int nvtxDomainRangePushEx(void *domain, const void *event);
int nvtxDomainRangePop(void *domain);
void *nvtxDomainCreateA(const char *name);

#endif
