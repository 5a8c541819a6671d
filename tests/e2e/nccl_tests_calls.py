# SPDX-License-Identifier: Apache-2.0
"""Which NCCL calls a run of nccl-tests makes, from its arguments alone.

Read from nccl-tests 2.19.6 (common.cu: TimeTest, BenchTime, startColl; alltoall.cu, alltoallv.cu,
sendrecv.cu). With -c 0 a rank calls, for each data type:

  warm-up     for size = -b, doubled up to -e: -w times the collective
  benchmark   for each size of the sweep, twice (out of place, in place): the collective once, then
              -n times -m collectives; with -G these are captured, and the graph is launched -G times

Several collectives (-m) and several GPUs of one thread (-g) share one outermost group.
"""
from dataclasses import dataclass, field

# name: (ncclDataType_t, bytes), in the order in which `-d all` runs them
TYPES = {"int8": (0, 1), "uint8": (1, 1), "int32": (2, 4), "uint32": (3, 4), "int64": (4, 8),
         "uint64": (5, 8), "half": (6, 2), "float": (7, 4), "double": (8, 8), "bfloat16": (9, 2),
         "f8e4m3": (10, 1), "f8e5m2": (11, 1)}


@dataclass
class Run:
    """The arguments of one run."""
    program: str  # alltoall, sendrecv, alltoallv
    procs: int = 1
    threads: int = 1
    gpus: int = 1
    low: int = 1024
    high: int = 65536
    factor: int = 4
    iters: int = 3
    warmup: int = 1
    agg: int = 1
    graph: int = 0
    dtype: str = "float"
    old_nccl: bool = False  # before 2.28: no ncclAlltoAll
    matrix: list = None     # alltoallv only: bytes from row to column
    extra: list = field(default_factory=list)

    @property
    def ranks(self):
        return self.procs * self.threads * self.gpus

    def arguments(self):
        return ["-c", "0", "-t", str(self.threads), "-g", str(self.gpus), "-b", str(self.low),
                "-e", str(self.high), "-f", str(self.factor), "-n", str(self.iters), "-w", str(self.warmup),
                "-m", str(self.agg), "-G", str(self.graph), "-d", self.dtype, *self.extra]

    def types(self):
        return list(TYPES) if self.dtype == "all" else [self.dtype]


@dataclass
class Exchange:
    """One exchange of one rank: cells of (peer, bytes) in the order of the calls."""
    op: str
    dtype: int
    sends: list
    recvs: list
    graph: int = None  # ordinal of the capture it belongs to
    group: int = 0     # ordinal of the outermost group, over all of the thread's calls


def sizes(run, step):
    size = run.low
    while size <= run.high:
        yield size
        size *= step


def alltoallv_bytes(run, src, dst, total):
    """Without a matrix: the more, the further away, as the program works it out in double."""
    if run.matrix is not None:
        return int(run.matrix[src][dst]) & ~15
    if run.ranks == 1:
        return total & ~15
    distance = (dst - src) % run.ranks
    return int(float(distance) * float(total) / float(run.ranks * (run.ranks - 1) // 2)) & ~15


def collective(run, rank, size, name):
    """One call of the test's collective by one rank: (op, sends, receives)."""
    n, (_, width) = run.ranks, TYPES[name]
    if run.program == "sendrecv":
        nbytes = size // width * width
        return "sendrecv", [((rank + 1) % n, nbytes)], [((rank - 1) % n, nbytes)]
    count = (size // width // n) & ~(16 // width - 1)
    if run.program == "alltoall":
        cells = [(r, count * width) for r in range(n)]
        return "sendrecv" if run.old_nccl else "alltoall", cells, list(cells)
    total = count * n * width
    sends = [(r, alltoallv_bytes(run, rank, r, total)) for r in range(n)]
    recvs = [(r, alltoallv_bytes(run, r, rank, total)) for r in range(n)]
    return ("sendrecv", [(r, b // width * width) for r, b in sends if b >= width],
            [(r, b // width * width) for r, b in recvs if b >= width])


class Recorder:
    """Collects what one rank does, group by group."""

    def __init__(self):
        self.exchanges, self.groups, self.graphs = [], 0, 0

    def group(self, calls, graph=None):
        """Several collectives in one outermost group. Sends and receives of a communicator are one
        exchange, each ncclAlltoAll is one of its own."""
        merged = None
        for op, dtype, sends, recvs in calls:
            if not sends and not recvs:
                continue
            if op == "sendrecv" and merged:
                merged.sends += sends
                merged.recvs += recvs
                continue
            made = Exchange(op, dtype, list(sends), list(recvs), graph, self.groups)
            merged = made if op == "sendrecv" else None
            self.exchanges.append(made)
        self.groups += 1


def expected(run, rank):
    """The exchanges of one rank in order, and the number of captures."""
    out = Recorder()
    for name in run.types():
        dtype = TYPES[name][0]

        def calls(size, count=1):
            op, sends, recvs = collective(run, rank, size, name)
            return [(op, dtype, sends, recvs)] * count

        for size in sizes(run, 2):
            for _ in range(run.warmup):
                out.group(calls(size))
        for size in sizes(run, run.factor):
            for _ in ("out of place", "in place"):
                out.group(calls(size))
                graph = out.graphs if run.graph else None
                for _ in range(run.iters):
                    out.group(calls(size, run.agg), graph)
                out.graphs += 1 if run.graph else 0
    return out.exchanges, out.graphs
