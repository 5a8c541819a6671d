-- SPDX-License-Identifier: Apache-2.0
--
-- The trace: one SQLite database a node. This file is the schema; docs/schema.md explains it table by
-- table. PRAGMA user_version is the schema version; within one version changes only add tables,
-- columns and views.
--
-- Units are in the names: *_ns are CLOCK_MONOTONIC nanoseconds of this node unless the name says
-- real_ns (CLOCK_REALTIME); *_bytes are bytes. Ranks are ranks of the communicator unless the name says
-- world_rank. Every id is this database's own; `key` columns are what `skewscope merge` joins on.

PRAGMA user_version = 1;
PRAGMA application_id = 1397442387; -- 'SKWS'

-- ---------------------------------------------------------------- where the trace comes from

-- Facts about the database itself: node (boot id), host, created_real_ns, published_real_ns, version (of
-- the skewscope that made it), min_reader_version, trace_id (random: says which files are stages of one
-- trace), collector (a pid, only in the collector's own working copy), origin (only when the trace was not
-- captured: synth, or import FORMAT).
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

-- One `skewscope run`, or the jobs found with only LD_PRELOAD set (key '').
CREATE TABLE run (
    run_id          INTEGER PRIMARY KEY,
    key             TEXT NOT NULL UNIQUE, -- SKEWSCOPE_RUN_ID
    command         TEXT,                 -- JSON array of the arguments
    cwd             TEXT,
    version         TEXT,                 -- of skewscope
    incarnation     INTEGER,              -- 0, 1, …: elastic restarts and requeues of one job
    started_real_ns INTEGER,
    ended_real_ns   INTEGER,              -- NULL: still runs, or `run` itself was killed
    exit_status     INTEGER,              -- NULL when ended by a signal
    exit_signal     INTEGER
);

-- --label KEY=VALUE of `run`; comparisons and grids group by them.
CREATE TABLE run_label (
    run_id INTEGER NOT NULL REFERENCES run,
    key    TEXT NOT NULL,
    value  TEXT NOT NULL,
    PRIMARY KEY (run_id, key)
) WITHOUT ROWID;

-- The environment that `run` gave its command, without what looks like a secret.
CREATE TABLE run_env (
    run_id INTEGER NOT NULL REFERENCES run,
    name   TEXT NOT NULL,
    value  TEXT NOT NULL,
    PRIMARY KEY (run_id, name)
) WITHOUT ROWID;

-- Libraries and packages that the run could use, whether or not it did (NCCL, DeepEP, NVSHMEM, …).
CREATE TABLE run_package (
    run_id  INTEGER NOT NULL REFERENCES run,
    name    TEXT NOT NULL,
    version TEXT,
    path    TEXT NOT NULL,
    PRIMARY KEY (run_id, name, path)
) WITHOUT ROWID;

-- GPUs of the machine that `skewscope run` ran on, as NVIDIA's driver tells them in /proc, whether or not the run used them.
CREATE TABLE run_gpu (
    run_id INTEGER NOT NULL REFERENCES run,
    bus    TEXT NOT NULL, -- PCI address
    model  TEXT NOT NULL, -- as in "NVIDIA H200"
    driver TEXT,          -- version of the kernel module
    PRIMARY KEY (run_id, bus)
) WITHOUT ROWID;

-- A process that made, or tried to make, a communicator.
CREATE TABLE process (
    process_id      INTEGER PRIMARY KEY,
    run_id          INTEGER REFERENCES run,
    key             TEXT NOT NULL UNIQUE, -- boot id, pid namespace, pid, start time, creation of its spool
    pid             INTEGER NOT NULL,     -- in its own pid namespace
    host            TEXT,
    exe             TEXT,
    cmdline         TEXT,                 -- JSON array
    cwd             TEXT,
    world_rank      INTEGER,              -- from RANK, SLURM_PROCID, OMPI_COMM_WORLD_RANK, PMI_RANK
    local_rank      INTEGER,
    world_size      INTEGER,
    nccl_version    INTEGER,              -- as ncclGetVersion says: 22809 is 2.28.9
    nccl_path       TEXT,
    nccl_route      TEXT,                 -- how calls reach us: next, handle, named (docs/interception.md)
    version         TEXT,                 -- of libskewscope.so
    started_ns      INTEGER NOT NULL,     -- first communicator
    started_real_ns INTEGER NOT NULL,     -- the same moment on CLOCK_REALTIME
    ended_ns        INTEGER,              -- NULL unless it said so itself
    ended           TEXT NOT NULL DEFAULT 'running', -- running when last looked; exited: its exit handlers ran;
                                          -- killed: gone without them (a signal, _exit, or exec of
                                          -- something else); unknown: nobody could tell
    returned_groups INTEGER NOT NULL DEFAULT 0,      -- the M of "captured N of M", counted in the target
    stored_groups   INTEGER NOT NULL DEFAULT 0       -- the N, counted by the collector
);

-- Variables of launchers, NCCL, CUDA and frameworks; the list stands in interpose/describe.c.
CREATE TABLE process_env (
    process_id INTEGER NOT NULL REFERENCES process,
    name       TEXT NOT NULL,
    value      TEXT NOT NULL,
    PRIMARY KEY (process_id, name)
) WITHOUT ROWID;

-- A thread that called NCCL.
CREATE TABLE thread (
    process_id INTEGER NOT NULL REFERENCES process,
    stream     INTEGER NOT NULL, -- the spool stream it wrote: names the thread within the process
    tid        INTEGER NOT NULL, -- as the process itself sees it; reused by the system
    name       TEXT,
    PRIMARY KEY (process_id, stream)
) WITHOUT ROWID;

-- Objects loaded into a process, for symbols and for what could have moved bytes unseen.
CREATE TABLE module (
    module_id  INTEGER PRIMARY KEY,
    process_id INTEGER NOT NULL REFERENCES process,
    path       TEXT NOT NULL,    -- as the process sees it
    build_id   TEXT,             -- GNU build id in hex
    base       INTEGER NOT NULL, -- address in memory minus address in the file's symbol table
    start      INTEGER NOT NULL, -- first address in memory …
    end        INTEGER NOT NULL, -- … and the first behind it
    role       TEXT -- nccl, device_backend, … by schema/backends.json; NULL: nothing of interest
);

-- Monotonic against real time, a row a spool segment.
CREATE TABLE clock_anchor (
    process_id   INTEGER NOT NULL REFERENCES process,
    monotonic_ns INTEGER NOT NULL,
    real_ns      INTEGER NOT NULL
);

-- ---------------------------------------------------------------- communicators

-- What members of one ncclComm share. Several processes of this node meet here.
CREATE TABLE communicator (
    comm_id   INTEGER PRIMARY KEY,
    key       TEXT NOT NULL UNIQUE, -- 16 hex digits, equal on every rank and node; '?…' when unidentified
    kind      TEXT NOT NULL,        -- init_rank, init_all, init_rank_scalable, split, shrink, grow, unknown
    ranks     INTEGER,              -- NULL: never learned
    parent_id INTEGER REFERENCES communicator,
    color     INTEGER               -- of Split
);

-- One rank of a communicator, as seen by the process that holds it. Members on other nodes are in
-- those nodes' databases.
CREATE TABLE member (
    member_id  INTEGER PRIMARY KEY,
    comm_id    INTEGER NOT NULL REFERENCES communicator,
    rank       INTEGER,           -- NULL: never learned
    process_id INTEGER NOT NULL REFERENCES process,
    local_comm INTEGER NOT NULL,  -- ordinal of the communicator within its process
    device     INTEGER,           -- CUDA ordinal
    handle     INTEGER NOT NULL,  -- the ncclComm_t; NCCL reuses these
    nonblocking INTEGER NOT NULL DEFAULT 0, -- 1: its calls return before they are done
    created_ns INTEGER NOT NULL,
    ended_ns   INTEGER,
    ended      TEXT,              -- the last of finalize, destroy, abort, revoke that succeeded
    UNIQUE (process_id, local_comm)
);

-- ---------------------------------------------------------------- exchanges

-- Per-peer sizes, each distinct vector once. Sizes are in units (exchange.send_unit, recv_unit: the
-- greatest common divisor of the bytes), so that dispatch, combine and the probabilities' all-to-all
-- share one. `sizes` holds big-endian unsigned integers of size_width bytes; size_stride is size_width,
-- or 0 when all sizes are equal and stored once. `peers` likewise; NULL when the peers are 0, 1, 2, ….
-- Cells keep the order of the calls, so several sends to one peer stay apart, and zero sizes count.
CREATE TABLE vector (
    vector_id   INTEGER PRIMARY KEY,
    cells       INTEGER NOT NULL,
    total       INTEGER NOT NULL, -- units
    largest     INTEGER NOT NULL, -- units
    size_width  INTEGER NOT NULL, -- bytes, 1 to 8
    size_stride INTEGER NOT NULL, -- bytes from one size to the next: size_width, or 0
    peer_width  INTEGER NOT NULL, -- 0 when peers is NULL
    peer_stride INTEGER NOT NULL,
    sizes       BLOB NOT NULL,
    peers       BLOB              -- NULL: 0, 1, 2, …
);

-- One exchange of one rank: all sends and receives on one communicator in one outermost NCCL group,
-- or one ncclAlltoAll. In exactly the order of the calls on the communicator: seq.
CREATE TABLE exchange (
    exchange_id INTEGER PRIMARY KEY,
    member_id   INTEGER NOT NULL REFERENCES member,
    seq         INTEGER NOT NULL, -- 0, 1, …: ordinal on this communicator in this process; gaps are losses
    op          INTEGER NOT NULL REFERENCES op_name, -- 0 sends and receives, 2 alltoall, 3 alltoallv
    start_ns    INTEGER NOT NULL, -- host time: the call that launched it was entered
    enqueue_ns  INTEGER NOT NULL, -- … and took this long. Not the time on the device.
    dtype       INTEGER NOT NULL, -- ncclDataType_t of the first cell; −1 unknown, −2 mixed
    send_vector INTEGER REFERENCES vector, -- NULL: nothing was sent, not even zero bytes
    recv_vector INTEGER REFERENCES vector, -- likewise
    send_unit   INTEGER NOT NULL, -- bytes in one unit of the vector; 1 when there is none
    recv_unit   INTEGER NOT NULL,
    stream_id   INTEGER REFERENCES stream, -- where the kernel goes: the last stream added
    site_id     INTEGER REFERENCES callsite,
    thread      INTEGER NOT NULL, -- thread.stream
    group_seq   INTEGER NOT NULL, -- equal for all that one outermost group launched, with `thread`
    flags       INTEGER NOT NULL, -- 1 captured into a CUDA graph, 2 not known whether captured,
                                  -- 4 unknown data type (bytes understated), 8 non-blocking, 16 several streams,
                                  -- 32 an all-to-all whose number of ranks was never learned: its vector has one cell,
                                  -- 64 in a launch with collectives that NCCL may do by copy engines, without a kernel
    capture_id  INTEGER           -- graph_capture, when captured
);

-- Everything else that NCCL was asked to do on a communicator.
CREATE TABLE operation (
    operation_id INTEGER PRIMARY KEY,
    member_id    INTEGER NOT NULL REFERENCES member,
    seq          INTEGER NOT NULL, -- ordinal among the operations of this member
    op           INTEGER NOT NULL REFERENCES op_name,
    start_ns     INTEGER NOT NULL, -- as in exchange
    enqueue_ns   INTEGER NOT NULL,
    dtype        INTEGER NOT NULL, -- ncclDataType_t; −1 unknown
    count        INTEGER NOT NULL, -- elements, as given to NCCL
    bytes        INTEGER NOT NULL, -- count × element size: what `count` means is the operation's own
    root         INTEGER,          -- root, or peer of a put or signal
    stream_id    INTEGER REFERENCES stream,
    site_id      INTEGER REFERENCES callsite,
    thread       INTEGER NOT NULL,
    group_seq    INTEGER NOT NULL,
    flags        INTEGER NOT NULL, -- as in exchange
    capture_id   INTEGER
);

-- Names of the numbers in exchange.op and operation.op.
CREATE TABLE op_name (op INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);

-- A CUDA stream handle of a process.
CREATE TABLE stream (
    stream_id  INTEGER PRIMARY KEY,
    process_id INTEGER NOT NULL REFERENCES process,
    handle     INTEGER NOT NULL, -- cudaStream_t; 0 is the default stream
    UNIQUE (process_id, handle)
);

-- What an exchange is for (docs/labels.md). Filled by analyses, never by the capture; `source` says by which
-- and how. NULL everywhere: could not be told.
CREATE TABLE exchange_label (
    exchange_id INTEGER PRIMARY KEY REFERENCES exchange,
    role        TEXT,    -- dispatch, combine, their gradients' combine_bwd and dispatch_bwd, probs, probs_bwd, by activation
                         -- recomputation dispatch_recompute, combine_recompute, probs_recompute, count, pipeline,
                         -- sequence, other
    step        INTEGER, -- ordinals from 0
    layer       INTEGER, -- of the MoE layers of this rank, not of the model
    microbatch  INTEGER, -- within the step
    stage       TEXT,    -- prefill, decode, train
    token_bytes INTEGER, -- bytes of one token in this exchange
    pair_id     INTEGER, -- the exchange that brings these tokens back, or took them away
    confidence  REAL NOT NULL, -- 0 … 1; of the least certain part
    source      TEXT NOT NULL,
    pass        INTEGER, -- ordinal of the forward pass over the layers that these tokens went through
    flags       INTEGER NOT NULL DEFAULT 0 -- 1 capacity-padded: sizes say nothing of the routing; 2 one of several
                                           -- that are the dispatch together; 4 captured: stands for several steps;
                                           -- 8 step, layer or stage as an NVTX range or the user says
);

-- The same for operations, where dispatchers use them: counts by all-gather, tokens by groups of broadcasts.
CREATE TABLE operation_label (
    operation_id INTEGER PRIMARY KEY REFERENCES operation,
    role        TEXT,
    step        INTEGER,
    layer       INTEGER,
    microbatch  INTEGER,
    stage       TEXT,
    token_bytes INTEGER,
    pair_id     INTEGER, -- the first operation of the group that brings these tokens back, or took them away
    confidence  REAL NOT NULL,
    source      TEXT NOT NULL,
    pass        INTEGER,
    flags       INTEGER NOT NULL DEFAULT 0
);

-- ---------------------------------------------------------------- call sites

-- A place in a program from which NCCL was called, told apart by return address and stack depth.
CREATE TABLE callsite (
    site_id    INTEGER PRIMARY KEY,
    process_id INTEGER NOT NULL REFERENCES process,
    local_site INTEGER NOT NULL, -- number within the process
    UNIQUE (process_id, local_site)
);

-- Frames, innermost first (depth 0 is the caller of NCCL). Symbols are filled in after the run.
CREATE TABLE frame (
    site_id   INTEGER NOT NULL REFERENCES callsite,
    depth     INTEGER NOT NULL,
    address   INTEGER NOT NULL, -- return address in memory; minus module.base it is one in the file
    module_id INTEGER REFERENCES module,
    symbol    TEXT,             -- as in the file (C++ names are mangled); NULL: the file was not there, was another
                                -- build, or has no symbol here
    offset    INTEGER,          -- from the symbol's start
    file      TEXT,             -- source, where there is debug information
    line      INTEGER,
    PRIMARY KEY (site_id, depth)
) WITHOUT ROWID;

-- ---------------------------------------------------------------- NVTX ranges

-- Texts of the NVTX messages of a process, their first three whole numbers taken out (char(1) stands where each was),
-- and names of domains.
CREATE TABLE nvtx_name (
    process_id INTEGER NOT NULL REFERENCES process,
    local_name INTEGER NOT NULL,
    text       TEXT NOT NULL, -- of the application; cut after 126 bytes
    PRIMARY KEY (process_id, local_name)
) WITHOUT ROWID;

-- Ranges that a thread had open when it called NCCL, and marks that it set before a call. Ranges without a call in
-- them are not here, nor are those that nvtxRangeStart() begins: they belong to no thread.
CREATE TABLE nvtx_range (
    range_id   INTEGER PRIMARY KEY,
    process_id INTEGER NOT NULL REFERENCES process,
    thread     INTEGER NOT NULL, -- thread.stream
    serial     INTEGER NOT NULL, -- ordinal among all ranges and marks of the thread, gaps are those not here
    kind       TEXT NOT NULL,    -- range, mark
    depth      INTEGER NOT NULL, -- ranges that it lies in
    parent_id  INTEGER REFERENCES nvtx_range, -- the innermost of those
    domain     TEXT,             -- NULL: the default domain, or not known
    text       TEXT,             -- the message; NULL: none, or no room for it
    from_group INTEGER NOT NULL, -- exchange.group_seq from which on it holds, or before which a mark came
    UNIQUE (process_id, thread, serial)
);

-- In which range a thread is: from one group on, until the next row of this thread. Before the first row: in none.
CREATE TABLE nvtx_change (
    process_id INTEGER NOT NULL REFERENCES process,
    thread     INTEGER NOT NULL,
    from_group INTEGER NOT NULL, -- exchange.group_seq, operation.group_seq
    range_id   INTEGER REFERENCES nvtx_range, -- the innermost; NULL: none
    deeper     INTEGER NOT NULL, -- ranges further in that found no room (more than 16 deep)
    marks_lost INTEGER NOT NULL, -- marks before this group, likewise (more than 4)
    PRIMARY KEY (process_id, thread, from_group)
) WITHOUT ROWID;

-- ---------------------------------------------------------------- CUDA graphs

-- One stream capture in which NCCL was called, or whose graph's life was seen.
CREATE TABLE graph_capture (
    capture_id INTEGER PRIMARY KEY,
    process_id INTEGER NOT NULL REFERENCES process,
    driver_id  INTEGER NOT NULL, -- the driver's capture id
    UNIQUE (process_id, driver_id)
);

-- What happened to graphs, in order of time; handles are reused by the driver.
CREATE TABLE graph_event (
    process_id INTEGER NOT NULL REFERENCES process,
    ns         INTEGER NOT NULL,
    event      TEXT NOT NULL, -- captured, instantiated, updated, cloned, child, graph_destroyed, exec_destroyed,
                              -- launch_captured (what the executable holds became part of the capture)
    driver_id  INTEGER,       -- of captured and launch_captured
    graph      INTEGER,       -- CUgraph handle
    source     INTEGER,       -- CUgraph that was cloned, or added as a child
    exec       INTEGER        -- CUgraphExec handle
);

-- One launch of an executable graph.
CREATE TABLE graph_launch (
    launch_id  INTEGER PRIMARY KEY,
    process_id INTEGER NOT NULL REFERENCES process,
    ns         INTEGER NOT NULL,
    exec       INTEGER NOT NULL, -- CUgraphExec handle
    stream_id  INTEGER REFERENCES stream
);

-- How often what was captured has run: the launches of every executable graph that held it then (cloned
-- graphs, child graphs and updates followed). Kept up to date while a process runs.
CREATE TABLE capture_launches (
    capture_id INTEGER PRIMARY KEY REFERENCES graph_capture,
    launches   INTEGER NOT NULL
);

-- ---------------------------------------------------------------- time on the device

-- Where a time comes from: 1 events (a pair of CUDA events around the launch), 2 cupti (the kernel's own activity
-- record), 3 synth (a synthetic trace's truth). What has no row in device_time was seen by the host only.
CREATE TABLE time_source (source INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
INSERT INTO time_source VALUES (1, 'events'), (2, 'cupti'), (3, 'synth');

-- When the exchanges and operations of one communicator in one NCCL group occupied the device: NCCL launches
-- them together. What was captured into a CUDA graph has one row a launch, or several where the graph holds the
-- capture several times.
CREATE TABLE device_time (
    member_id INTEGER NOT NULL REFERENCES member,
    thread    INTEGER NOT NULL, -- with group_seq: the group, as in exchange and operation
    group_seq INTEGER NOT NULL,
    launch_id INTEGER NOT NULL, -- graph_launch; 0: was not captured
    place     INTEGER NOT NULL DEFAULT 0, -- which time in this launch, from 0
    source    INTEGER NOT NULL REFERENCES time_source,
    start_ns  INTEGER NOT NULL, -- this node's CLOCK_MONOTONIC, brought there from the device's clock
    end_ns    INTEGER NOT NULL,
    error_ns  INTEGER NOT NULL, -- both lie within ± this of the truth on that clock, but for:
    start_slack_ns INTEGER NOT NULL DEFAULT 0, -- events: the start may be up to this earlier, the host was still launching
    end_slack_ns   INTEGER NOT NULL DEFAULT 0, -- events: the end may be up to this earlier: over before it could be marked
    PRIMARY KEY (member_id, thread, group_seq, launch_id, place)
) WITHOUT ROWID;

-- How times were taken from `ns` on, and why (schema/spool.h names both): tier host, events or cupti.
CREATE TABLE timing (
    process_id INTEGER NOT NULL REFERENCES process,
    ns         INTEGER NOT NULL,
    tier       TEXT NOT NULL,
    why        TEXT NOT NULL -- asked, auto, max_connections, no_driver, no_cupti, foreign_cupti, handed_over, given_back
);

-- Launches (one communicator's part of one NCCL group, or of its replay) without a row in device_time, by reason.
-- Where the tier is host they are not counted here: see time_coverage. What is `captured` counts once, when it was
-- captured; how often it ran then, and how much of that has times, is in time_coverage.
CREATE TABLE untimed (
    process_id INTEGER NOT NULL REFERENCES process,
    reason     TEXT NOT NULL, -- sampled_out, captured, nonblocking, …: docs/time-tiers.md
    launches   INTEGER NOT NULL,
    PRIMARY KEY (process_id, reason)
) WITHOUT ROWID;

-- Anchors of device clocks: when a clock showed device_ns (since its first row here), CLOCK_MONOTONIC of this node
-- was between low_ns and high_ns. device_time rests on them.
CREATE TABLE device_clock (
    process_id INTEGER NOT NULL REFERENCES process,
    clock      INTEGER NOT NULL, -- 1, 2, … within the process: one a CUDA context, or CUPTI's
    source     INTEGER NOT NULL REFERENCES time_source,
    device_ns  INTEGER NOT NULL,
    low_ns     INTEGER NOT NULL,
    high_ns    INTEGER NOT NULL
);

-- What recording has cost a process, as the library measured it while it ran.
CREATE TABLE overhead (
    process_id      INTEGER PRIMARY KEY REFERENCES process,
    measured_groups INTEGER NOT NULL, -- ends of groups that were measured: now and then one …
    measured_ns     INTEGER NOT NULL, -- … and what we took of the host's time there, in all. NCCL's own work is not in it
    setup_ns        INTEGER NOT NULL, -- once: making CUDA events, opening CUPTI
    events          INTEGER NOT NULL, -- CUDA events recorded on streams of the application
    event_ns        INTEGER,          -- device time of one, at most; NULL: not known
    cupti_records   INTEGER NOT NULL, -- activity records read
    cupti_dropped   INTEGER NOT NULL  -- activity records that found no room in the bounded buffers
);

-- Device work that belongs to no recorded NCCL group, from CUPTI: expert computation, and what could hide an
-- exchange. Kernels of one stream that follow each other closely are one row (docs/time-tiers.md says how closely).
CREATE TABLE kernel (
    process_id INTEGER NOT NULL REFERENCES process,
    device     INTEGER NOT NULL, -- CUDA ordinal
    stream     INTEGER NOT NULL, -- CUPTI's number of the stream
    start_ns   INTEGER NOT NULL, -- as in device_time
    end_ns     INTEGER NOT NULL,
    busy_ns    INTEGER NOT NULL, -- of start … end, the time that the kernels ran
    kernels    INTEGER NOT NULL,
    name_id    INTEGER           -- kernel_name, of the first; NULL: a copy, or there was no room for the name
);

-- Names of kernels as the CUDA driver has them (C++ names are mangled), and what schema/kernels.json says of them.
CREATE TABLE kernel_name (
    process_id INTEGER NOT NULL REFERENCES process,
    name_id    INTEGER NOT NULL,
    name       TEXT NOT NULL,
    does       TEXT, -- dispatch, combine, fused, count, barrier, permute, transfer, experts, collective, unknown (sounds like
                     -- communication, but nobody has said what it is), other; NULL: was not asked
    backend    TEXT, -- DeepEP V1, …; NULL: none, or any
    PRIMARY KEY (process_id, name_id)
) WITHOUT ROWID;

-- Calls of libraries that move tokens from inside kernels, where they are called by way of the loader: NCCL EP's
-- (ncclEpDispatch, …). That a call was made is known; which bytes it moved, and when the device did it, is not: see
-- backend_time for the kernels.
CREATE TABLE backend_call (
    process_id INTEGER NOT NULL REFERENCES process,
    start_ns   INTEGER NOT NULL, -- CLOCK_MONOTONIC of the host when the call was made
    backend    TEXT NOT NULL,    -- as in kernel_name
    does       TEXT NOT NULL,    -- dispatch, combine, complete, routing (which tokens go where), setup, end
    function   TEXT NOT NULL,
    object     INTEGER NOT NULL, -- its first argument as it came: a handle, or where the call stores one
    tid        INTEGER NOT NULL, -- the thread, as the operating system numbers it
    site_id    INTEGER REFERENCES callsite
);

-- How many such calls there were, counted in the target whether or not they found room: exact also after a kill.
CREATE TABLE backend_call_count (
    process_id INTEGER NOT NULL REFERENCES process,
    function   TEXT NOT NULL,
    backend    TEXT NOT NULL,
    does       TEXT NOT NULL,
    calls      INTEGER NOT NULL,
    PRIMARY KEY (process_id, function)
) WITHOUT ROWID;

-- How clocks of processes relate: time on the reference's axis = ns + offset_ns + drift_ppb × (ns − at_ns) / 1e9.
-- Fitted from matched exchanges by analyses; processes of one node share a clock and have offset 0.
CREATE TABLE clock_fit (
    process_id  INTEGER PRIMARY KEY REFERENCES process,
    reference   TEXT NOT NULL,    -- process.key whose clock is the axis
    at_ns       INTEGER NOT NULL,
    offset_ns   INTEGER NOT NULL,
    drift_ppb   INTEGER NOT NULL,
    residual_ns INTEGER NOT NULL, -- the error is within ± this, asymmetric paths included as far as they can be seen
    matches     INTEGER NOT NULL  -- exchanges that it rests on
);

-- ---------------------------------------------------------------- routing

-- How many tokens went to each expert: one row for one source of tokens in one call of one MoE layer. From the
-- tap, from sizes that name experts (FastMoE), from files that others wrote (`skewscope import`), or synthetic.
CREATE TABLE routing (
    routing_id  INTEGER PRIMARY KEY,
    exchange_id INTEGER REFERENCES exchange,     -- the dispatch that it explains; NULL: none is here
    comm_id     INTEGER REFERENCES communicator, -- of the ranks; NULL: no ranks are known
    source_rank INTEGER, -- whose tokens they are; NULL: those of all ranks together
    step        INTEGER, -- ordinals from 0; NULL: not known, or all together
    layer       INTEGER, -- of the MoE layers
    microbatch  INTEGER,
    stage       TEXT,    -- prefill, decode, train; NULL: not known
    request     INTEGER, -- of whose tokens alone it tells; NULL: of all
    experts     INTEGER NOT NULL, -- = cells of the vector; logical experts unless `source` says physical
    topk        INTEGER, -- experts a token; NULL: not known
    tokens      INTEGER, -- tokens that were routed; NULL: not known
    counts      INTEGER NOT NULL REFERENCES vector, -- cell e: tokens of expert e; unit 1
    unit        INTEGER NOT NULL DEFAULT 1, -- the vector's sizes times this are tokens
    verified    INTEGER NOT NULL, -- 1: reproduces every peer's payload with one constant unit; 0: nothing to compare
    source      TEXT NOT NULL, -- tap allgather, tap sendrecv, …, sizes, import FORMAT, synth
    ordinal     INTEGER -- tells calls of a source apart where step and exchange_id do not: their order; else NULL
);

-- Small integer buffers that looked like count exchanges, as the target copied them (docs/tap.md). Candidates:
-- what they are is decided by whether they explain the payload that follows (table routing).
CREATE TABLE tap (
    tap_id    INTEGER PRIMARY KEY,
    member_id INTEGER NOT NULL REFERENCES member,
    thread    INTEGER NOT NULL, -- with group_seq: the group of the call, as in exchange and operation
    group_seq INTEGER NOT NULL,
    place     INTEGER NOT NULL, -- which of this member's operations of the group, from 0; alltoall: which all-to-all
    shape     TEXT NOT NULL,    -- allgather, sendrecv, alltoall, map, broadcast, sum, max (enum skew_tap_shape)
    side      TEXT NOT NULL,    -- own [count]; whole, sent, heard [ranks][count]; result [count]
    dtype     INTEGER NOT NULL, -- ncclDataType_t of the buffer
    count     INTEGER NOT NULL, -- elements of one rank or peer
    elements  INTEGER NOT NULL,
    width     INTEGER NOT NULL, -- bytes an element below: 1, 2, 4 or 8
    data      BLOB NOT NULL     -- elements × width, little-endian unsigned integers
);

-- What became of such buffers, by outcome: queued, stored, implausible, captured, … (enum skew_tap_count_what).
-- Queued but neither stored nor implausible: still on their way when the process ended.
CREATE TABLE tap_count (
    process_id INTEGER NOT NULL REFERENCES process,
    outcome    TEXT NOT NULL,
    buffers    INTEGER NOT NULL,
    bytes      INTEGER NOT NULL,
    PRIMARY KEY (process_id, outcome)
) WITHOUT ROWID;

-- Which experts single tokens went to, where an import was asked to keep that: it tells how many copies of a token
-- go to one rank. The tokens of the row in order, `topk` ids each; ids are big-endian integers of `width` bytes.
CREATE TABLE routing_ids (
    routing_id INTEGER PRIMARY KEY REFERENCES routing,
    width      INTEGER NOT NULL, -- 1 or 2
    ids        BLOB NOT NULL     -- tokens × topk × width bytes
);

-- Which rank holds which expert, where that is known otherwise than contiguous (expert e on rank e / (E/R)).
CREATE TABLE placement (
    comm_id INTEGER NOT NULL REFERENCES communicator,
    layer   INTEGER NOT NULL, -- −1: all
    slot    INTEGER NOT NULL, -- physical expert
    rank    INTEGER NOT NULL,
    expert  INTEGER NOT NULL, -- logical
    PRIMARY KEY (comm_id, layer, slot)
) WITHOUT ROWID;

-- What analyses found, where asked to write it back (--save): the same keys as their --json.
CREATE TABLE metric (
    analysis  TEXT NOT NULL, -- router, skew, …
    comm_key  TEXT,          -- what it is about; NULL: all of them
    role      TEXT,
    step      INTEGER,
    layer     INTEGER,
    rank      INTEGER,
    expert    INTEGER,
    name      TEXT NOT NULL,
    value     REAL,          -- NULL: could not be said; `note` says why
    low       REAL,          -- interval, where there is one
    high      REAL,
    level     REAL,          -- its coverage, as 0.95
    unit      TEXT,
    note      TEXT
);

-- ---------------------------------------------------------------- what is not here

-- What the target could not store, by reason; counted in the target, exact also after a kill.
CREATE TABLE loss (
    process_id INTEGER NOT NULL REFERENCES process,
    reason     TEXT NOT NULL,
    groups     INTEGER NOT NULL, -- outermost NCCL groups, or calls outside a group
    exchanges  INTEGER NOT NULL,
    operations INTEGER NOT NULL,
    cells      INTEGER NOT NULL, -- single NCCL calls
    PRIMARY KEY (process_id, reason)
) WITHOUT ROWID;

-- Where on a communicator exchanges were lost: the sends and receives to each peer that are missing
-- before exchange `before_seq`, so that the n-th send still meets the n-th receive.
CREATE TABLE loss_edge (
    member_id  INTEGER NOT NULL REFERENCES member,
    before_seq INTEGER NOT NULL,
    peer       INTEGER NOT NULL,
    sends      INTEGER NOT NULL,
    recvs      INTEGER NOT NULL
);

-- What went differently than planned.
CREATE TABLE diagnostic (
    diagnostic_id INTEGER PRIMARY KEY,
    run_id        INTEGER REFERENCES run,
    process_id    INTEGER REFERENCES process,
    severity      TEXT NOT NULL, -- info, warning, error
    code          TEXT NOT NULL, -- stable name, see docs/schema.md
    ns            INTEGER,
    text          TEXT NOT NULL  -- what, where, what to do
);

-- ---------------------------------------------------------------- the collector's own

-- How far each spool stream has been stored, in the same transaction as what was stored; and where the
-- parts of a group begin whose end has not come yet.
CREATE TABLE spool_progress (
    process_id   INTEGER NOT NULL REFERENCES process,
    stream       INTEGER NOT NULL,
    seq          INTEGER NOT NULL,
    offset       INTEGER NOT NULL,
    parts_seq    INTEGER,
    parts_offset INTEGER,
    PRIMARY KEY (process_id, stream)
) WITHOUT ROWID;

-- Helpers of the views: 0, 1, 2, … up to the longest vector, and the 256 byte values in order.
CREATE TABLE ordinal (n INTEGER PRIMARY KEY);
CREATE TABLE codec (bytes BLOB NOT NULL);
INSERT INTO codec VALUES (x'000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F202122232425262728292A2B2C2D2E2F303132333435363738393A3B3C3D3E3F404142434445464748494A4B4C4D4E4F505152535455565758595A5B5C5D5E5F606162636465666768696A6B6C6D6E6F707172737475767778797A7B7C7D7E7F808182838485868788898A8B8C8D8E8F909192939495969798999A9B9C9D9E9FA0A1A2A3A4A5A6A7A8A9AAABACADAEAFB0B1B2B3B4B5B6B7B8B9BABBBCBDBEBFC0C1C2C3C4C5C6C7C8C9CACBCCCDCECFD0D1D2D3D4D5D6D7D8D9DADBDCDDDEDFE0E1E2E3E4E5E6E7E8E9EAEBECEDEEEFF0F1F2F3F4F5F6F7F8F9FAFBFCFDFEFF');

-- ---------------------------------------------------------------- views

-- Vectors spelled out: one row a cell. Sizes in units.
CREATE VIEW vector_cell AS
    SELECT v.vector_id, o.n AS ordinal,
        CASE WHEN v.peers IS NULL THEN o.n ELSE
            CASE v.peer_width
                WHEN 1 THEN (instr(c.bytes, substr(v.peers, 1 + o.n * v.peer_stride + 0, 1)) - 1)
                WHEN 2 THEN ((instr(c.bytes, substr(v.peers, 1 + o.n * v.peer_stride + 0, 1)) - 1) << 8) + (instr(c.bytes, substr(v.peers, 1 + o.n * v.peer_stride + 1, 1)) - 1)
                WHEN 3 THEN ((instr(c.bytes, substr(v.peers, 1 + o.n * v.peer_stride + 0, 1)) - 1) << 16) + ((instr(c.bytes, substr(v.peers, 1 + o.n * v.peer_stride + 1, 1)) - 1) << 8) + (instr(c.bytes, substr(v.peers, 1 + o.n * v.peer_stride + 2, 1)) - 1)
                WHEN 4 THEN ((instr(c.bytes, substr(v.peers, 1 + o.n * v.peer_stride + 0, 1)) - 1) << 24) + ((instr(c.bytes, substr(v.peers, 1 + o.n * v.peer_stride + 1, 1)) - 1) << 16) + ((instr(c.bytes, substr(v.peers, 1 + o.n * v.peer_stride + 2, 1)) - 1) << 8) + (instr(c.bytes, substr(v.peers, 1 + o.n * v.peer_stride + 3, 1)) - 1)
                WHEN 5 THEN ((instr(c.bytes, substr(v.peers, 1 + o.n * v.peer_stride + 0, 1)) - 1) << 32) + ((instr(c.bytes, substr(v.peers, 1 + o.n * v.peer_stride + 1, 1)) - 1) << 24) + ((instr(c.bytes, substr(v.peers, 1 + o.n * v.peer_stride + 2, 1)) - 1) << 16) + ((instr(c.bytes, substr(v.peers, 1 + o.n * v.peer_stride + 3, 1)) - 1) << 8) + (instr(c.bytes, substr(v.peers, 1 + o.n * v.peer_stride + 4, 1)) - 1)
                WHEN 6 THEN ((instr(c.bytes, substr(v.peers, 1 + o.n * v.peer_stride + 0, 1)) - 1) << 40) + ((instr(c.bytes, substr(v.peers, 1 + o.n * v.peer_stride + 1, 1)) - 1) << 32) + ((instr(c.bytes, substr(v.peers, 1 + o.n * v.peer_stride + 2, 1)) - 1) << 24) + ((instr(c.bytes, substr(v.peers, 1 + o.n * v.peer_stride + 3, 1)) - 1) << 16) + ((instr(c.bytes, substr(v.peers, 1 + o.n * v.peer_stride + 4, 1)) - 1) << 8) + (instr(c.bytes, substr(v.peers, 1 + o.n * v.peer_stride + 5, 1)) - 1)
                WHEN 7 THEN ((instr(c.bytes, substr(v.peers, 1 + o.n * v.peer_stride + 0, 1)) - 1) << 48) + ((instr(c.bytes, substr(v.peers, 1 + o.n * v.peer_stride + 1, 1)) - 1) << 40) + ((instr(c.bytes, substr(v.peers, 1 + o.n * v.peer_stride + 2, 1)) - 1) << 32) + ((instr(c.bytes, substr(v.peers, 1 + o.n * v.peer_stride + 3, 1)) - 1) << 24) + ((instr(c.bytes, substr(v.peers, 1 + o.n * v.peer_stride + 4, 1)) - 1) << 16) + ((instr(c.bytes, substr(v.peers, 1 + o.n * v.peer_stride + 5, 1)) - 1) << 8) + (instr(c.bytes, substr(v.peers, 1 + o.n * v.peer_stride + 6, 1)) - 1)
                WHEN 8 THEN ((instr(c.bytes, substr(v.peers, 1 + o.n * v.peer_stride + 0, 1)) - 1) << 56) + ((instr(c.bytes, substr(v.peers, 1 + o.n * v.peer_stride + 1, 1)) - 1) << 48) + ((instr(c.bytes, substr(v.peers, 1 + o.n * v.peer_stride + 2, 1)) - 1) << 40) + ((instr(c.bytes, substr(v.peers, 1 + o.n * v.peer_stride + 3, 1)) - 1) << 32) + ((instr(c.bytes, substr(v.peers, 1 + o.n * v.peer_stride + 4, 1)) - 1) << 24) + ((instr(c.bytes, substr(v.peers, 1 + o.n * v.peer_stride + 5, 1)) - 1) << 16) + ((instr(c.bytes, substr(v.peers, 1 + o.n * v.peer_stride + 6, 1)) - 1) << 8) + (instr(c.bytes, substr(v.peers, 1 + o.n * v.peer_stride + 7, 1)) - 1)
                ELSE 0 END END AS peer,
            CASE v.size_width
                WHEN 1 THEN (instr(c.bytes, substr(v.sizes, 1 + o.n * v.size_stride + 0, 1)) - 1)
                WHEN 2 THEN ((instr(c.bytes, substr(v.sizes, 1 + o.n * v.size_stride + 0, 1)) - 1) << 8) + (instr(c.bytes, substr(v.sizes, 1 + o.n * v.size_stride + 1, 1)) - 1)
                WHEN 3 THEN ((instr(c.bytes, substr(v.sizes, 1 + o.n * v.size_stride + 0, 1)) - 1) << 16) + ((instr(c.bytes, substr(v.sizes, 1 + o.n * v.size_stride + 1, 1)) - 1) << 8) + (instr(c.bytes, substr(v.sizes, 1 + o.n * v.size_stride + 2, 1)) - 1)
                WHEN 4 THEN ((instr(c.bytes, substr(v.sizes, 1 + o.n * v.size_stride + 0, 1)) - 1) << 24) + ((instr(c.bytes, substr(v.sizes, 1 + o.n * v.size_stride + 1, 1)) - 1) << 16) + ((instr(c.bytes, substr(v.sizes, 1 + o.n * v.size_stride + 2, 1)) - 1) << 8) + (instr(c.bytes, substr(v.sizes, 1 + o.n * v.size_stride + 3, 1)) - 1)
                WHEN 5 THEN ((instr(c.bytes, substr(v.sizes, 1 + o.n * v.size_stride + 0, 1)) - 1) << 32) + ((instr(c.bytes, substr(v.sizes, 1 + o.n * v.size_stride + 1, 1)) - 1) << 24) + ((instr(c.bytes, substr(v.sizes, 1 + o.n * v.size_stride + 2, 1)) - 1) << 16) + ((instr(c.bytes, substr(v.sizes, 1 + o.n * v.size_stride + 3, 1)) - 1) << 8) + (instr(c.bytes, substr(v.sizes, 1 + o.n * v.size_stride + 4, 1)) - 1)
                WHEN 6 THEN ((instr(c.bytes, substr(v.sizes, 1 + o.n * v.size_stride + 0, 1)) - 1) << 40) + ((instr(c.bytes, substr(v.sizes, 1 + o.n * v.size_stride + 1, 1)) - 1) << 32) + ((instr(c.bytes, substr(v.sizes, 1 + o.n * v.size_stride + 2, 1)) - 1) << 24) + ((instr(c.bytes, substr(v.sizes, 1 + o.n * v.size_stride + 3, 1)) - 1) << 16) + ((instr(c.bytes, substr(v.sizes, 1 + o.n * v.size_stride + 4, 1)) - 1) << 8) + (instr(c.bytes, substr(v.sizes, 1 + o.n * v.size_stride + 5, 1)) - 1)
                WHEN 7 THEN ((instr(c.bytes, substr(v.sizes, 1 + o.n * v.size_stride + 0, 1)) - 1) << 48) + ((instr(c.bytes, substr(v.sizes, 1 + o.n * v.size_stride + 1, 1)) - 1) << 40) + ((instr(c.bytes, substr(v.sizes, 1 + o.n * v.size_stride + 2, 1)) - 1) << 32) + ((instr(c.bytes, substr(v.sizes, 1 + o.n * v.size_stride + 3, 1)) - 1) << 24) + ((instr(c.bytes, substr(v.sizes, 1 + o.n * v.size_stride + 4, 1)) - 1) << 16) + ((instr(c.bytes, substr(v.sizes, 1 + o.n * v.size_stride + 5, 1)) - 1) << 8) + (instr(c.bytes, substr(v.sizes, 1 + o.n * v.size_stride + 6, 1)) - 1)
                WHEN 8 THEN ((instr(c.bytes, substr(v.sizes, 1 + o.n * v.size_stride + 0, 1)) - 1) << 56) + ((instr(c.bytes, substr(v.sizes, 1 + o.n * v.size_stride + 1, 1)) - 1) << 48) + ((instr(c.bytes, substr(v.sizes, 1 + o.n * v.size_stride + 2, 1)) - 1) << 40) + ((instr(c.bytes, substr(v.sizes, 1 + o.n * v.size_stride + 3, 1)) - 1) << 32) + ((instr(c.bytes, substr(v.sizes, 1 + o.n * v.size_stride + 4, 1)) - 1) << 24) + ((instr(c.bytes, substr(v.sizes, 1 + o.n * v.size_stride + 5, 1)) - 1) << 16) + ((instr(c.bytes, substr(v.sizes, 1 + o.n * v.size_stride + 6, 1)) - 1) << 8) + (instr(c.bytes, substr(v.sizes, 1 + o.n * v.size_stride + 7, 1)) - 1)
                ELSE 0 END AS size
    FROM vector v CROSS JOIN ordinal o ON o.n < v.cells CROSS JOIN codec c;

-- The bytes one rank sends to one peer in one exchange: the send side only, the rank itself included.
-- Several sends to one peer in one exchange are several rows, in the order of the calls (ordinal).
CREATE VIEW edges AS
    SELECT e.exchange_id, m.rank AS src_rank, s.peer AS dst_rank, e.send_unit * s.size AS bytes,
           s.ordinal, m.comm_id, e.seq
    FROM exchange e JOIN member m USING (member_id) JOIN vector_cell s ON s.vector_id = e.send_vector;

-- The receive side, for checking one against the other. Never add it to `edges`: that counts twice.
CREATE VIEW recv_edges AS
    SELECT e.exchange_id, r.peer AS src_rank, m.rank AS dst_rank, e.recv_unit * r.size AS bytes,
           r.ordinal, m.comm_id, e.seq
    FROM exchange e JOIN member m USING (member_id) JOIN vector_cell r ON r.vector_id = e.recv_vector;

-- NCCL's own rule: the nth send from src_rank to dst_rank on a communicator meets the nth receive of dst_rank from
-- src_rank, lost ones counted (loss_edge). One row for each of them: NULL on the side that is not there, because
-- it was never called, was lost, or is in another node's database. Where sent_bytes <> expected_bytes the two
-- sides disagree.
CREATE VIEW exchange_matched AS
    WITH sent AS (
        SELECT e.comm_id, e.src_rank, e.dst_rank, e.exchange_id, e.bytes,
               row_number() OVER (PARTITION BY e.comm_id, e.src_rank, e.dst_rank ORDER BY e.seq, e.ordinal) - 1
               + coalesce((SELECT sum(l.sends) FROM loss_edge l WHERE l.member_id = x.member_id
                           AND l.peer = e.dst_rank AND l.before_seq <= e.seq), 0) AS nth
        FROM edges e JOIN exchange x USING (exchange_id)),
    expected AS (
        SELECT e.comm_id, e.src_rank, e.dst_rank, e.exchange_id, e.bytes,
               row_number() OVER (PARTITION BY e.comm_id, e.src_rank, e.dst_rank ORDER BY e.seq, e.ordinal) - 1
               + coalesce((SELECT sum(l.recvs) FROM loss_edge l WHERE l.member_id = x.member_id
                           AND l.peer = e.src_rank AND l.before_seq <= e.seq), 0) AS nth
        FROM recv_edges e JOIN exchange x USING (exchange_id))
    SELECT s.comm_id, s.src_rank, s.dst_rank, s.nth, s.exchange_id AS send_exchange_id,
           r.exchange_id AS recv_exchange_id, s.bytes AS sent_bytes, r.bytes AS expected_bytes
    FROM sent s LEFT JOIN expected r ON r.comm_id = s.comm_id AND r.src_rank = s.src_rank
         AND r.dst_rank = s.dst_rank AND r.nth = s.nth
    UNION ALL
    SELECT r.comm_id, r.src_rank, r.dst_rank, r.nth, NULL, r.exchange_id, NULL, r.bytes
    FROM expected r LEFT JOIN sent s ON r.comm_id = s.comm_id AND r.src_rank = s.src_rank
         AND r.dst_rank = s.dst_rank AND r.nth = s.nth
    WHERE s.exchange_id IS NULL;

-- The matrix of the seq-th exchange of a communicator, over all ranks of this node: row src_rank,
-- column dst_rank. Exact where all ranks call alike; where ranks skip zero-sized groups their ordinals
-- drift apart, and only matching by pair tells which calls belong together.
CREATE VIEW exchange_matrix AS
    SELECT comm_id, seq, src_rank, dst_rank, sum(bytes) AS bytes, count(*) AS sends
    FROM edges GROUP BY comm_id, seq, src_rank, dst_rank;

-- What each rank sent and received in each exchange (bytes, itself included).
CREATE VIEW rank_load AS
    SELECT e.exchange_id, m.comm_id, e.seq, m.rank,
           coalesce(e.send_unit * s.total, 0) AS send_bytes,
           coalesce(e.recv_unit * r.total, 0) AS recv_bytes,
           coalesce(s.cells, 0) AS sends, coalesce(r.cells, 0) AS recvs
    FROM exchange e JOIN member m USING (member_id)
    LEFT JOIN vector s ON s.vector_id = e.send_vector
    LEFT JOIN vector r ON r.vector_id = e.recv_vector;

-- Exchanges with names instead of numbers, one row each: the place to start looking.
CREATE VIEW exchange_info AS
    SELECT e.exchange_id, p.process_id, p.host, p.world_rank, m.comm_id, c.ranks, m.rank, e.seq, o.name AS op,
           e.start_ns, e.enqueue_ns, coalesce(e.send_unit * s.total, 0) AS send_bytes,
           coalesce(e.recv_unit * r.total, 0) AS recv_bytes, e.flags & 1 AS captured,
           CASE WHEN e.flags & 1 THEN coalesce(l.launches, 0) ELSE 1 END AS runs, e.site_id,
           b.role, b.step, b.layer
    FROM exchange e JOIN member m USING (member_id) JOIN communicator c USING (comm_id)
    JOIN process p USING (process_id) JOIN op_name o ON o.op = e.op
    LEFT JOIN vector s ON s.vector_id = e.send_vector
    LEFT JOIN vector r ON r.vector_id = e.recv_vector
    LEFT JOIN capture_launches l ON l.capture_id = e.capture_id
    LEFT JOIN exchange_label b ON b.exchange_id = e.exchange_id;

-- The NVTX ranges that each exchange was called in, a row a range: depth 0 is the outermost.
CREATE VIEW exchange_range AS
    WITH RECURSIVE up(exchange_id, range_id) AS (
        SELECT e.exchange_id, (SELECT c.range_id FROM nvtx_change c WHERE c.process_id = m.process_id
                               AND c.thread = e.thread AND c.from_group <= e.group_seq
                               ORDER BY c.from_group DESC LIMIT 1)
        FROM exchange e JOIN member m USING (member_id)
        UNION ALL
        SELECT u.exchange_id, r.parent_id FROM up u JOIN nvtx_range r USING (range_id))
    SELECT u.exchange_id, r.depth, r.domain, r.text, r.range_id FROM up u JOIN nvtx_range r USING (range_id);

-- The same of other operations.
CREATE VIEW operation_range AS
    WITH RECURSIVE up(operation_id, range_id) AS (
        SELECT o.operation_id, (SELECT c.range_id FROM nvtx_change c WHERE c.process_id = m.process_id
                                AND c.thread = o.thread AND c.from_group <= o.group_seq
                                ORDER BY c.from_group DESC LIMIT 1)
        FROM operation o JOIN member m USING (member_id)
        UNION ALL
        SELECT u.operation_id, r.parent_id FROM up u JOIN nvtx_range r USING (range_id))
    SELECT u.operation_id, r.depth, r.domain, r.text, r.range_id FROM up u JOIN nvtx_range r USING (range_id);

-- Exchanges with the time they occupied the device, a row for each time they ran. NULL times: only the host
-- was asked (exchange.start_ns is when it was enqueued).
CREATE VIEW exchange_device_time AS
    SELECT e.exchange_id, m.comm_id, e.seq, m.rank, t.launch_id, s.name AS source, t.start_ns, t.end_ns,
           t.end_ns - t.start_ns AS duration_ns, t.error_ns
    FROM exchange e JOIN member m USING (member_id)
    LEFT JOIN device_time t ON t.member_id = e.member_id AND t.thread = e.thread AND t.group_seq = e.group_seq
    LEFT JOIN time_source s ON s.source = t.source;

-- Communicators on which ordinals may disagree: some exchange is no group of one send to and one receive from every rank.
-- Where ranks leave out zero sizes or empty groups, only matching by pair (exchange_matched) tells what belongs together.
CREATE VIEW unequal_communicator AS
    SELECT DISTINCT m.comm_id
    FROM exchange e JOIN member m USING (member_id) JOIN communicator c USING (comm_id)
    LEFT JOIN vector s ON s.vector_id = e.send_vector
    LEFT JOIN vector r ON r.vector_id = e.recv_vector
    WHERE s.cells IS NOT c.ranks OR r.cells IS NOT c.ranks OR s.peers IS NOT NULL OR r.peers IS NOT NULL;

-- Each exchange of such a communicator with those of other ranks that it meets in this database, and with itself: as
-- exchange_matched has them, but asked of these communicators alone, since a view of windows would count out all others first.
CREATE VIEW exchange_met AS
    WITH sent AS (
        SELECT e.comm_id, e.src_rank, e.dst_rank, e.exchange_id,
               row_number() OVER (PARTITION BY e.comm_id, e.src_rank, e.dst_rank ORDER BY e.seq, e.ordinal) - 1
               + coalesce((SELECT sum(l.sends) FROM loss_edge l WHERE l.member_id = x.member_id
                           AND l.peer = e.dst_rank AND l.before_seq <= e.seq), 0) AS nth
        FROM edges e JOIN exchange x USING (exchange_id)
        WHERE e.comm_id IN (SELECT comm_id FROM unequal_communicator)),
    expected AS (
        SELECT e.comm_id, e.src_rank, e.dst_rank, e.exchange_id,
               row_number() OVER (PARTITION BY e.comm_id, e.src_rank, e.dst_rank ORDER BY e.seq, e.ordinal) - 1
               + coalesce((SELECT sum(l.recvs) FROM loss_edge l WHERE l.member_id = x.member_id
                           AND l.peer = e.src_rank AND l.before_seq <= e.seq), 0) AS nth
        FROM recv_edges e JOIN exchange x USING (exchange_id)
        WHERE e.comm_id IN (SELECT comm_id FROM unequal_communicator))
    SELECT DISTINCT CASE way WHEN 0 THEN s.exchange_id ELSE r.exchange_id END AS exchange_id,
           CASE way WHEN 0 THEN r.exchange_id ELSE s.exchange_id END AS met_exchange_id
    FROM sent s JOIN expected r ON r.comm_id = s.comm_id AND r.src_rank = s.src_rank AND r.dst_rank = s.dst_rank
         AND r.nth = s.nth
    CROSS JOIN (SELECT 0 AS way UNION ALL SELECT 1)
    UNION
    SELECT e.exchange_id, e.exchange_id FROM exchange e JOIN member m USING (member_id)
    WHERE m.comm_id IN (SELECT comm_id FROM unequal_communicator);

-- Where the time of each exchange went, on one axis: a row for each rank and each time that the exchange ran.
-- arrival_ns: the device could begin (host times: the call was made); wait_ns: from there to the arrival of the
-- last rank that it exchanges with; transfer_ns: from that to this rank's end. NULL where there is no device time. Ranks of
-- other nodes are not in this database, and clocks of several nodes need clock_fit. Rows meet by ordinal, and by pair
-- (exchange_met, which takes longer) where ordinals may disagree; of CUDA graphs, by the number of the replay.
CREATE VIEW exchange_time AS
    WITH one AS (
        SELECT m.comm_id, e.seq, m.rank, e.exchange_id, t.launch_id, coalesce(s.name, 'host') AS source,
               coalesce(t.start_ns, e.start_ns) AS arrival_ns, t.end_ns, t.error_ns,
               t.start_slack_ns, t.end_slack_ns,
               CASE WHEN coalesce(t.launch_id, 0) = 0 THEN 0 ELSE
                   row_number() OVER (PARTITION BY e.exchange_id ORDER BY t.launch_id, t.place) - 1 END AS run
        FROM exchange e JOIN member m USING (member_id)
        LEFT JOIN device_time t
            ON t.member_id = e.member_id AND t.thread = e.thread AND t.group_seq = e.group_seq
        LEFT JOIN time_source s ON s.source = t.source),
    waited AS (
        SELECT *, max(arrival_ns) OVER same AS last_ns, count(*) OVER same AS ranks_timed
        FROM one WHERE comm_id NOT IN (SELECT comm_id FROM unequal_communicator)
        WINDOW same AS (PARTITION BY comm_id, seq, run, source = 'host')
        UNION ALL
        SELECT a.*, max(b.arrival_ns), count(*)
        FROM one a JOIN exchange_met p ON p.exchange_id = a.exchange_id
        JOIN one b ON b.exchange_id = p.met_exchange_id AND b.run = a.run AND (b.source = 'host') = (a.source = 'host')
        GROUP BY a.exchange_id, a.run)
    SELECT comm_id, seq, run, rank, exchange_id, launch_id, source, arrival_ns, end_ns, end_ns - arrival_ns AS duration_ns,
           last_ns - arrival_ns AS wait_ns, end_ns - last_ns AS transfer_ns, error_ns, start_slack_ns,
           end_slack_ns, ranks_timed
    FROM waited;

-- The same on the axis that nodes share, where `skewscope clocks --save` has related them: rows of several databases
-- compare then, within residual_ns each. No rows until it has.
CREATE VIEW exchange_axis AS
    SELECT t.comm_id, t.seq, t.run, t.rank, t.exchange_id, t.launch_id, f.reference, f.residual_ns,
           t.arrival_ns + f.offset_ns + CAST(round(f.drift_ppb * 1e-9 * (t.arrival_ns - f.at_ns)) AS INTEGER)
               AS arrival_axis_ns,
           t.end_ns + f.offset_ns + CAST(round(f.drift_ppb * 1e-9 * (t.end_ns - f.at_ns)) AS INTEGER) AS end_axis_ns
    FROM exchange_time t JOIN exchange e USING (exchange_id) JOIN member m USING (member_id)
    JOIN clock_fit f USING (process_id);

-- "timed N of M": launches of NCCL work (one communicator's part of a group, replays of CUDA graphs counted each),
-- those with a time on the device, and by what.
CREATE VIEW time_coverage AS
    SELECT p.process_id, p.world_rank, coalesce(l.launches, 0) AS launches, coalesce(t.timed, 0) AS timed,
           coalesce(t.events, 0) AS events, coalesce(t.cupti, 0) AS cupti
    FROM process p
    LEFT JOIN (SELECT process_id, sum(runs) AS launches
               FROM (SELECT m.process_id, CASE WHEN g.flags & 1 THEN coalesce(c.launches, 0) ELSE 1 END AS runs
                     FROM (SELECT member_id, thread, group_seq, flags, capture_id FROM exchange UNION
                           SELECT member_id, thread, group_seq, flags, capture_id FROM operation) g
                     JOIN member m USING (member_id) LEFT JOIN capture_launches c USING (capture_id)
                     GROUP BY g.member_id, g.thread, g.group_seq)
               GROUP BY process_id) l USING (process_id)
    LEFT JOIN (SELECT m.process_id, count(*) AS timed, sum(d.source = 1) AS events, sum(d.source = 2) AS cupti
               FROM device_time d JOIN member m USING (member_id) GROUP BY m.process_id) t USING (process_id);

-- What device-initiated backends did (DeepEP, HybridEP, NCCL EP, …): a row a kernel. They move tokens from inside
-- kernels, so which bytes went where cannot be observed; when they did can, with SKEWSCOPE_TIMING=cupti.
CREATE VIEW backend_time AS
    SELECT k.process_id, p.world_rank, k.device, n.backend, n.does, k.start_ns, k.end_ns, k.end_ns - k.start_ns AS duration_ns,
           k.kernels, n.name
    FROM kernel k JOIN kernel_name n USING (process_id, name_id) JOIN process p USING (process_id)
    WHERE n.backend IS NOT NULL AND n.backend <> 'NCCL' AND n.does NOT IN ('permute', 'experts', 'other');

-- Noted calls by process and function: how many there were, how many have a row, and the first and the last of these.
CREATE VIEW backend_call_total AS
    SELECT c.process_id, p.world_rank, c.backend, c.does, c.function, c.calls, coalesce(b.rows, 0) AS rows, b.first_ns, b.last_ns
    FROM backend_call_count c JOIN process p USING (process_id)
    LEFT JOIN (SELECT process_id, function, count(*) AS rows, min(start_ns) AS first_ns, max(start_ns) AS last_ns
               FROM backend_call GROUP BY 1, 2) b USING (process_id, function);

-- Tokens of each expert, spelled out.
CREATE VIEW routing_cell AS
    SELECT r.routing_id, r.exchange_id, r.comm_id, r.source_rank, r.step, r.layer, r.microbatch, r.stage, r.request,
           v.peer AS expert, r.unit * v.size AS tokens
    FROM routing r JOIN vector_cell v ON v.vector_id = r.counts;

-- "captured N of M": groups that returned in the target, those stored here, those lost with a known
-- reason, and the rest (missing_groups: still in the spool, or gone with it).
CREATE VIEW coverage AS
    SELECT p.process_id, p.world_rank, p.returned_groups, p.stored_groups,
           coalesce(sum(l.groups), 0) AS lost_groups,
           p.returned_groups - p.stored_groups - coalesce(sum(l.groups), 0) AS missing_groups,
           coalesce(sum(l.exchanges), 0) AS lost_exchanges
    FROM process p LEFT JOIN loss l USING (process_id) GROUP BY p.process_id;

-- Call sites as text, innermost frame first: a function's name, else file name and offset in it.
CREATE VIEW callsite_text AS
    SELECT site_id, group_concat(name, ' < ') AS stack
    FROM (SELECT f.site_id, coalesce(f.symbol,
                 replace(m.path, rtrim(m.path, replace(m.path, '/', '')), '') || printf('+0x%x', f.address - m.base),
                 printf('0x%x', f.address)) AS name
          FROM frame f LEFT JOIN module m USING (module_id) ORDER BY f.site_id, f.depth)
    GROUP BY site_id;
