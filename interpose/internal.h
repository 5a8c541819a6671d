/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The state of libskewscope.so and the prototypes of its parts, grouped by file.
 *
 * Two memory regions hold all state: one `struct skew_process` and one `struct skew_thread` a
 * thread that calls NCCL. Both are anonymous mappings that the kernel wipes in a forked child, so
 * that a child starts clean even after a raw clone(); `gate` and `phase` read as zero there and
 * lead to the slow path. Nothing here may print, abort, or call a function that the library wraps.
 */
#ifndef SKEW_INTERPOSE_INTERNAL_H
#define SKEW_INTERPOSE_INTERNAL_H

#include <link.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#include "nccl_abi.h"
#include "options.h"
#include "spool.h"

#define skew_likely(x)   __builtin_expect(!!(x), 1)
#define skew_unlikely(x) __builtin_expect(!!(x), 0)
#define SKEW_COLD        __attribute__((noinline, cold))
/* Where both branches pass all arguments on: told more, GCC 12 moves them about for the sake of the
 * rare one. */
#if defined(__has_builtin)
#if __has_builtin(__builtin_expect_with_probability)
#define skew_mostly(x) __builtin_expect_with_probability(!!(x), 1, 0.7)
#endif
#endif
#ifndef skew_mostly
#define skew_mostly(x) (x)
#endif
/* All code that a usual exchange runs lies together, so that it can be fetched ahead as one piece
 * (hot.h). */
#define SKEW_HOT    __attribute__((hot, section("skew_hot_text")))
#define SKEW_EXPORT __attribute__((visibility("default")))
/* Small variables that every process touches, those included that never call NCCL: on a page that
 * the loader has written to in any case, where .bss would cost each of them a page fault. */
#define SKEW_EARLY __attribute__((section(".data")))
/* The code that every process runs: the linker puts it together, at the beginning, so that few
 * pages are needed. */
#define SKEW_START __attribute__((section(".text.startup")))

#define SKEW_LANES_MAX  64u   /* distinct (communicator, stream) pairs of one group */
#define SKEW_SITE_CACHE 32u   /* a thread's direct-mapped cache of call sites; a power of two */
#define SKEW_SITES_MAX  4096u /* distinct call sites of a process; beyond it exchanges carry none  \
                               */
#define SKEW_FRAMES_MAX    64
#define SKEW_COMMS_MAX     8192u  /* live communicators of a process */
#define SKEW_COMM_SLOTS    16384u /* hash table over them; a power of two, twice as many */
#define SKEW_PENDING_MAX   256u   /* constructors whose communicator is not known yet */
#define SKEW_NAMES_MAX     4096u /* different NVTX messages of a process, numbers left out of them */
#define SKEW_PATH_BYTES    4096u
#define SKEW_SCRATCH_BYTES 8192u /* any size will do: what is full is counted and emptied */

/* One communicator of this process. Written under the process lock; `exchange_seq`, `op_seq` by any
 * thread (atomic add). The end of a group needs the first line of it. */
struct skew_comm {
    ncclComm_t handle;
    uint64_t exchange_seq; /* exchanges so far, lost ones included */
    uint64_t op_seq;
    uint32_t id;           /* 1, 2, … in order of creation; never reused */
    uint32_t lost_pending; /* 1: there is something below that no LOSS record holds yet */
    uint64_t key;
    uint64_t created_ns;
    uint32_t parent;
    int32_t ranks, rank, device;
    int32_t color, split_key;
    uint32_t ordinal;
    uint16_t kind, flags;
    uint32_t announced;   /* 1: the spool holds a COMM record that says all of the above */
    uint32_t children[3]; /* Split, Shrink, Grow calls so far: the ordinals of the next ones */
    uint32_t slot;        /* which NCCL of the process it belongs to */
    uint32_t copies;      /* enum skew_comm_copies; atomic or */
    /* What was lost since the last stored group, for its LOSS record. */
    uint64_t lost_exchanges, lost_ops;
    uint32_t lost_reason;
    uint32_t lost_peers; /* entries of `lost` */
    uint64_t lost_group; /* latest lost group with sends or receives: its ordinal, and its thread */
    int32_t lost_tid;
    struct skew_loss_peer *lost; /* by peer; as many follow for earlier cells of the open group */
    struct skew_comm *next_free;
} __attribute__((aligned(64)));

static inline size_t skew_lost_bytes(uint32_t peers)
{
    return 2 * (size_t)peers * sizeof(struct skew_loss_peer);
}

/* What lets NCCL do a collective by copy engines, without a kernel: both. */
enum skew_comm_copies { SKEW_COMM_ZERO_CTAS = 1, SKEW_COMM_SYMMETRIC = 2 };

static inline bool skew_comm_may_copy(const struct skew_comm *comm)
{
    return __atomic_load_n(&comm->copies, __ATOMIC_RELAXED) ==
           (SKEW_COMM_ZERO_CTAS | SKEW_COMM_SYMMETRIC);
}

/* A lane of the open record. The counts are those of parts that were committed already, kept on the
 * first lane of each communicator. */
struct skew_lane_key {
    ncclComm_t handle;
    cudaStream_t stream;
    struct skew_comm *comm;
    uint32_t exchanges, ops, p2p, v_open;
};

struct skew_site_key {
    uintptr_t address; /* return address of the NCCL call */
    uintptr_t frame;   /* and its frame: the depth of the stack */
    uint32_t site;
};

/* What the end of a group must do besides recording it. */
enum skew_watch {
    SKEW_WATCH_TIME = 1,    /* take device times, or find out whether to */
    SKEW_WATCH_MEASURE = 2, /* measure what we cost ourselves, this once */
    SKEW_WATCH_RANGES = 4   /* NVTX ranges have changed inside the group (range.c) */
};

enum skew_gate { SKEW_GATE_NEW = 0, SKEW_GATE_OPEN = 1, SKEW_GATE_BUSY = 2 };

/* State of one thread; written by that thread alone. In order of use: each line of it may have to
 * come from far away, so a send needs the first one only, and the end of a usual group the second
 * one too. */
struct skew_thread {
    struct skew_cell *cell; /* where the next cell goes; SKEW_NO_CELL: no record is open */
    struct skew_cell
        *fast_limit; /* `limit` while the application runs, NULL while a wrapper of ours does */
    ncclComm_t last_handle; /* key of the lane used last; kept for the next group */
    cudaStream_t last_stream;
    uint32_t last_lane_bits; /* its number and last_type's, where struct skew_cell has them */
    int32_t
        last_type; /* data type of the call before; SKEW_NO_TYPE: the next one takes the slow way */
    uint32_t lane_seen; /* skew_hot.comms_changed when lane[0] was looked up; else: look again */
    uint16_t depth;     /* shadow of NCCL's own group depth */
    uint8_t gate;       /* enum skew_gate: BUSY while one of our wrappers runs on this thread */
    struct skew_cell *limit;
    struct skew_rec_group
        *rec; /* the open record, in the segment or in scratch; else where the next one begins */

    struct skew_seg_head *seg;
    struct skew_comm *comm; /* that of lane[0] */
    uint64_t groups;        /* groups stored by this thread */
    uintptr_t last_address; /* key of last_site */
    uintptr_t last_frame;
    uint32_t last_site;
    uint16_t lanes;
    uint16_t loss; /* 0, or 1 + enum skew_loss: cells go to `scratch` and will be counted as lost */
    uint32_t others;     /* cells of the open record that are no SEND or RECV */
    uint32_t part_cells; /* cells of the open group that are no longer in the open record */
    uintptr_t next;      /* where the segment's next record begins: seg + committed */

    uintptr_t end;  /* of the segment; 0: there is none */
    uint32_t watch; /* enum skew_watch; 0: the end of a group has nothing more to do */
    uint32_t
        time_open; /* launches of the open group that skew_time_before() has begun (timing.c) */
    struct skew_timer *timer;
    uint64_t unstored; /* groups that came to nothing or were lost */
    uint64_t cost_ns;  /* skew_time_before(): so far; 0: this group is not measured */
    const struct skew_rec_group *cost_rec; /* … and where its record is */
    uint64_t cost_stored;                  /* groups stored before it */
    uint64_t cost_setup;                   /* … and what had been set up then, in ns */
    struct skew_tap_group *tap; /* tap.c: what the open group holds for the tap; NULL: never any */
    uint32_t tap_calls;         /* how much that is */
    struct skew_range_state *ranges; /* range.c; NULL: NVTX was never used here */
    bool ranges_news; /* the next record is to be preceded by a RANGES record; `limit` is NULL until
                         then */
    bool early;       /* made before the first call to NCCL, for NVTX */
    bool nvtx_busy;   /* a wrapper of the older NVTX library runs: the newer one tells us nothing */
    struct skew_lane_key lane[SKEW_LANES_MAX];
    struct skew_site_key site[SKEW_SITE_CACHE];
    uint32_t seg_index;
    uint32_t stream;  /* number of this thread's spool stream; 0: none yet */
    uint64_t seg_seq; /* ordinal of the next segment */
    int32_t tid;
    uint64_t scratch[SKEW_SCRATCH_BYTES / 8]; /* holds what cannot be stored until it is counted */
};

#define SKEW_NO_CELL ((struct skew_cell *)UINTPTR_MAX)
#define SKEW_NO_TYPE INT32_MIN

static inline bool skew_record_is_open(const struct skew_thread *t)
{
    return t->cell != SKEW_NO_CELL;
}

/* Room for a 128-peer exchange; with less the segment counts as full. */
#define SKEW_LEAST_CELLS 256u

_Static_assert(offsetof(struct skew_thread, seg) == 64 && offsetof(struct skew_thread, end) == 128,
               "the lines of struct skew_thread");

enum skew_phase {
    SKEW_PHASE_NEW = 0,
    SKEW_PHASE_STARTING = 1,
    SKEW_PHASE_READY = 2,
    SKEW_PHASE_OFF = 3
};

struct skew_pending_ctor {
    ncclComm_t *where; /* NCCL stores the new communicator here, some time */
    struct skew_comm *comm;
    int32_t tid; /* the thread whose open group holds the call; 0: none */
};

struct skew_comm_entry {
    ncclComm_t handle; /* 0: never used, 1: deleted */
    struct skew_comm *comm;
};

/* State of the process. `lock` guards everything that no other comment claims. */
struct skew_process {
    uint32_t phase; /* enum skew_phase */
    uint32_t lock;
    struct skew_spool_head *head; /* NULL: there is no spool (yet) */
    uint32_t options_read;
    uint32_t bad_options; /* bit set of enum skew_option */
    int64_t option_int[SKEW_OPT_COUNT];

    /* spool.c */
    uint8_t *base; /* of the reserved address range; the head lies at its start */
    size_t reserved_bytes;
    uint64_t retry_ns; /* when to try again after a failure to create the spool */
    uint32_t spool_failures;
    bool spool_disk, spool_small; /* told once it exists */
    uint32_t grow_failed;         /* errno of the last growth that failed */
    uint32_t grow_lock;           /* its own, since definitions grow the spool too */
    struct skew_seg_head *defs;
    uint32_t defs_index;
    uint64_t defs_seq;
    uint32_t defs_loss; /* enum skew_loss + 1: why the latest definition could not be stored; 0: it
                           was */
    char spool_path[SKEW_PATH_BYTES];
    char out_dir[SKEW_PATH_BYTES];
    struct skew_loss_count unstored[SKEW_LOSS_SLOTS]; /* counted before there was a head */
    uint64_t unstored_returned;

    struct skew_tap *tap; /* tap.c; NULL: nothing has been copied yet */

    /* comm.c */
    uint32_t comm_ids, comms_used;
    struct skew_comm *free_comms;
    uint32_t init_all_ordinal;
    struct skew_pending_ctor pending[SKEW_PENDING_MAX];
    uint32_t pendings;
    struct skew_comm_entry table[SKEW_COMM_SLOTS];
    struct skew_comm comms[SKEW_COMMS_MAX];

    /* site.c */
    uint32_t sites;
    uint64_t site_hash[2 * SKEW_SITES_MAX];
    uint32_t site_id[2 * SKEW_SITES_MAX];
    unsigned long long modules_added;
    int (*unwind)(void **, int); /* unw_backtrace, or NULL */
    uint32_t unwind_state;       /* unwind.c */

    /* diag.c, graph.c */
    uint32_t told[(SKEW_DIAG_COUNT + 31) / 32]; /* diagnostics said once */
    const char
        *tell_later[SKEW_DIAG_COUNT]; /* those that came before there was a spool to say them in */
    uint32_t collector_tried;

    uint64_t early_calls[SKEW_BACKEND_CALL_SLOTS]; /* backend_call.c: before there was a head */
    uint64_t
        names_told[SKEW_NAMES_MAX / 64]; /* range.c: bit set of the names that the spool holds */

    uint32_t time_lock;
    struct skew_time *time; /* timing.c; NULL: not decided yet */
};

/* Everything of this library is reached directly, not by way of the loader's tables. */
#pragma GCC visibility push(hidden)

extern __thread struct skew_thread *skew_self __attribute__((tls_model("initial-exec")));
extern struct skew_thread
    skew_nobody; /* what skew_self points to before the first call: gate NEW */
extern struct skew_process
    *skew_proc; /* NULL before the first use; set once, by compare-and-swap */

/* CUresult cuStreamGetCaptureInfo(stream, status, id [, …]): later versions fill more, NULL means
 * no. */
typedef int (*skew_capture_info)(void *stream, int *status, uint64_t *id, void **graph,
                                 void **dependencies, void **edges, size_t *count);

#define SKEW_SLOTS 2u /* NCCL libraries of one process that are told apart */
enum skew_hot_function {
    SKEW_HOT_SEND,
    SKEW_HOT_RECV,
    SKEW_HOT_START,
    SKEW_HOT_END,
    SKEW_HOT_COUNT
};

/* What a usual exchange needs of the process, in one line. Not wiped in a forked child: what it
 * says stays true there, or only costs a look (`pendings`). */
struct skew_hot {
    int (*clock)(clockid_t, struct timespec *); /* clock_gettime(); set with the process state */
    skew_capture_info ask_driver;               /* NULL: nobody to ask (yet); set once */
    uint32_t comms_changed; /* counts pointers that came to mean another communicator, or none */
    uint32_t pendings;      /* not 0: there may be constructors that wait for the end of a group */
    uint32_t tap_types;     /* bit set of the data types that the tap looks at; 0: it is off */
    uint32_t tap_waiting;   /* not 0: copies of the tap are on their way */
    void *real[SKEW_SLOTS][SKEW_HOT_COUNT]; /* as in skew_real (bind.h); set before skew_bound */
} __attribute__((aligned(64)));
extern struct skew_hot skew_hot;

/* ---- state.c: life of the process and its threads ---- */
struct skew_process *skew_process_get(void); /* NULL: no memory, or switched off */
struct skew_thread *skew_enter_slow(struct skew_thread *thread); /* NULL: pass through */
void skew_lock(struct skew_process *proc);
void skew_unlock(struct skew_process *proc);

struct skew_thread *
skew_thread_early(void); /* for what may come before NCCL; NULL: none to be had, or switched off */

/* ---- options.c ---- */
void skew_options_keep(void);
const char *skew_start_directory(void); /* "" when there was none */
void skew_options_read(struct skew_process *proc);
bool skew_option_on(const struct skew_process *proc, enum skew_option option);
const char *skew_option_text(enum skew_option option); /* "" when unset */
int64_t skew_parse_int(const char *text);              /* −1: not a number */
void skew_options_tell(struct skew_process *proc);

/* ---- spool.c ---- */
int skew_spool_ensure(struct skew_process *proc,
                      uint64_t now); /* 0, or the enum skew_loss + 1 to count */
int skew_segment_acquire(struct skew_process *proc, uint32_t stream, uint64_t seq, uint32_t *index,
                         struct skew_seg_head **seg);
void skew_segment_seal(struct skew_process *proc, uint32_t index);
void skew_spool_tell(struct skew_process *proc);
/* Writes one definition: head, then a fixed part, then a tail (may be NULL). Takes no lock: hold
 * it. */
int skew_defs_put(struct skew_process *proc, const struct skew_rec *rec, size_t fixed_bytes,
                  const void *tail, size_t tail_bytes);
void skew_loss_add(struct skew_process *proc, uint32_t reason, const struct skew_loss_count *add);
void skew_returned_add(struct skew_process *proc);

/* ---- path.c: where the spool goes ---- */
int skew_path_out(char *out, size_t bytes); /* 0 or −errno */
int skew_path_spool_dir(struct skew_process *proc, unsigned attempt, char *dir, size_t bytes);
bool skew_path_is_network(int fd);
int skew_path_point(struct skew_process *proc,
                    const char *spool_dir); /* leaves OUT/.skewscope/spool-… */

/* ---- describe.c: who this process is ---- */
void skew_describe_identity(struct skew_spool_head *head);
void skew_describe_process(struct skew_process *proc);

/* ---- group.c ---- */
void skew_cell_slow(struct skew_thread *thread, ncclComm_t handle, cudaStream_t stream);
void skew_group_commit(struct skew_thread *thread, uint64_t call_ns, uintptr_t address,
                       uintptr_t frame, ncclResult_t result);
void skew_group_discard(struct skew_thread *thread);
void skew_put_alltoallv(struct skew_thread *thread, const size_t *sends, const size_t *recvs,
                        int datatype, ncclComm_t handle, cudaStream_t stream);
uint32_t skew_site(struct skew_thread *thread, uintptr_t address, uintptr_t frame); /* 0: none */
void skew_launch_put(struct skew_thread *thread, uint64_t call_ns, void *exec, void *stream);
int skew_put(struct skew_thread *thread,
             const struct skew_rec *rec); /* a record of no group, wherever there is room */
void skew_thread_seal(struct skew_thread *thread);

/* ---- comm.c ---- */
struct skew_comm *skew_comm_find(struct skew_process *proc, ncclComm_t handle);
struct skew_comm *skew_comm_need(struct skew_process *proc,
                                 ncclComm_t handle); /* after a call on it succeeded */
bool skew_comm_announce(struct skew_process *proc, struct skew_comm *comm);
void skew_comm_settle(void); /* before a constructor: earlier ones may have got their pointer */
void skew_comm_group_ended(const struct skew_thread *thread, bool succeeded);

/* ---- site.c ---- */
uint32_t skew_site_slow(struct skew_thread *thread, struct skew_site_key *entry, uintptr_t address,
                        uintptr_t frame);
void skew_modules_update(struct skew_process *proc);

/* ---- unwind.c ---- */
int skew_unwind(struct skew_process *proc, void **frames, int count);

/* ---- graph.c ---- */
void skew_capture_query(cudaStream_t stream, uint32_t *flags, uint64_t *id);
void skew_capture_bind(void);

/* ---- timing.c: device time; off the hot path, behind thread->watch ---- */
void skew_time_before(struct skew_thread *thread, ncclComm_t handle, cudaStream_t stream);
void skew_time_after(struct skew_thread *thread, ncclResult_t result);
void skew_time_launched(ncclComm_t handle); /* a non-blocking communicator has become ready */
void skew_time_graph_before(struct skew_thread *thread, uint64_t call_ns, void *exec);
void skew_time_graph_after(struct skew_thread *thread, bool launched);
void skew_time_hand_over(void);
void skew_time_thread_end(struct skew_thread *thread);

/* ---- bind.c: the real functions ---- */
void skew_bind(void); /* make sure slot 0 has its functions */
void skew_bind_at_load(void);
extern uint32_t skew_bound[SKEW_SLOTS];
const char *skew_bind_route(void);
const char *skew_bind_path(void);
uint32_t skew_bind_version(void);

/* ---- elf.c ---- */
void *skew_elf_lookup(const struct dl_phdr_info *info, const char *name);
void *skew_elf_first(const char *name, bool after_self);
void *skew_elf_first_of(const char *const names[], bool after_self, struct dl_phdr_info *found);
void *skew_elf_next_dlsym(void);
bool skew_elf_contains(const struct dl_phdr_info *info, const void *address);
bool skew_elf_module_of(const void *address, struct dl_phdr_info *found);
bool skew_elf_at_start(void);
struct skew_elf_look {
    bool libc_after; /* this library came at the start of the process */
    bool nccl;       /* some object may be an NCCL */
    bool weak;       /* some object may have weak references to us */
};
struct skew_elf_look skew_elf_look(const char *witness);
int skew_elf_hide(const char *const names[], unsigned count);
void skew_elf_drop_weak(void *(*unwanted)(const char *name));

/* Whether we may export something of this name. The most that may be done for any name: a sanitizer
 * looks up its own before even strcmp() works. */
static inline bool skew_name_may_be_ours(const char *name)
{
    return (name[0] == 'n' && name[1] == 'c' && name[2] == 'c' && name[3] == 'l') ||
           (name[0] == 'c' && name[1] == 'u') ||
           (name[0] == 'n' && name[1] == 'v' && name[2] == 't' && name[3] == 'x');
}

/* ---- loader.c: the way into the loader's list, and out of fork() ---- */
bool skew_loader_enter(void); /* false: not in this process */
void skew_loader_leave(void);
void skew_loader_guard(void);
int skew_loader_iterate(int (*visit)(struct dl_phdr_info *, size_t, void *), void *user);

/* ---- dlsym.c ---- */
void skew_dlsym_at_load(void);
void *skew_dlsym(void *handle, const char *name); /* the real one, from our own point of view */
void skew_dlerror_clear(void);
void *skew_dlsym_in(const char *name); /* RTLD_DEFAULT by hand: dlopen and the like */

void *skew_dlsym_by(const void *address, const char *name);
void *skew_dlsym_answer(int function, void *handle, const void *caller); /* bind.c; enum skew_api */
bool skew_dlsym_wanted(void);
#define SKEW_DLSYM_ABSENT ((void *)-1) /* the answer is that there is no such symbol */

/* ---- diag.c ---- */
void skew_diag(enum skew_diag code, const char *text); /* every time */
void skew_diag_once(enum skew_diag code,
                    const char *text);           /* once a process; `text` must be static */
void skew_diag_flush(struct skew_process *proc); /* hold the lock */
void skew_stderr_line(const char *what, int err,
                      const char *advice); /* once, and by one rank of a node */
const char *skew_error_text(int err);

/* ---- tap.c: copies of count exchanges ---- */
#define SKEW_TAP_BYTES    (1u << 1)                   /* ncclUint8 */
#define SKEW_TAP_INTEGERS (1u << 2 | 1u << 4)         /* ncclInt32, ncclInt64 */
#define SKEW_TAP_FLOAT    (1u << 7)                   /* ncclFloat32 */
void skew_tap_start(const struct skew_process *proc); /* reads the options */
void skew_tap_call(struct skew_thread *thread, ncclResult_t result, uint32_t op, const void *send,
                   const void *recv, uint64_t count, int datatype, uint32_t arg, ncclComm_t handle,
                   cudaStream_t stream);
/* After its record was committed. */
void skew_tap_group_ended(struct skew_thread *thread, bool launched, bool in_progress);
void skew_tap_harvest(void);
void skew_tap_thread_end(struct skew_thread *thread);

/* ---- range.c: in which NVTX ranges this thread is ---- */
struct skew_message {
    uint32_t name; /* as in struct skew_range */
    uint16_t numbers;
    int64_t number[SKEW_RANGE_NUMBERS];
};
void skew_message_read(struct skew_message *message, const char *text, bool numbers_apart);
int skew_range_push(struct skew_thread *thread, uintptr_t domain,
                    const struct skew_message *message);
int skew_range_pop(struct skew_thread *thread, uintptr_t domain);
void skew_range_mark(struct skew_thread *thread, uintptr_t domain,
                     const struct skew_message *message);
size_t skew_ranges_bytes(const struct skew_thread *thread);
uint8_t *skew_ranges_put(struct skew_process *proc, struct skew_thread *thread, uint8_t *at);
void skew_ranges_settle(struct skew_thread *thread);
void skew_ranges_thread_end(struct skew_thread *thread);

/* ---- launch.c ---- */
void skew_collector_start(struct skew_process *proc);

/* ---- sys.c: what libc would do with symbols newer than GLIBC_2.28, or not safely here ---- */
int32_t skew_sys_tid(void);
int skew_sys_open(const char *path, int flags,
                  unsigned mode); /* close-on-exec, never 0 to 2; or −errno */
void skew_sys_close(int fd);
ssize_t skew_sys_write(int fd, const void *data, size_t bytes);
int skew_sys_allocate(int fd, uint64_t from, uint64_t bytes); /* 0 or −errno */
int skew_sys_mkdir(const char *path);                         /* mode 0700; 0 or −errno */
int skew_sys_read_file(const char *path, char *buffer,
                       size_t bytes);      /* length, terminated; or −errno */
uint64_t skew_sys_inode(const char *path); /* 0: unknown */
size_t skew_text_add(char *buffer, size_t bytes, size_t at, const char *text);
size_t skew_text_add_number(char *buffer, size_t bytes, size_t at, uint64_t value, unsigned base,
                            unsigned digits);

#pragma GCC visibility pop

static inline uint64_t skew_now(void)
{
    struct timespec ts;
    skew_hot.clock(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static inline uint64_t skew_now_real(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

#endif
