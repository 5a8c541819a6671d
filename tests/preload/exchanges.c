/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A rank that makes exchanges as fast as it can and tells in separate memory how many wrappers have
 * returned, so that a test can kill it at any moment and knows what must be in the trace.
 *
 * usage: exchanges RANKS EXCHANGES [COUNTER_FILE]      EXCHANGES 0: until killed
 * Each exchange i sends (i % 7 + 1) * (peer + 1) int32 to every peer and receives as many.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "nccl_decls.h"

int main(int argc, char **argv)
{
    static volatile uint64_t nowhere[2];
    volatile uint64_t *counter = nowhere; /* [0] exchanges begun, [1] returned */
    if (argc < 3) {
        fprintf(stderr, "usage: exchanges RANKS EXCHANGES [COUNTER_FILE]\n");
        return 2;
    }
    int ranks = atoi(argv[1]);
    uint64_t exchanges = strtoull(argv[2], NULL, 10);
    if (argc > 3) {
        int fd = open(argv[3], O_RDWR);
        counter = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (counter == MAP_FAILED)
            return 3;
        close(fd);
    }
    ncclUniqueId id;
    ncclComm_t comm;
    if (ncclGetUniqueId(&id) || ncclCommInitRank(&comm, ranks, id, 0))
        return 4;
    for (uint64_t i = 0; !exchanges || i < exchanges; i++) {
        counter[0] = i + 1;
        ncclGroupStart();
        for (int p = 0; p < ranks; p++) {
            size_t count = (size_t)(i % 7 + 1) * (size_t)(p + 1);
            ncclSend(NULL, count, ncclInt32, p, comm, NULL);
            ncclRecv(NULL, count, ncclInt32, p, comm, NULL);
        }
        ncclGroupEnd();
        counter[1] = i + 1;
    }
    ncclCommDestroy(comm);
    return 0;
}
