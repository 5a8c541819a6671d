# SPDX-License-Identifier: Apache-2.0
"""What a workload run must have asked of NCCL, computed from its routing and placement alone.

calls(job) gives, for every world rank, its calls in order. This is written from docs/workload.md and
from what the frameworks do; it shares no code with the workload and reads nothing that it printed.
"""
import math
from dataclasses import dataclass, field

import routings

INT8, UINT8, INT32, INT64, FP16, FP32, BF16, E4M3, E5M2 = 0, 1, 2, 4, 6, 7, 9, 10, 11
SIZE = {INT8: 1, UINT8: 1, INT32: 4, INT64: 8, FP16: 2, FP32: 4, BF16: 2, E4M3: 1, E5M2: 1}
DTYPES = {"fp32": (FP32, FP32), "fp16": (FP16, FP16), "bf16": (BF16, BF16), "fp8": (UINT8, BF16),
          "fp8e4m3": (E4M3, BF16), "fp8e5m2": (E5M2, BF16)}
BIAS = {"torchtitan": INT64, "vllm": INT32}


@dataclass
class Job:
    """The options of a run, by their names on the command line."""
    pattern: str = "megatron"
    ranks: int = 8
    ep_groups: int = 1
    experts: int = 8
    topk: int = 2
    layers: int = 2
    hidden: int = 64
    dtype: str = "bf16"
    tokens: int = 64
    tokens_spread: float = 0.0
    steps: int = 1
    micro_batches: int = 1
    seed: int = 1
    routing: str = "uniform"
    npy_axes: str = ""
    counts_select: str = ""
    placement: dict = None  # {(layer, expert): rank of the EP group}; None: contiguous
    train: bool = True
    recompute: str = "none"
    schedule: str = "1f1b"
    pp_stages: int = 1
    pp_stage: int = 0
    pp_chunks: int = 1
    capacity_factor: float = 1.25
    sequence_parallel: bool = False
    pipeline_p2p: bool = False
    bias_allreduce: bool = False
    graph: int = 0
    gatherv: str = "always"
    alltoall: str = "native"
    serve: str = ""

    def stage(self, step):
        """prefill, decode or mixed; None unless the job serves (docs/workload.md)."""
        every, _, mixed = ([int(n) for n in self.serve.split(":")] + [0])[:3] if self.serve else (0, 0, 0)
        if not every:
            return None
        if step % every == 0:
            return "prefill"
        return "mixed" if mixed and step % every == 1 and step // every % mixed == 0 else "decode"

    def tokens_of(self, block, rank):
        """Tokens of synthetic routing."""
        step = block // self.micro_batches
        stage = self.stage(step)
        if stage in (None, "mixed"):
            return self.tokens - int(self.tokens_spread * self.tokens * rank / self.ranks)
        every, decode = (int(n) for n in self.serve.split(":")[:2])
        if stage == "prefill":
            return self.tokens - (1 + step // every * 13 + rank * 7) % (self.tokens // 2 + 1)
        return decode - (step // every + rank) % (decode // 4 + 1)

    @property
    def ep(self):
        return self.ranks // self.ep_groups


@dataclass
class Call:
    """One outermost group, or one call outside a group, of one rank."""
    comm: str
    role: str
    op: str                   # sendrecv, empty, collectives, or the NCCL function
    datatype: int = 0
    count: int = None         # elements, but for sendrecv
    sends: list = None        # (peer, bytes) in order, for sendrecv and ncclAlltoAll
    recvs: list = None
    calls: list = None        # [function, count, datatype, root] of a group of collectives
    expert_tokens: list = None
    local_expert: int = None
    where: dict = field(default_factory=dict)


class Layer:
    """The routing of one layer for one EP group: counts[source][physical expert]."""

    def __init__(self, job, routing, group, block, layer):
        self.job, self.g = job, job.experts // job.ep
        self.physical = physical_ids(job, layer)
        self.ids = [routing.ids(block, layer, group * job.ep + s) for s in range(job.ep)]
        self.logical = [[0] * job.experts for _ in range(job.ep)]
        for s, tokens in enumerate(self.ids):
            for token in tokens:
                for e in token:
                    self.logical[s][e] += 1
        self.counts = [[0] * job.experts for _ in range(job.ep)]
        for s in range(job.ep):
            for e, n in enumerate(self.logical[s]):
                self.counts[s][self.physical[e]] = n

    def rows(self, source, holder):
        return sum(self.counts[source][holder * self.g:(holder + 1) * self.g])


def physical_ids(job, layer):
    """Logical to physical id: rank by rank, ascending within a rank."""
    if job.placement is None:
        return list(range(job.experts))
    order = sorted(range(job.experts), key=lambda e: (job.placement[layer, e], e))
    return [order.index(e) for e in range(job.experts)]


def p2p(comm, role, datatype, sends, recvs, **more):
    return Call(comm, role, "sendrecv" if sends or recvs else "empty", datatype, None, sends, recvs,
                **more)


class Pattern:
    """The calls of one rank for one layer. `me` is its rank in the EP group."""

    def __init__(self, job):
        self.job, self.n = job, job.ep
        self.payload, self.result = DTYPES[job.dtype]
        self.row = job.hidden * SIZE[self.payload]
        self.back = job.hidden * SIZE[self.result]

    def uniform(self, comm, role, datatype, count):
        """ncclAlltoAll of `count` elements a peer, or the group that stands for it."""
        cells = [(p, count * SIZE[datatype]) for p in range(self.n)]
        if self.job.alltoall == "sendrecv":
            return p2p(comm, role, datatype, cells, list(cells))
        return Call(comm, role, "ncclAlltoAll", datatype, count, cells, list(cells))

    def rows(self, layer, me, role, to_expert, unit, datatype):
        out = [(p, layer.rows(me, p) * unit) for p in range(self.n)]
        held = [(p, layer.rows(p, me) * unit) for p in range(self.n)]
        return p2p("ep", role, datatype, out if to_expert else held, held if to_expert else out)

    def backward(self, layer, me):
        raise NotImplementedError


class Variable(Pattern):
    """Counts, then exactly that many rows."""
    probs = False
    as_bytes = False

    def count(self, layer, me):
        raise NotImplementedError

    def type(self, datatype):
        return INT8 if self.as_bytes else datatype

    def forward(self, layer, me):
        out = self.count(layer, me)
        out.append(self.rows(layer, me, "dispatch", True, self.row, self.type(self.payload)))
        if self.probs:
            out.append(self.rows(layer, me, "dispatch_probs", True, 4, self.type(FP32)))
        out.append(self.rows(layer, me, "combine", False, self.back, self.type(self.result)))
        return out

    def backward(self, layer, me):
        out = [self.rows(layer, me, "combine_bwd", True, self.back, self.type(self.result))]
        if self.probs:
            out.append(self.rows(layer, me, "probs_bwd", False, 4, self.type(FP32)))
        out.append(self.rows(layer, me, "dispatch_bwd", False, self.back, self.type(self.result)))
        return out


class Megatron(Variable):
    probs = True

    def count(self, layer, me):
        return [Call("tp_ep", "count", "ncclAllGather", INT64, self.job.experts)]


class Torchtitan(Variable):
    def count(self, layer, me):
        cells = [(p, layer.g * 8) for p in range(self.n)]
        return [p2p("ep", "count", INT64, cells, list(cells))]


class AutoEp(Variable):
    def count(self, layer, me):
        return [self.uniform("ep", "count", INT32, layer.g)]


class ColossalAi(Variable):
    def count(self, layer, me):
        out = [self.uniform("ep", "count", INT64, layer.g)]
        if self.job.ep_groups > 1:
            out.append(Call("moe_dp", "activate", "ncclAllReduce", FP32, layer.g))
        return out


class Tutel(Variable):
    probs, as_bytes = True, True

    def count(self, layer, me):
        return [self.uniform("ep", "count", INT64, 1)]


class FastMoe(Pattern):
    def groups(self, layer, me, role, to_expert, unit):
        out = []
        for i in range(layer.g):
            own = [(p, layer.counts[me][p * layer.g + i] * unit) for p in range(self.n)]
            held = [(p, layer.counts[p][me * layer.g + i] * unit) for p in range(self.n)]
            own, held = ([c for c in cells if c[1]] for cells in (own, held))
            out.append(p2p("ep", role, INT8, own if to_expert else held, held if to_expert else own,
                           local_expert=i))
        return out

    def forward(self, layer, me):
        cells = [(p, layer.g * 8) for p in range(self.n)]
        return ([p2p("ep", "count", INT64, cells, list(cells))] +
                self.groups(layer, me, "dispatch", True, self.row) +
                self.groups(layer, me, "combine", False, self.back))

    def backward(self, layer, me):
        return (self.groups(layer, me, "combine_bwd", True, self.back) +
                self.groups(layer, me, "dispatch_bwd", False, self.back))


class XlaRagged(Pattern):
    def ragged(self, layer, me, role, to_expert, unit, datatype):
        cells = [(p, layer.g * 8) for p in range(self.n)]
        order = [(i, p) for i in range(layer.g) for p in range(self.n)]
        own = [(p, layer.counts[me][p * layer.g + i] * unit) for i, p in order]
        held = [(p, layer.counts[p][me * layer.g + i] * unit) for i, p in order]
        return [p2p("ep", "offsets", INT64, cells, list(cells)),
                p2p("ep", role, datatype, own if to_expert else held, held if to_expert else own)]

    def forward(self, layer, me):
        return ([Call("ep", "count", "ncclAllGather", INT32, self.job.experts)] +
                self.ragged(layer, me, "dispatch", True, self.row, self.payload) +
                self.ragged(layer, me, "combine", False, self.back, self.result))

    def backward(self, layer, me):
        return (self.ragged(layer, me, "combine_bwd", True, self.back, self.result) +
                self.ragged(layer, me, "dispatch_bwd", False, self.back, self.result))


class Padded(Pattern):
    def capacity(self, layer, me):
        raise NotImplementedError

    def padded(self, layer, me, role, datatype):
        return self.uniform("ep", role, datatype, layer.g * self.capacity(layer, me) * self.job.hidden)

    def forward(self, layer, me):
        return [self.padded(layer, me, "dispatch", self.payload),
                self.padded(layer, me, "combine", self.result)]

    def backward(self, layer, me):
        return [self.padded(layer, me, "combine_bwd", self.result),
                self.padded(layer, me, "dispatch_bwd", self.result)]


class DeepSpeed(Padded):
    def capacity(self, layer, me):
        job = self.job
        return max(4, math.ceil(len(layer.ids[me]) / job.experts * (job.capacity_factor * job.topk)))


class TutelPadded(Padded):
    def capacity(self, layer, me):
        job = self.job
        return max(1, job.topk * int(job.capacity_factor * -(-len(layer.ids[me]) // job.experts)))


class DeepSpeedNoDrop(Padded):
    def capacity(self, layer, me):
        return max(max(counts) for counts in layer.counts)

    def forward(self, layer, me):
        return [Call("ep", "capacity", "ncclAllReduce", INT64, 1)] + super().forward(layer, me)


class Vllm(Pattern):
    def forward(self, layer, me):
        tokens, k = [len(t) for t in layer.ids], self.job.topk
        sizes = self.job.gatherv == "always" or len(set(tokens)) > 1
        widths = [(self.payload, self.job.hidden), (FP32, k), (INT32, k)]
        if not sizes:
            count = tokens[0] * self.job.hidden
            gathers = [["ncclAllGather", tokens[0] * w, t, 0] for t, w in widths]
            back = Call("ep", "combine", "ncclReduceScatter", self.result, count)
        else:
            gathers = [["ncclBroadcast", n * w, t, root]
                       for t, w in widths for root, n in enumerate(tokens)]
            reduces = [["ncclReduce", n * self.job.hidden, self.result, root]
                       for root, n in enumerate(tokens)]
            back = Call("ep", "combine", "collectives", self.result, reduces[0][1], calls=reduces)
        return [Call("ep", "dispatch", "collectives", self.payload, gathers[0][1], calls=gathers), back]


PATTERNS = {"megatron": Megatron, "torchtitan": Torchtitan, "autoep": AutoEp, "colossalai": ColossalAi,
            "tutel": Tutel, "fastmoe": FastMoe, "xla-ragged": XlaRagged, "deepspeed": DeepSpeed,
            "deepspeed-nodrop": DeepSpeedNoDrop, "tutel-padded": TutelPadded, "vllm": Vllm}
STATIC = {"deepspeed", "tutel-padded", "vllm"}


def passes(job):
    """(is backward, micro-batch, layers) in the order of the schedule."""
    per_chunk = job.layers // job.pp_chunks
    total = job.micro_batches * job.pp_chunks
    p, v = job.pp_stages, job.pp_chunks

    def nth(n, backward):
        mb, chunk = n, 0
        if job.schedule == "interleaved":
            turn, within = divmod(n, p * v)
            mb, chunk = turn * p + within % p, within // p
            chunk = v - 1 - chunk if backward else chunk
        layers = range(chunk * per_chunk, (chunk + 1) * per_chunk)
        return backward, mb, list(reversed(layers)) if backward else list(layers)

    if not job.train:
        return [nth(n, False) for n in range(total)]
    behind = p - 1 - job.pp_stage
    ahead = {"gpipe": total, "1f1b": behind, "interleaved": 2 * behind + (v - 1) * p}[job.schedule]
    ahead = min(ahead, total)
    out = [nth(n, False) for n in range(ahead)]
    for n in range(total):
        if ahead + n < total:
            out.append(nth(ahead + n, False))
        out.append(nth(n, True))
    return out


class Run:
    """Lists the calls of every world rank."""

    def __init__(self, job):
        self.job, self.pattern = job, PATTERNS[job.pattern](job)
        self.routing = routings.make(job)
        self.out = [[] for _ in range(job.ranks)]
        self.cache = {}

    def layer(self, group, block, layer):
        key = group, block, layer
        if key not in self.cache:
            self.cache[key] = Layer(self.job, self.routing, group, block, layer)
        return self.cache[key]

    def add(self, rank, calls, **where):
        for call in calls:
            call.where = dict(where)
            self.out[rank].append(call)

    def sequence(self, **where):
        job, result = self.job, self.pattern.result
        if not job.sequence_parallel:
            return
        for rank in range(job.ranks):
            calls = [self.pattern.uniform("sp", "sequence", result, job.tokens * job.hidden // job.ep)
                     for _ in range(4)]
            self.add(rank, calls, **where)

    def pipeline(self, backward, **where):
        job, result = self.job, self.pattern.result
        if not job.pipeline_p2p:
            return
        size = job.ep_groups if job.ep_groups > 1 else job.ranks
        nbytes = job.tokens * job.hidden * SIZE[result]
        for rank in range(job.ranks):
            at = rank // job.ep if job.ep_groups > 1 else rank
            up, down = (at + 1) % size, (at - 1) % size
            to, source = (down, up) if backward else (up, down)
            self.add(rank, [p2p("pp", "pipeline", result, [(to, nbytes)], [(source, nbytes)])], **where)

    def one_way(self, kind, step, mb, layer, phase, captured):
        job = self.job
        where = dict(step=step, micro_batch=mb, layer=layer, phase=phase, captured=captured)
        if kind == "forward":
            self.sequence(**where)
        for rank in range(job.ranks):
            routed = self.layer(rank // job.ep, step * job.micro_batches + mb, layer)
            me = rank % job.ep
            calls = getattr(self.pattern, kind)(routed, me)
            for call in calls:
                first = call.local_expert in (None, 0)
                if first and call.role in ("count", "dispatch"):
                    call.expert_tokens = routed.logical[me]
            self.add(rank, calls, **where)
        if kind == "backward":
            self.sequence(**where)

    def recomputed(self, layer):
        return self.job.recompute == "full" or (self.job.recompute == "selective" and layer % 2 == 1)

    def one_pass(self, step, backward, mb, layers, captured=False):
        phase = "backward" if backward else "forward"
        self.pipeline(backward, step=step, micro_batch=mb, layer=layers[0], phase=phase,
                      captured=captured)
        for layer in layers:
            if backward and self.recomputed(layer):
                self.one_way("forward", step, mb, layer, "recompute", captured)
            self.one_way(phase, step, mb, layer, phase, captured)

    def bias(self, step):
        job = self.job
        datatype = BIAS.get(job.pattern, FP32)
        for rank in range(job.ranks if job.bias_allreduce else 0):
            call = Call("dp", "bias", "ncclAllReduce", datatype, job.layers * job.experts)
            self.add(rank, [call], step=step, micro_batch=0, layer=0, phase="backward", captured=False)

    def calls(self):
        job = self.job
        for step in range(job.steps):
            for backward, mb, layers in passes(job):
                self.one_pass(step, backward, mb, layers)
            self.bias(step)
            self.cache.clear()
        if job.graph:
            per_chunk = job.layers // job.pp_chunks
            for mb in range(job.micro_batches):
                for c in range(job.pp_chunks):
                    layers = list(range(c * per_chunk, (c + 1) * per_chunk))
                    self.one_pass(job.steps, False, mb, layers, captured=True)
        return self.out


def calls(job):
    return Run(job).calls()
