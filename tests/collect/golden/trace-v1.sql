BEGIN TRANSACTION;
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
CREATE TABLE backend_call_count (
    process_id INTEGER NOT NULL REFERENCES process,
    function   TEXT NOT NULL,
    backend    TEXT NOT NULL,
    does       TEXT NOT NULL,
    calls      INTEGER NOT NULL,
    PRIMARY KEY (process_id, function)
) WITHOUT ROWID;
CREATE TABLE callsite (
    site_id    INTEGER PRIMARY KEY,
    process_id INTEGER NOT NULL REFERENCES process,
    local_site INTEGER NOT NULL, -- number within the process
    UNIQUE (process_id, local_site)
);
INSERT INTO "callsite" VALUES(1,1,1);
INSERT INTO "callsite" VALUES(2,1,2);
INSERT INTO "callsite" VALUES(3,2,1);
INSERT INTO "callsite" VALUES(4,2,2);
CREATE TABLE capture_launches (
    capture_id INTEGER PRIMARY KEY REFERENCES graph_capture,
    launches   INTEGER NOT NULL
);
INSERT INTO "capture_launches" VALUES(1,2);
INSERT INTO "capture_launches" VALUES(2,2);
CREATE TABLE clock_anchor (
    process_id   INTEGER NOT NULL REFERENCES process,
    monotonic_ns INTEGER NOT NULL,
    real_ns      INTEGER NOT NULL
);
INSERT INTO "clock_anchor" VALUES(1,1000,2000);
INSERT INTO "clock_anchor" VALUES(1,1000,2000);
INSERT INTO "clock_anchor" VALUES(1,1000,2000);
INSERT INTO "clock_anchor" VALUES(2,1000,2000);
INSERT INTO "clock_anchor" VALUES(2,1000,2000);
INSERT INTO "clock_anchor" VALUES(2,1000,2000);
CREATE TABLE clock_fit (
    process_id  INTEGER PRIMARY KEY REFERENCES process,
    reference   TEXT NOT NULL,    -- process.key whose clock is the axis
    at_ns       INTEGER NOT NULL,
    offset_ns   INTEGER NOT NULL,
    drift_ppb   INTEGER NOT NULL,
    residual_ns INTEGER NOT NULL, -- the error is within ± this, asymmetric paths included as far as they can be seen
    matches     INTEGER NOT NULL  -- exchanges that it rests on
);
CREATE TABLE codec (bytes BLOB NOT NULL);
INSERT INTO "codec" VALUES(X'000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F202122232425262728292A2B2C2D2E2F303132333435363738393A3B3C3D3E3F404142434445464748494A4B4C4D4E4F505152535455565758595A5B5C5D5E5F606162636465666768696A6B6C6D6E6F707172737475767778797A7B7C7D7E7F808182838485868788898A8B8C8D8E8F909192939495969798999A9B9C9D9E9FA0A1A2A3A4A5A6A7A8A9AAABACADAEAFB0B1B2B3B4B5B6B7B8B9BABBBCBDBEBFC0C1C2C3C4C5C6C7C8C9CACBCCCDCECFD0D1D2D3D4D5D6D7D8D9DADBDCDDDEDFE0E1E2E3E4E5E6E7E8E9EAEBECEDEEEFF0F1F2F3F4F5F6F7F8F9FAFBFCFDFEFF');
CREATE TABLE communicator (
    comm_id   INTEGER PRIMARY KEY,
    key       TEXT NOT NULL UNIQUE, -- 16 hex digits, equal on every rank and node; '?…' when unidentified
    kind      TEXT NOT NULL,        -- init_rank, init_all, init_rank_scalable, split, shrink, grow, unknown
    ranks     INTEGER,              -- NULL: never learned
    parent_id INTEGER REFERENCES communicator,
    color     INTEGER               -- of Split
);
INSERT INTO "communicator" VALUES(1,'00000000feedface','init_rank',4,NULL,NULL);
INSERT INTO "communicator" VALUES(2,'00000000deadbeef','split',2,1,1);
CREATE TABLE device_clock (
    process_id INTEGER NOT NULL REFERENCES process,
    clock      INTEGER NOT NULL, -- 1, 2, … within the process: one a CUDA context, or CUPTI's
    source     INTEGER NOT NULL REFERENCES time_source,
    device_ns  INTEGER NOT NULL,
    low_ns     INTEGER NOT NULL,
    high_ns    INTEGER NOT NULL
);
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
CREATE TABLE diagnostic (
    diagnostic_id INTEGER PRIMARY KEY,
    run_id        INTEGER REFERENCES run,
    process_id    INTEGER REFERENCES process,
    severity      TEXT NOT NULL, -- info, warning, error
    code          TEXT NOT NULL, -- stable name, see docs/schema.md
    ns            INTEGER,
    text          TEXT NOT NULL  -- what, where, what to do
);
INSERT INTO "diagnostic" VALUES(1,NULL,1,'info','no_capture_query',20,'the driver cannot say whether a stream is being captured');
INSERT INTO "diagnostic" VALUES(2,NULL,1,'warning','device_backend',NULL,'DeepEP is loaded (/opt/deep_ep_cpp.so): its dispatch and combine move tokens from inside CUDA kernels over NVLink and RDMA (NVSHMEM, or NCCL''s device API); these bytes are not in this trace.');
INSERT INTO "diagnostic" VALUES(3,NULL,2,'info','no_capture_query',20,'the driver cannot say whether a stream is being captured');
INSERT INTO "diagnostic" VALUES(4,NULL,2,'warning','device_backend',NULL,'DeepEP is loaded (/opt/deep_ep_cpp.so): its dispatch and combine move tokens from inside CUDA kernels over NVLink and RDMA (NVSHMEM, or NCCL''s device API); these bytes are not in this trace.');
INSERT INTO "diagnostic" VALUES(5,1,NULL,'info','run_note',NULL,'a note');
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
INSERT INTO "exchange" VALUES(1,1,0,0,2000,40,9,1,2,5760,5760,1,1,1,0,0,NULL);
INSERT INTO "exchange" VALUES(2,1,1,0,2100,40,7,1,2,4,4,1,1,1,1,0,NULL);
INSERT INTO "exchange" VALUES(3,1,2,0,2200,40,9,2,1,5760,5760,1,2,1,2,0,NULL);
INSERT INTO "exchange" VALUES(4,1,4,2,3000,10,7,3,3,512,512,1,NULL,1,9,0,NULL);
INSERT INTO "exchange" VALUES(5,2,0,0,3000,10,0,4,4,700,70000,2,NULL,1,9,8,NULL);
INSERT INTO "exchange" VALUES(6,1,5,0,3100,10,7,5,6,4,32,1,NULL,1,10,1,1);
INSERT INTO "exchange" VALUES(7,1,3,0,2300,40,9,1,2,5760,5760,1,2,2,3,0,NULL);
INSERT INTO "exchange" VALUES(8,3,0,0,2000,40,9,7,8,5760,5760,3,3,1,0,0,NULL);
INSERT INTO "exchange" VALUES(9,3,1,0,2100,40,7,7,8,4,4,3,3,1,1,0,NULL);
INSERT INTO "exchange" VALUES(10,3,2,0,2200,40,9,8,7,5760,5760,3,4,1,2,0,NULL);
INSERT INTO "exchange" VALUES(11,3,4,2,3000,10,7,3,3,512,512,3,NULL,1,9,0,NULL);
INSERT INTO "exchange" VALUES(12,4,0,0,3000,10,0,4,4,700,70000,4,NULL,1,9,8,NULL);
INSERT INTO "exchange" VALUES(13,3,5,0,3100,10,7,5,6,4,32,3,NULL,1,10,1,2);
INSERT INTO "exchange" VALUES(14,3,3,0,2300,40,9,7,8,5760,5760,3,4,2,3,0,NULL);
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
INSERT INTO "frame" VALUES(1,0,4198964,1,NULL,NULL,NULL,NULL);
INSERT INTO "frame" VALUES(1,1,4203333,1,NULL,NULL,NULL,NULL);
INSERT INTO "frame" VALUES(2,0,4207702,1,NULL,NULL,NULL,NULL);
INSERT INTO "frame" VALUES(3,0,4198964,4,NULL,NULL,NULL,NULL);
INSERT INTO "frame" VALUES(3,1,4203333,4,NULL,NULL,NULL,NULL);
INSERT INTO "frame" VALUES(4,0,4207702,4,NULL,NULL,NULL,NULL);
CREATE TABLE graph_capture (
    capture_id INTEGER PRIMARY KEY,
    process_id INTEGER NOT NULL REFERENCES process,
    driver_id  INTEGER NOT NULL, -- the driver's capture id
    UNIQUE (process_id, driver_id)
);
INSERT INTO "graph_capture" VALUES(1,1,50);
INSERT INTO "graph_capture" VALUES(2,2,50);
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
INSERT INTO "graph_event" VALUES(1,3200,'captured',50,1,NULL,NULL);
INSERT INTO "graph_event" VALUES(1,3210,'instantiated',NULL,1,NULL,9);
INSERT INTO "graph_event" VALUES(2,3200,'captured',50,1,NULL,NULL);
INSERT INTO "graph_event" VALUES(2,3210,'instantiated',NULL,1,NULL,9);
CREATE TABLE graph_launch (
    launch_id  INTEGER PRIMARY KEY,
    process_id INTEGER NOT NULL REFERENCES process,
    ns         INTEGER NOT NULL,
    exec       INTEGER NOT NULL, -- CUgraphExec handle
    stream_id  INTEGER REFERENCES stream
);
INSERT INTO "graph_launch" VALUES(1,1,3220,9,1);
INSERT INTO "graph_launch" VALUES(2,1,3230,9,1);
INSERT INTO "graph_launch" VALUES(3,2,3220,9,3);
INSERT INTO "graph_launch" VALUES(4,2,3230,9,3);
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
CREATE TABLE kernel_name (
    process_id INTEGER NOT NULL REFERENCES process,
    name_id    INTEGER NOT NULL,
    name       TEXT NOT NULL,
    does       TEXT, -- dispatch, combine, fused, count, barrier, permute, transfer, experts, collective, unknown (sounds like
                     -- communication, but nobody has said what it is), other; NULL: was not asked
    backend    TEXT, -- DeepEP V1, …; NULL: none, or any
    PRIMARY KEY (process_id, name_id)
) WITHOUT ROWID;
CREATE TABLE loss (
    process_id INTEGER NOT NULL REFERENCES process,
    reason     TEXT NOT NULL,
    groups     INTEGER NOT NULL, -- outermost NCCL groups, or calls outside a group
    exchanges  INTEGER NOT NULL,
    operations INTEGER NOT NULL,
    cells      INTEGER NOT NULL, -- single NCCL calls
    PRIMARY KEY (process_id, reason)
) WITHOUT ROWID;
INSERT INTO "loss" VALUES(1,'spool_full',1,1,0,2);
INSERT INTO "loss" VALUES(2,'spool_full',1,1,0,2);
CREATE TABLE loss_edge (
    member_id  INTEGER NOT NULL REFERENCES member,
    before_seq INTEGER NOT NULL,
    peer       INTEGER NOT NULL,
    sends      INTEGER NOT NULL,
    recvs      INTEGER NOT NULL
);
INSERT INTO "loss_edge" VALUES(1,4,1,1,1);
INSERT INTO "loss_edge" VALUES(3,4,1,1,1);
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
INSERT INTO "member" VALUES(1,1,0,1,1,0,4096,0,900,4000,'destroy');
INSERT INTO "member" VALUES(2,2,0,1,2,NULL,8192,1,950,NULL,NULL);
INSERT INTO "member" VALUES(3,1,1,2,1,1,4096,0,900,4000,'destroy');
INSERT INTO "member" VALUES(4,2,1,2,2,NULL,8192,1,950,NULL,NULL);
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;
INSERT INTO "meta" VALUES('created_real_ns','1000');
INSERT INTO "meta" VALUES('host','node0');
INSERT INTO "meta" VALUES('min_reader_version','1');
INSERT INTO "meta" VALUES('node','0123456789abcdef0123456789abcdef');
INSERT INTO "meta" VALUES('published_real_ns','1000');
INSERT INTO "meta" VALUES('trace_id','0123456789abcdef');
INSERT INTO "meta" VALUES('version','0.1.0');
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
INSERT INTO "module" VALUES(1,1,'/usr/bin/python3','00112233',4194304,4194304,5242880,NULL);
INSERT INTO "module" VALUES(2,1,'/opt/nccl/libnccl.so.2',NULL,139637976727552,139637976727552,139637986164736,'nccl');
INSERT INTO "module" VALUES(3,1,'/opt/deep_ep_cpp.so',NULL,138538465099776,138538465099776,138538474536960,'device_backend');
INSERT INTO "module" VALUES(4,2,'/usr/bin/python3','00112233',4194304,4194304,5242880,NULL);
INSERT INTO "module" VALUES(5,2,'/opt/nccl/libnccl.so.2',NULL,139637976727552,139637976727552,139637986164736,'nccl');
INSERT INTO "module" VALUES(6,2,'/opt/deep_ep_cpp.so',NULL,138538465099776,138538465099776,138538474536960,'device_backend');
CREATE TABLE nvtx_change (
    process_id INTEGER NOT NULL REFERENCES process,
    thread     INTEGER NOT NULL,
    from_group INTEGER NOT NULL, -- exchange.group_seq, operation.group_seq
    range_id   INTEGER REFERENCES nvtx_range, -- the innermost; NULL: none
    deeper     INTEGER NOT NULL, -- ranges further in that found no room (more than 16 deep)
    marks_lost INTEGER NOT NULL, -- marks before this group, likewise (more than 4)
    PRIMARY KEY (process_id, thread, from_group)
) WITHOUT ROWID;
CREATE TABLE nvtx_name (
    process_id INTEGER NOT NULL REFERENCES process,
    local_name INTEGER NOT NULL,
    text       TEXT NOT NULL, -- of the application; cut after 126 bytes
    PRIMARY KEY (process_id, local_name)
) WITHOUT ROWID;
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
CREATE TABLE op_name (op INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
INSERT INTO "op_name" VALUES(0,'sendrecv');
INSERT INTO "op_name" VALUES(1,'recv');
INSERT INTO "op_name" VALUES(2,'alltoall');
INSERT INTO "op_name" VALUES(3,'alltoallv');
INSERT INTO "op_name" VALUES(4,'alltoallv_recv');
INSERT INTO "op_name" VALUES(5,'allgather');
INSERT INTO "op_name" VALUES(6,'reducescatter');
INSERT INTO "op_name" VALUES(7,'allreduce');
INSERT INTO "op_name" VALUES(8,'broadcast');
INSERT INTO "op_name" VALUES(9,'reduce');
INSERT INTO "op_name" VALUES(10,'gather');
INSERT INTO "op_name" VALUES(11,'scatter');
INSERT INTO "op_name" VALUES(12,'put');
INSERT INTO "op_name" VALUES(13,'signal');
INSERT INTO "op_name" VALUES(14,'waitsignal');
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
INSERT INTO "operation" VALUES(1,2,0,5,3000,10,4,64,512,NULL,2,NULL,1,9,8,NULL);
INSERT INTO "operation" VALUES(2,4,0,5,3000,10,4,64,512,NULL,4,NULL,1,9,8,NULL);
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
CREATE TABLE ordinal (n INTEGER PRIMARY KEY);
INSERT INTO "ordinal" VALUES(0);
INSERT INTO "ordinal" VALUES(1);
INSERT INTO "ordinal" VALUES(2);
INSERT INTO "ordinal" VALUES(3);
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
CREATE TABLE placement (
    comm_id INTEGER NOT NULL REFERENCES communicator,
    layer   INTEGER NOT NULL, -- −1: all
    slot    INTEGER NOT NULL, -- physical expert
    rank    INTEGER NOT NULL,
    expert  INTEGER NOT NULL, -- logical
    PRIMARY KEY (comm_id, layer, slot)
) WITHOUT ROWID;
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
INSERT INTO "process" VALUES(1,1,'0123456789abcdef0123456789abcdef-4026531836-100-50-1000',100,'node0','/usr/bin/python3','["python3","train.py","--rank=0"]','/home/user',0,0,4,22809,'/opt/nccl/libnccl.so.2','next','0.1.0',1000,1000,5000,'exited',7,6);
INSERT INTO "process" VALUES(2,1,'0123456789abcdef0123456789abcdef-4026531836-101-51-1001',101,'node0','/usr/bin/python3','["python3","train.py","--rank=1"]','/home/user',1,1,4,22809,'/opt/nccl/libnccl.so.2','next','0.1.0',1001,1000,5000,'exited',7,6);
CREATE TABLE process_env (
    process_id INTEGER NOT NULL REFERENCES process,
    name       TEXT NOT NULL,
    value      TEXT NOT NULL,
    PRIMARY KEY (process_id, name)
) WITHOUT ROWID;
INSERT INTO "process_env" VALUES(1,'LOCAL_RANK','0');
INSERT INTO "process_env" VALUES(1,'RANK','0');
INSERT INTO "process_env" VALUES(1,'WORLD_SIZE','4');
INSERT INTO "process_env" VALUES(2,'LOCAL_RANK','1');
INSERT INTO "process_env" VALUES(2,'RANK','1');
INSERT INTO "process_env" VALUES(2,'WORLD_SIZE','4');
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
CREATE TABLE routing_ids (
    routing_id INTEGER PRIMARY KEY REFERENCES routing,
    width      INTEGER NOT NULL, -- 1 or 2
    ids        BLOB NOT NULL     -- tokens × topk × width bytes
);
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
INSERT INTO "run" VALUES(1,'golden','["python3","train.py"]','/home/user','0.1.0',0,1000,9000,0,NULL);
CREATE TABLE run_env (
    run_id INTEGER NOT NULL REFERENCES run,
    name   TEXT NOT NULL,
    value  TEXT NOT NULL,
    PRIMARY KEY (run_id, name)
) WITHOUT ROWID;
INSERT INTO "run_env" VALUES(1,'WORLD_SIZE','4');
CREATE TABLE run_gpu (
    run_id INTEGER NOT NULL REFERENCES run,
    bus    TEXT NOT NULL, -- PCI address
    model  TEXT NOT NULL, -- as in "NVIDIA H200"
    driver TEXT,          -- version of the kernel module
    PRIMARY KEY (run_id, bus)
) WITHOUT ROWID;
CREATE TABLE run_label (
    run_id INTEGER NOT NULL REFERENCES run,
    key    TEXT NOT NULL,
    value  TEXT NOT NULL,
    PRIMARY KEY (run_id, key)
) WITHOUT ROWID;
INSERT INTO "run_label" VALUES(1,'ep','4');
INSERT INTO "run_label" VALUES(1,'model','toy');
CREATE TABLE run_package (
    run_id  INTEGER NOT NULL REFERENCES run,
    name    TEXT NOT NULL,
    version TEXT,
    path    TEXT NOT NULL,
    PRIMARY KEY (run_id, name, path)
) WITHOUT ROWID;
INSERT INTO "run_package" VALUES(1,'nccl','2.28.9','/opt/nccl');
CREATE TABLE spool_progress (
    process_id   INTEGER NOT NULL REFERENCES process,
    stream       INTEGER NOT NULL,
    seq          INTEGER NOT NULL,
    offset       INTEGER NOT NULL,
    parts_seq    INTEGER,
    parts_offset INTEGER,
    PRIMARY KEY (process_id, stream)
) WITHOUT ROWID;
INSERT INTO "spool_progress" VALUES(1,0,0,1168,NULL,NULL);
INSERT INTO "spool_progress" VALUES(1,1,0,1176,NULL,NULL);
INSERT INTO "spool_progress" VALUES(1,2,0,264,NULL,NULL);
INSERT INTO "spool_progress" VALUES(2,0,0,1168,NULL,NULL);
INSERT INTO "spool_progress" VALUES(2,1,0,1176,NULL,NULL);
INSERT INTO "spool_progress" VALUES(2,2,0,264,NULL,NULL);
CREATE TABLE stream (
    stream_id  INTEGER PRIMARY KEY,
    process_id INTEGER NOT NULL REFERENCES process,
    handle     INTEGER NOT NULL, -- cudaStream_t; 0 is the default stream
    UNIQUE (process_id, handle)
);
INSERT INTO "stream" VALUES(1,1,7);
INSERT INTO "stream" VALUES(2,1,8);
INSERT INTO "stream" VALUES(3,2,7);
INSERT INTO "stream" VALUES(4,2,8);
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
CREATE TABLE tap_count (
    process_id INTEGER NOT NULL REFERENCES process,
    outcome    TEXT NOT NULL,
    buffers    INTEGER NOT NULL,
    bytes      INTEGER NOT NULL,
    PRIMARY KEY (process_id, outcome)
) WITHOUT ROWID;
CREATE TABLE thread (
    process_id INTEGER NOT NULL REFERENCES process,
    stream     INTEGER NOT NULL, -- the spool stream it wrote: names the thread within the process
    tid        INTEGER NOT NULL, -- as the process itself sees it; reused by the system
    name       TEXT,
    PRIMARY KEY (process_id, stream)
) WITHOUT ROWID;
INSERT INTO "thread" VALUES(1,1,100,'python3');
INSERT INTO "thread" VALUES(1,2,101,'autograd');
INSERT INTO "thread" VALUES(2,1,100,'python3');
INSERT INTO "thread" VALUES(2,2,101,'autograd');
CREATE TABLE time_source (source INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
INSERT INTO "time_source" VALUES(1,'events');
INSERT INTO "time_source" VALUES(2,'cupti');
INSERT INTO "time_source" VALUES(3,'synth');
CREATE TABLE timing (
    process_id INTEGER NOT NULL REFERENCES process,
    ns         INTEGER NOT NULL,
    tier       TEXT NOT NULL,
    why        TEXT NOT NULL -- asked, auto, max_connections, no_driver, no_cupti, foreign_cupti, handed_over, given_back
);
CREATE TABLE untimed (
    process_id INTEGER NOT NULL REFERENCES process,
    reason     TEXT NOT NULL, -- sampled_out, captured, nonblocking, …: docs/time-tiers.md
    launches   INTEGER NOT NULL,
    PRIMARY KEY (process_id, reason)
) WITHOUT ROWID;
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
INSERT INTO "vector" VALUES(1,4,9,4,1,1,0,0,X'03010401',NULL);
INSERT INTO "vector" VALUES(2,4,22,9,1,1,0,0,X'05090206',NULL);
INSERT INTO "vector" VALUES(3,4,4,1,1,0,0,0,X'01',NULL);
INSERT INTO "vector" VALUES(4,1,1,1,1,0,1,0,X'01',X'01');
INSERT INTO "vector" VALUES(5,3,11,6,1,1,1,1,X'050600',X'010100');
INSERT INTO "vector" VALUES(6,1,1,1,1,0,1,0,X'01',X'03');
INSERT INTO "vector" VALUES(7,4,22,9,1,1,0,0,X'09020605',NULL);
INSERT INTO "vector" VALUES(8,4,9,4,1,1,0,0,X'01040103',NULL);
CREATE INDEX exchange_by_member ON exchange(member_id, seq);
CREATE INDEX operation_by_member ON operation(member_id, seq);
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
CREATE VIEW edges AS
    SELECT e.exchange_id, m.rank AS src_rank, s.peer AS dst_rank, e.send_unit * s.size AS bytes,
           s.ordinal, m.comm_id, e.seq
    FROM exchange e JOIN member m USING (member_id) JOIN vector_cell s ON s.vector_id = e.send_vector;
CREATE VIEW recv_edges AS
    SELECT e.exchange_id, r.peer AS src_rank, m.rank AS dst_rank, e.recv_unit * r.size AS bytes,
           r.ordinal, m.comm_id, e.seq
    FROM exchange e JOIN member m USING (member_id) JOIN vector_cell r ON r.vector_id = e.recv_vector;
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
CREATE VIEW exchange_matrix AS
    SELECT comm_id, seq, src_rank, dst_rank, sum(bytes) AS bytes, count(*) AS sends
    FROM edges GROUP BY comm_id, seq, src_rank, dst_rank;
CREATE VIEW rank_load AS
    SELECT e.exchange_id, m.comm_id, e.seq, m.rank,
           coalesce(e.send_unit * s.total, 0) AS send_bytes,
           coalesce(e.recv_unit * r.total, 0) AS recv_bytes,
           coalesce(s.cells, 0) AS sends, coalesce(r.cells, 0) AS recvs
    FROM exchange e JOIN member m USING (member_id)
    LEFT JOIN vector s ON s.vector_id = e.send_vector
    LEFT JOIN vector r ON r.vector_id = e.recv_vector;
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
CREATE VIEW exchange_range AS
    WITH RECURSIVE up(exchange_id, range_id) AS (
        SELECT e.exchange_id, (SELECT c.range_id FROM nvtx_change c WHERE c.process_id = m.process_id
                               AND c.thread = e.thread AND c.from_group <= e.group_seq
                               ORDER BY c.from_group DESC LIMIT 1)
        FROM exchange e JOIN member m USING (member_id)
        UNION ALL
        SELECT u.exchange_id, r.parent_id FROM up u JOIN nvtx_range r USING (range_id))
    SELECT u.exchange_id, r.depth, r.domain, r.text, r.range_id FROM up u JOIN nvtx_range r USING (range_id);
CREATE VIEW operation_range AS
    WITH RECURSIVE up(operation_id, range_id) AS (
        SELECT o.operation_id, (SELECT c.range_id FROM nvtx_change c WHERE c.process_id = m.process_id
                                AND c.thread = o.thread AND c.from_group <= o.group_seq
                                ORDER BY c.from_group DESC LIMIT 1)
        FROM operation o JOIN member m USING (member_id)
        UNION ALL
        SELECT u.operation_id, r.parent_id FROM up u JOIN nvtx_range r USING (range_id))
    SELECT u.operation_id, r.depth, r.domain, r.text, r.range_id FROM up u JOIN nvtx_range r USING (range_id);
CREATE VIEW exchange_device_time AS
    SELECT e.exchange_id, m.comm_id, e.seq, m.rank, t.launch_id, s.name AS source, t.start_ns, t.end_ns,
           t.end_ns - t.start_ns AS duration_ns, t.error_ns
    FROM exchange e JOIN member m USING (member_id)
    LEFT JOIN device_time t ON t.member_id = e.member_id AND t.thread = e.thread AND t.group_seq = e.group_seq
    LEFT JOIN time_source s ON s.source = t.source;
CREATE VIEW unequal_communicator AS
    SELECT DISTINCT m.comm_id
    FROM exchange e JOIN member m USING (member_id) JOIN communicator c USING (comm_id)
    LEFT JOIN vector s ON s.vector_id = e.send_vector
    LEFT JOIN vector r ON r.vector_id = e.recv_vector
    WHERE s.cells IS NOT c.ranks OR r.cells IS NOT c.ranks OR s.peers IS NOT NULL OR r.peers IS NOT NULL;
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
CREATE VIEW exchange_axis AS
    SELECT t.comm_id, t.seq, t.run, t.rank, t.exchange_id, t.launch_id, f.reference, f.residual_ns,
           t.arrival_ns + f.offset_ns + CAST(round(f.drift_ppb * 1e-9 * (t.arrival_ns - f.at_ns)) AS INTEGER)
               AS arrival_axis_ns,
           t.end_ns + f.offset_ns + CAST(round(f.drift_ppb * 1e-9 * (t.end_ns - f.at_ns)) AS INTEGER) AS end_axis_ns
    FROM exchange_time t JOIN exchange e USING (exchange_id) JOIN member m USING (member_id)
    JOIN clock_fit f USING (process_id);
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
CREATE VIEW backend_time AS
    SELECT k.process_id, p.world_rank, k.device, n.backend, n.does, k.start_ns, k.end_ns, k.end_ns - k.start_ns AS duration_ns,
           k.kernels, n.name
    FROM kernel k JOIN kernel_name n USING (process_id, name_id) JOIN process p USING (process_id)
    WHERE n.backend IS NOT NULL AND n.backend <> 'NCCL' AND n.does NOT IN ('permute', 'experts', 'other');
CREATE VIEW backend_call_total AS
    SELECT c.process_id, p.world_rank, c.backend, c.does, c.function, c.calls, coalesce(b.rows, 0) AS rows, b.first_ns, b.last_ns
    FROM backend_call_count c JOIN process p USING (process_id)
    LEFT JOIN (SELECT process_id, function, count(*) AS rows, min(start_ns) AS first_ns, max(start_ns) AS last_ns
               FROM backend_call GROUP BY 1, 2) b USING (process_id, function);
CREATE VIEW routing_cell AS
    SELECT r.routing_id, r.exchange_id, r.comm_id, r.source_rank, r.step, r.layer, r.microbatch, r.stage, r.request,
           v.peer AS expert, r.unit * v.size AS tokens
    FROM routing r JOIN vector_cell v ON v.vector_id = r.counts;
CREATE VIEW coverage AS
    SELECT p.process_id, p.world_rank, p.returned_groups, p.stored_groups,
           coalesce(sum(l.groups), 0) AS lost_groups,
           p.returned_groups - p.stored_groups - coalesce(sum(l.groups), 0) AS missing_groups,
           coalesce(sum(l.exchanges), 0) AS lost_exchanges
    FROM process p LEFT JOIN loss l USING (process_id) GROUP BY p.process_id;
CREATE VIEW callsite_text AS
    SELECT site_id, group_concat(name, ' < ') AS stack
    FROM (SELECT f.site_id, coalesce(f.symbol,
                 replace(m.path, rtrim(m.path, replace(m.path, '/', '')), '') || printf('+0x%x', f.address - m.base),
                 printf('0x%x', f.address)) AS name
          FROM frame f LEFT JOIN module m USING (module_id) ORDER BY f.site_id, f.depth)
    GROUP BY site_id;
COMMIT;
