# SPDX-License-Identifier: Apache-2.0
"""Compares saved labels of a trace with the workload's truth: what was told must be right, and what is demanded
must have been told."""
import collections
import json

from trace_check import Trace, comms_of

EXCHANGES = ("sendrecv", "ncclAlltoAll")
COUNTS = ("count", "capacity")
AGAIN = {"dispatch": "dispatch_recompute", "combine": "combine_recompute", "probs": "probs_recompute"}
FIELDS = ("role", "layer", "step", "microbatch")


def role_of(line):
    role = {"dispatch_probs": "probs", "offsets": "other"}.get(line["role"], line["role"])
    if role in COUNTS:
        return "count"
    return AGAIN.get(role, role) if line["phase"] == "recompute" else role


class Line:
    """What is true of one exchange or operation."""

    def __init__(self, line):
        self.role = role_of(line)
        self.layer, self.step, self.microbatch = line["layer"], line["step"], line["micro_batch"]
        self.phase, self.captured = line["phase"], line.get("captured", False)
        self.expert = line.get("local_expert")
        self.stage, self.ranges = line.get("stage"), line.get("nvtx", [])
        self.of_layer = self.role not in ("pipeline", "sequence", "other", "bias", "activate")
        self.text = f"{line['role']} ({line['phase']}) of step {self.step}, micro-batch {self.microbatch}, layer {self.layer}"


def read_truth(path):
    """{(rank, communicator, is an exchange): [line, …]} in the order of the calls."""
    lines = collections.defaultdict(list)
    comms = set()
    with open(path, encoding="utf-8") as f:
        for text in f:
            line = json.loads(text)
            if line["op"] in ("empty", "cudaGraphLaunch"):
                continue
            comms.add(line["comm"])
            exchange = line["op"] in EXCHANGES
            for _ in range(1 if exchange else len(line.get("calls", [0]))):
                lines[line["rank"], line["comm"], exchange].append(Line(line))
    return lines, comms


def labels_of(trace, table, key, member, extra=""):
    return trace.db.execute(
        f"SELECT e.{key}, l.role, l.layer, l.step, l.microbatch, l.stage, l.token_bytes, l.pair_id, l.confidence, l.flags"
        f" FROM {table} e LEFT JOIN {table}_label l USING ({key}) WHERE e.member_id = ? ORDER BY e.seq", (member,)).fetchall()


def ranges_of(trace, table, key, member):
    """NVTX ranges of each exchange or operation, outermost first."""
    found = collections.defaultdict(list)
    for ident, text in trace.db.execute(f"SELECT r.{key}, r.text FROM {table}_range r JOIN {table} e USING ({key})"
                                        " WHERE e.member_id = ? ORDER BY 1, r.depth", (member,)):
        found[ident].append(text)
    return found


class Comparison:
    def __init__(self):
        self.wrong = []
        self.told = collections.Counter()   # (role, field): how many were told
        self.total = collections.Counter()
        self.by_id = {}                     # exchange_id: Line
        self.pairs = []
        self.token_bytes = collections.defaultdict(set)
        self.stages = collections.Counter()
        self.confidences = collections.defaultdict(set)
        self.flags = collections.defaultdict(set)

    def add(self, line, row, who, exchange):
        ident, role, layer, step, microbatch, stage, token_bytes, pair, confidence, flags = row
        if exchange:
            self.by_id[ident] = line
            if pair is not None:
                self.pairs.append((ident, pair))
        told = dict(zip(FIELDS, (role, layer, step, microbatch)))
        for field in FIELDS:
            if field != "role" and not line.of_layer:
                continue
            self.total[line.role, field] += 1
            if told[field] is None:
                continue
            self.told[line.role, field] += 1
            if told[field] != getattr(line, field):
                self.wrong.append(f"{who}, {ident}: {field} {told[field]} instead of {getattr(line, field)}: {line.text}")
        if role and not 0 < confidence <= 1:
            self.wrong.append(f"{who}, {ident}: confidence {confidence}")
        if token_bytes is not None:
            self.token_bytes[line.role].add(token_bytes)
        self.stages[stage] += 1
        if line.stage and line.of_layer:
            self.total[line.stage, "stage"] += 1
            self.told[line.stage, "stage"] += stage is not None
            if stage not in (None, line.stage):
                self.wrong.append(f"{who}, {ident}: stage {stage} instead of {line.stage}: {line.text}")
        if role:
            self.confidences[line.role].add(round(confidence, 3))
        self.flags[line.role].add(flags)

    def check_pairs(self):
        answer = {"dispatch": "combine", "dispatch_recompute": "combine_recompute", "combine_bwd": "dispatch_bwd"}
        answer.update({v: k for k, v in answer.items()})
        for a, b in self.pairs:
            x, y = self.by_id[a], self.by_id.get(b)
            if y is None or y.role != answer.get(x.role) or \
                    (x.step, x.layer, x.microbatch) != (y.step, y.layer, y.microbatch):
                self.wrong.append(f"pair {a} {b}: {x.text} with {y.text if y else 'nothing'}")

    def share(self, role, field):
        return self.told[role, field] / self.total[role, field] if self.total[role, field] else None

    def summary(self):
        roles = sorted({role for role, _ in self.total})
        return ", ".join(f"{role} " + "/".join(str(self.told[role, field]) for field in FIELDS) +
                         f" of {self.total[role, 'role']}" for role in roles)


def order_of_comms(job, comms, split):
    """Names of a rank's communicators in the order in which it made them."""
    class Call:
        def __init__(self, comm):
            self.comm = comm
    return comms_of(job, [[Call(c) for c in comms]], split)


def compare(path, truth, job, split=False, cut=False, lost=False, ranges=True):
    """`cut`: the trace may hold less than the truth, whose first calls are then meant; `lost`: any may be missing;
    `ranges`: those of NVTX are compared, too."""
    trace, result = Trace(path), Comparison()
    lines, comms = read_truth(truth)
    names = order_of_comms(job, comms, split)
    members = trace.members()
    for (rank, n), (member, *_rest) in sorted(members.items()):
        for table, key, exchange in (("exchange", "exchange_id", True), ("operation", "operation_id", False)):
            own = lines[rank, names[n], exchange]
            rows = labels_of(trace, table, key, member)
            if cut:
                own = own[:len(rows)]
            if lost:
                own = [own[seq] for seq, in trace.db.execute(f"SELECT seq FROM {table} WHERE member_id = ? ORDER BY seq", (member,))]
            if len(rows) != len(own):
                result.wrong.append(f"rank {rank}, {names[n]}: {len(rows)} {table}s, the truth has {len(own)}")
                continue
            found = ranges_of(trace, table, key, member)
            for line, row in zip(own, rows):
                result.add(line, row, f"rank {rank}, {names[n]}, {table}", exchange)
                if ranges and found.get(row[0], []) != line.ranges:
                    result.wrong.append(f"rank {rank}, {names[n]}, {table} {row[0]}: in {found.get(row[0])} instead of "
                                        f"{line.ranges}: {line.text}")
    result.check_pairs()
    return result
