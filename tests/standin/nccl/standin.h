/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside of the stand-in NCCL: what its files share. See README.md for the behaviour.
 *
 *   api.c    data and group calls            group.c  groups        launch.c  their launch
 *   make.c child.c end.c query.c  calls on communicators           comm.c    the objects
 *   boot.c   meeting of the ranks, allgather among them
 *   shm.c    the shared segment and rings    op.c     the body of one device operation
 *   coll.c   collectives inside an op        reduce.c arithmetic on every data type
 *   rma.c    windows, put and signal         link.c   the link model and its truth file
 *   cu.c     the CUDA driver                 log.c    options, warnings, last error
 */
#ifndef STANDIN_NCCL_H
#define STANDIN_NCCL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "nccl_decls.h"

/* ---- log.c ---------------------------------------------------------------------------------- */

struct sn_options {
    int version;         /* SKEWSCOPE_STANDIN_NCCL_VERSION, as NCCL_VERSION_CODE */
    uint64_t timeout_ns; /* SKEWSCOPE_STANDIN_TIMEOUT, seconds; UINT64_MAX: never */
    size_t ring_bytes;   /* SKEWSCOPE_STANDIN_RING; 0: by the number of ranks */
    const char *shm_dir; /* SKEWSCOPE_STANDIN_SHM_DIR */
    const char *tmp_dir; /* TMPDIR, where a segment goes that does not fit into shm_dir */
    const char *truth;   /* SKEWSCOPE_STANDIN_TRUTH: prefix of the truth files, or NULL */
    bool link;           /* SKEWSCOPE_STANDIN_LINK is set */
    bool couple;         /* ranks tell each other when they arrived: link or truth */
    double link_latency_ns;
    double link_bytes_per_ns;
    bool warn, show_version; /* from NCCL_DEBUG */
};

const struct sn_options *sn_options(void);
/** Records the last error and prints it under NCCL_DEBUG=WARN; returns `result`, for `return`. */
ncclResult_t sn_fail(ncclResult_t result, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
const char *sn_last_error(void);
void sn_show_version(void);
uint64_t sn_now_ns(void); /* CLOCK_MONOTONIC */
/* Ranks in time namespaces of their own have other clocks: what this one's is ahead of the
 * machine's. */
int64_t sn_clock_offset_ns(void);

/* ---- cu.c ----------------------------------------------------------------------------------- */

typedef struct CUevent_st *sn_event;
typedef struct CUctx_st *sn_ctx;

/* 0, or ncclUnhandledCudaError with the last error set: no driver, or not the stand-in one. */
ncclResult_t sn_cu_init(void);
/* The caller's current context and device; makes device 0's primary one current if there is none.
 */
ncclResult_t sn_cu_current(sn_ctx *ctx, int *device);
ncclResult_t sn_cu_set_device(int device);
ncclResult_t sn_cu_device_count(int *count);
sn_ctx sn_cu_push(sn_ctx ctx); /* makes ctx current, returns the one before for sn_cu_pop() */
void sn_cu_pop(sn_ctx before);
ncclResult_t sn_cu_event_create(sn_event *event);
void sn_cu_event_destroy(sn_event event);
ncclResult_t sn_cu_event_record(sn_event event, cudaStream_t stream);
ncclResult_t sn_cu_stream_wait(cudaStream_t stream, sn_event event);
/* *id: 0 when the stream is not capturing. */
ncclResult_t sn_cu_capture_id(cudaStream_t stream, uint64_t *id);
ncclResult_t sn_cu_copy(void *to, const void *from, size_t bytes, cudaStream_t stream);
ncclResult_t sn_cu_alloc(void **ptr, size_t bytes);
ncclResult_t sn_cu_free(void *ptr);
/* The same as `copies` copies of `bytes` in all, without a kernel. */
ncclResult_t sn_cu_launch_copies(cudaStream_t stream, uint32_t copies, uint64_t bytes,
                                 int (*run)(void *, uint64_t *, uint64_t *), void *user,
                                 void (*destroy)(void *));
ncclResult_t sn_cu_launch(cudaStream_t stream, const char *name,
                          int (*run)(void *, uint64_t *, uint64_t *), void *user,
                          void (*destroy)(void *));

/* ---- shm.c: the shared segment -------------------------------------------------------------- */

enum sn_ring_kind { SN_RING_P2P, SN_RING_COLL, SN_RING_RMA, SN_RING_KINDS };

struct sn_id {
    uint64_t a, b; /* names a communicator across processes */
};

struct sn_ring {
    _Atomic uint64_t head; /* bytes ever written: the sender's */
    uint64_t sent;         /* messages ever begun; with `couple` only, as the next two */
    char pad0[48];
    _Atomic uint64_t tail;       /* bytes ever read: the receiver's */
    _Atomic uint64_t answered;   /* messages whose receiver has arrived … */
    _Atomic uint64_t arrival_ns; /* … and when, for the last of them */
    char pad1[40];
    char data[];
};

enum sn_slot_state { SN_SLOT_EMPTY, SN_SLOT_JOINED, SN_SLOT_GONE, SN_SLOT_FAILED };

#define SN_BOOT_BYTES 64

/* One rank's corner of the segment; written by that rank, but for the two doorbells. */
struct sn_slot {
    _Atomic uint32_t state;
    _Atomic uint32_t pid;
    _Atomic uint32_t bell;      /* futex: counts what peers did to this rank's rings */
    _Atomic uint32_t sleeping;  /* the rank's op waits on `bell` */
    _Atomic uint32_t boot_bell; /* futex: the same for boot.c */
    _Atomic uint32_t boot_seq;  /* bootstrap rounds this rank has contributed to */
    char boot[2][SN_BOOT_BYTES];
} __attribute__((aligned(64)));

struct sn_segment_head {
    _Atomic uint64_t magic; /* stored last */
    uint32_t layout, nranks;
    uint64_t ring_stride, rings_at, ready_at, total_bytes;
    _Atomic uint32_t joined;
    struct sn_slot slot[];
};

struct sn_segment {
    int fd, rank, nranks;
    struct sn_segment_head *head;
    _Atomic uint8_t *ready; /* [kind][src][dst]: the ring has pages */
    char path[256];
};

/** Rank 0: creates and maps the segment. 0 or negative errno. */
int sn_segment_create(struct sn_segment *seg, struct sn_id id, int nranks);
/** The others: maps it if it is there. 0, -ENOENT (try again), or negative errno. */
int sn_segment_open(struct sn_segment *seg, struct sn_id id, int nranks);
/** Takes the rank's slot: -EEXIST when somebody has it. The last to join unlinks the file. */
int sn_segment_join(struct sn_segment *seg, int rank);
void sn_segment_close(struct sn_segment *seg, enum sn_slot_state state);
/** The ring, or NULL: not made yet (receiver), or no memory for it (sender, see errno). */
struct sn_ring *sn_ring_of(struct sn_segment *seg, enum sn_ring_kind kind, int src, int dst,
                           bool create);
size_t sn_ring_size(const struct sn_segment *seg);
size_t sn_ring_write(struct sn_ring *ring, size_t size, const void *from, size_t bytes);
size_t sn_ring_read(struct sn_ring *ring, size_t size, void *to, size_t bytes);
size_t sn_ring_used(struct sn_ring *ring);
bool sn_rank_alive(struct sn_segment *seg, int rank);
/* true: the time was up */
bool sn_futex_wait(_Atomic uint32_t *word, uint32_t seen, uint64_t ns);
void sn_futex_wake(_Atomic uint32_t *word);
void sn_bell_ring(struct sn_segment *seg, int rank);

/* ---- comm.c --------------------------------------------------------------------------------- */

struct sn_redop {
    bool used, by_pointer;
    ncclDataType_t type;
    uint64_t scalar;
    const void *pointer;
};

struct sn_window {
    struct sn_window *next;
    uint32_t id;
    bool symmetric; /* NCCL_WIN_COLL_SYMMETRIC */
    char *base;
    size_t bytes;
    void *registration;
};

struct sn_message;

#define SN_MAGIC 0x534b45574e43434cULL

struct ncclComm {
    /* This part outlives the communicator: the memory is used again, never freed. */
    pthread_mutex_t lock;     /* guards busy, pending and boot_turn */
    pthread_cond_t changed;   /* of these */
    pthread_mutex_t run_lock; /* one operation of a communicator runs at a time */
    uint64_t generation;      /* grows with each reuse: old operations see that they are old */
    struct ncclComm *next_free;

    /* From here on everything starts from zero with each use. */
    uint64_t magic; /* SN_MAGIC while alive */
    int rank, nranks, device, blocking;
    int64_t clock_offset_ns; /* on the wire times are the machine's */
    bool zero_ctas;          /* config.CTAPolicy has NCCL_CTA_POLICY_ZERO */
    sn_ctx ctx;
    struct sn_id id;
    struct sn_segment seg;
    _Atomic bool seg_open;

    _Atomic int async_result; /* ncclResult_t; written by whoever finds out */
    _Atomic bool abort, revoked, failed;
    bool finalize_called, destroying;

    int busy;      /* background threads that work for this communicator */
    int pending;   /* launched operations that have not ended */
    int boot_turn; /* which split may talk to the other ranks now */

    /* The rest belongs to the threads that call the API, one at a time, as NCCL demands. */
    int split_count, shrink_count, grow_count, window_count;
    struct sn_redop *redops;
    int redop_capacity;
    struct sn_window *windows;
    void *sync_memory; /* see query.c */
    ncclWindow_t sync_window;
    sn_event event; /* end of the last operation that was not captured */
    cudaStream_t last_stream;
    bool has_last;
    sn_event capture_event; /* the same within the capture capture_id */
    uint64_t capture_id;
    cudaStream_t capture_stream;

    uint64_t op_ordinal;               /* of operations that ran; under run_lock */
    uint64_t *signals, *signals_taken; /* [nranks] received, waited for; under run_lock */
    struct sn_message *arriving;       /* [nranks] puts on their way in; under run_lock */
    FILE *truth;                       /* link.c; under run_lock */
    char *origin;                      /* for the truth file: how it was made, as JSON members */
};

struct ncclComm *sn_comm_new(void);
void sn_comm_free(struct ncclComm *comm); /* pushes it on the free list: the next one reuses it */
ncclResult_t sn_comm_check(const struct ncclComm *comm, const char *call, const char *name);
/** NCCL's own rule: an aborting communicator is ready, one in progress is not. */
ncclResult_t sn_comm_ready(struct ncclComm *comm);
void sn_comm_set_async(struct ncclComm *comm, ncclResult_t result);
/** An operation failed for good: async error, and every rank that waits for this one hears of it.
 */
void sn_comm_break(struct ncclComm *comm, ncclResult_t result);
/** What all constructors end with: rank and nranks are set; meets the others. */
ncclResult_t sn_comm_finish(struct ncclComm *comm, struct sn_id id);
/** How the communicator was made, for the truth file: JSON members. */
void sn_comm_origin(struct ncclComm *comm, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void sn_comm_free_sync(struct ncclComm *comm);                                      /* query.c */
bool sn_in_symmetric_window(struct ncclComm *comm, const void *buff, size_t bytes); /* query.c */
void sn_comm_busy(struct ncclComm *comm, int delta);
void sn_comm_pending(struct ncclComm *comm, int delta);
ncclResult_t sn_config_read(struct ncclComm *comm, const ncclConfig_t *config);

/* ---- boot.c --------------------------------------------------------------------------------- */

/** Meets the other ranks of `id`: comm->rank and nranks are set. Blocks up to the timeout. */
ncclResult_t sn_boot_join(struct ncclComm *comm, struct sn_id id);
/** Every rank contributes `bytes` (at most SN_BOOT_BYTES) and gets all, in rank order. */
ncclResult_t sn_boot_allgather(struct ncclComm *comm, const void *mine, void *all, size_t bytes);
struct sn_id sn_id_of_unique(const ncclUniqueId *id);
struct sn_id sn_id_derive(struct sn_id parent, const char *how, const int *words, int count);
void sn_id_fill(ncclUniqueId *id);

/* ---- group.c -------------------------------------------------------------------------------- */

enum sn_func {
    SN_SEND,
    SN_RECV,
    SN_ALLTOALL,
    SN_ALLTOALLV,
    SN_GATHER,
    SN_SCATTER,
    SN_ALLGATHER,
    SN_REDUCESCATTER,
    SN_ALLREDUCE,
    SN_BROADCAST,
    SN_REDUCE,
    SN_PUT,
    SN_SIGNAL,
    SN_WAITSIGNAL,
};

/* What an API call asks for, and, after the plan, one piece of an operation. */
struct sn_task {
    enum sn_func func;
    const void *send;
    void *recv;
    size_t count;
    ncclDataType_t type;
    int op;                 /* ncclRedOp_t */
    int root;               /* or peer */
    struct sn_redop premul; /* used: multiply by this before summing */
    uint32_t window;        /* of a put, and where in it */
    size_t offset;
};

struct sn_vectors { /* all-to-all-v only */
    const size_t *sendcounts, *sdispls, *recvcounts, *rdispls;
};

struct sn_job {
    struct sn_job *next;
    ncclResult_t (*run)(struct sn_job *job);
    struct ncclComm *comm;  /* whose configuration decides whether the group blocks */
    struct ncclComm *child; /* the communicator that is made */
    ncclComm_t *newcomm;    /* where Split and the like store it in the end */
    struct sn_id id;
    int color, key, turn;
    int *exclude, exclude_count;
    bool ends_comm, ran;
    pthread_t thread;
    ncclResult_t result;
};

ncclResult_t sn_group_start(void);
ncclResult_t sn_group_end(ncclSimInfo_t *sim);
/** Poisons the group if `result` is an error, and ends it. */
ncclResult_t sn_group_end_with(ncclResult_t result);
ncclResult_t sn_group_error(ncclResult_t result); /* poisons an open group; returns result */
/** Runs the job now, or at the end of the open group. Takes the job. */
ncclResult_t sn_group_job(struct sn_job *job);
/** What every data call does: checks, appends to the open or an implicit group. */
ncclResult_t sn_enqueue(const char *name, struct sn_task *task, const struct sn_vectors *vectors,
                        struct ncclComm *comm, cudaStream_t stream);

/* ---- op.c, coll.c, rma.c -------------------------------------------------------------------- */

struct sn_channel { /* the sends to, or receives from, one peer, in order */
    int peer;
    bool is_send;
    int first, count; /* in op->tasks */
};

struct sn_op {
    struct ncclComm *comm;
    uint64_t generation;
    bool counted;          /* among the communicator's pending operations */
    struct sn_task *tasks; /* p2p sorted into channels, then collectives, then one-sided, each in
                              the order of the calls */
    int ntasks, ncoll, coll_first, nrma, rma_first;
    struct sn_channel *channels;
    int nchannels;
    bool copies; /* done by copy engines: it has no kernel, and starts when all ranks are there */
    char kernel[160];
};

/** Makes the operation of one communicator in a group. ncclInvalidUsage: self send without recv. */
ncclResult_t sn_op_build(struct sn_op **out, struct ncclComm *comm, const struct sn_task *tasks,
                         int ntasks, bool copies);
uint64_t sn_op_bytes(const struct sn_op *op); /* that it sends, itself included */
void sn_op_count(struct sn_op *op);           /* from now to its destruction it is pending */
int sn_op_run(void *op, uint64_t *start_ns, uint64_t *end_ns);
void sn_op_destroy(void *op);

/* Which peers to wake after a pass, and whether anything moved. */
struct sn_pass {
    struct ncclComm *comm;
    bool moved;
    uint8_t *touched; /* [nranks] */
    ncclResult_t error;
    uint64_t arrival_ns, latest_ns; /* of this rank, and the last one heard of */
    bool heard_any;
};

struct sn_coll_run;
struct sn_coll_run *sn_coll_begin(struct sn_op *op);
bool sn_coll_progress(struct sn_coll_run *run, struct sn_pass *pass); /* true: all done */
void sn_coll_waits_on(const struct sn_coll_run *run, uint8_t *peers);
void sn_coll_end(struct sn_coll_run *run);

struct sn_rma_run;
struct sn_rma_run *sn_rma_begin(struct sn_op *op);
bool sn_rma_progress(struct sn_rma_run *run, struct sn_pass *pass);
void sn_rma_waits_on(const struct sn_rma_run *run, uint8_t *peers);
void sn_rma_end(struct sn_rma_run *run);

struct sn_header { /* before every message in a ring */
    uint64_t bytes;
    uint32_t what;    /* SN_WHAT | func */
    uint32_t ordinal; /* of the collective and phase, or window of a put */
    uint64_t offset;  /* put only */
    uint64_t arrival_ns;
};
#define SN_WHAT 0x5e4d0000U

struct sn_message { /* one message on its way through a ring */
    int peer;
    bool is_send, header_done, done;
    char *buf;
    uint64_t bytes, wire_bytes, at; /* wire_bytes: what the sender announced */
    uint32_t what, ordinal;
    uint64_t offset;
    uint64_t number; /* in its ring; with `couple` only */
};

/** Moves what can be moved; sets message->done at its end. */
void sn_message_progress(struct sn_message *m, enum sn_ring_kind kind, struct sn_pass *pass);

/** A receive's header: true once it is here and good, else look at pass->error. */
bool sn_message_header(struct sn_message *m, enum sn_ring_kind kind, struct sn_pass *pass);

/* ---- link.c --------------------------------------------------------------------------------- */

uint64_t sn_link_told(const struct sn_pass *pass); /* this rank's arrival, for the others */
void sn_link_heard(struct sn_pass *pass, uint64_t arrival_ns);
/** Sets the end of the operation by the model, and writes its line of truth. */
void sn_link_finish(const struct sn_op *op, const struct sn_pass *pass, uint64_t *end_ns);

/* ---- reduce.c ------------------------------------------------------------------------------- */

/** acc[i] = acc[i] op in[i]; op is a built-in ncclRedOp_t (ncclAvg adds). */
void sn_reduce(void *acc, const void *in, size_t count, ncclDataType_t type, int op);
void sn_reduce_divide(void *acc, size_t count, ncclDataType_t type, int by);
void sn_reduce_scale(void *to, const void *from, size_t count, ncclDataType_t type,
                     const void *scalar);

#endif
