# SPDX-License-Identifier: Apache-2.0
"""The workload's routings, computed again from docs/workload.md.

Each routing has tokens(block, rank) and ids(block, layer, rank), which lists the K expert ids of every
token of a world rank in micro-batch `block` of the job.
"""
import csv

import npy

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def mix64(z):
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


class Rng:
    def __init__(self, seed, *key):
        self.state = mix64((seed + GOLDEN) & MASK)
        for k in key:
            self.state = mix64(self.state ^ ((k + GOLDEN) & MASK))

    def next(self):
        self.state = (self.state + GOLDEN) & MASK
        return mix64(self.state)

    def below(self, n):
        return (self.next() * n) >> 64


class NpyRouting:
    """Ids from an array whose axes are named by `axes`."""

    def __init__(self, job, path):
        self.job, self.array = job, npy.load(path)
        axes = job.npy_axes or {3: "layer,token,k", 4: "request,token,layer,k"}[len(self.array.shape)]
        self.axes = axes.split(",")
        self.size = dict(zip(self.axes, self.array.shape))
        self.stride = dict(zip(self.axes, self.array.strides))

    def share(self, n, rank):
        return range(n * rank // self.job.ranks, n * (rank + 1) // self.job.ranks)

    def places(self, block, rank):
        """(request, token) of every token, in the order of the rank's micro-batch."""
        t = self.job.tokens
        if "request" in self.size:
            own = self.share(self.size["request"], rank)
            return [(q, p) for p in range(block * t, (block + 1) * t) for q in own]
        first = self.share(self.size["token"], rank).start + block * t
        return [(0, p) for p in range(first, first + t)]

    def ids(self, block, layer, rank):
        values, stride, k = self.array.values, self.stride, self.stride["k"]
        firsts = [q * stride.get("request", 0) + p * stride["token"] + layer * stride.get("layer", 0)
                  for q, p in self.places(block, rank)]
        return [list(values[at:at + k * self.size["k"]:k]) for at in firsts]


class Synthetic:
    """uniform, balanced, zipf:S, hot-expert:P, hot-rank:P, bursts:P:PERIOD:LENGTH."""

    def __init__(self, job, kind, arg):
        self.job, self.kind = job, kind
        self.order = []
        for layer in range(job.layers):
            rng, order = Rng(job.seed, 0x7065726D, layer), list(range(job.experts))
            for i in range(job.experts - 1, 0, -1):
                j = rng.below(i + 1)
                order[i], order[j] = order[j], order[i]
            self.order.append(order)
        self.hot_below, self.period, self.length = 0, 0, 0
        values = [float(v) for v in arg.split(":")] if arg else []
        if kind == "bursts":
            p, self.period, self.length = (values + [0.5, 8, 2][len(values):])[:3]
            self.hot_below = int(p * 2 ** 53)
        elif kind == "hot-expert":
            self.hot_below = int(values[0] * 2 ** 53)
        self.weights = [self.weigh(layer, values) for layer in range(job.layers)]

    def weigh(self, layer, values):
        job = self.job
        if self.kind == "zipf":
            weights = [0] * job.experts
            for i, e in enumerate(self.order[layer]):
                weights[e] = max(1, int(2.0 ** 32 * (i + 1.0) ** -values[0]))
            return weights
        if self.kind == "hot-rank":
            ep = job.ranks // job.ep_groups
            g = job.experts // ep
            hot = range(job.seed % ep * g, job.seed % ep * g + g)
            cold = job.experts - g
            weight = {True: max(1, int(2.0 ** 32 * values[0] / g)),
                      False: max(1, int(2.0 ** 32 * (1 - values[0]) / cold)) if cold else 1}
            return [weight[e in hot] for e in range(job.experts)]
        return None

    def draw(self, layer, rng):
        weights = self.weights[layer]
        if weights is None:
            return rng.below(self.job.experts)
        u = rng.below(sum(weights))
        for e, w in enumerate(weights):
            if u < w:
                return e
            u -= w
        raise AssertionError("a draw beyond the weights")

    def hot(self, block, layer):
        if not self.hot_below:
            return -1
        if not self.period:
            return self.order[layer][0]
        step = block // self.job.micro_batches
        if step % int(self.period) >= int(self.length):
            return -1
        return self.order[layer][step // int(self.period) % self.job.experts]

    def token(self, block, layer, rank, t):
        if self.kind == "balanced":
            return [(t * self.job.topk + k) % self.job.experts for k in range(self.job.topk)]
        job, rng = self.job, Rng(self.job.seed, block, layer, rank, t)
        ids, hot = [], self.hot(block, layer)
        if hot >= 0:
            take = rng.next() >> 11 < self.hot_below
            if take or job.topk == job.experts:
                ids.append(hot)
        while len(ids) < job.topk:
            expert, redraws = self.draw(layer, rng), 0
            while (expert in ids or expert == hot) and redraws < 64:
                expert, redraws = self.draw(layer, rng), redraws + 1
            while expert in ids or expert == hot:
                expert = (expert + 1) % job.experts
            ids.append(expert)
        return ids

    def ids(self, block, layer, rank):
        job = self.job
        return [self.token(block, layer, rank, t) for t in range(job.tokens_of(block, rank))]


class Counts:
    """Exactly the counts of a CSV file, once all tokens are used."""

    def __init__(self, job, path):
        self.job = job
        select = dict(p.split("=") for p in job.counts_select.split(",")) if job.counts_select else {}
        table = {}
        with open(path, newline="", encoding="utf-8") as f:
            for row in csv.DictReader(f):
                if all(row[k] == v for k, v in select.items()):
                    table.setdefault(int(row["layer"]), {})[int(row["expert"])] = int(row["count"])
        self.counts = [[table[l][e] for e in sorted(table[l])] for l in sorted(table)]
        self.total = sum(self.counts[0]) // job.topk
        self.layers = [self.arrange(l) for l in range(len(self.counts))]

    def shuffle(self, n, *key):
        rng, out = Rng(self.job.seed, *key), [0] * n
        for i in range(n):
            j = rng.below(i + 1)
            out[i] = out[j]
            out[j] = i
        return out

    def arrange(self, layer):
        counts = self.counts[layer]
        order = self.shuffle(len(counts), 0x65787074, layer)
        places = [e for e in order for _ in range(counts[e])]
        return places, self.shuffle(self.total, 0x746F6B6E, layer)

    def ids(self, block, layer, rank):
        low, high = (self.total * r // self.job.ranks for r in (rank, rank + 1))
        first = low + block * self.job.tokens
        places, permuted = self.layers[layer]
        return [[places[permuted[t] + k * self.total] for k in range(self.job.topk)]
                for t in range(first, min(high, first + self.job.tokens))]


def make(job):
    kind, _, arg = job.routing.partition(":")
    if kind == "npy":
        return NpyRouting(job, arg)
    if kind == "counts":
        return Counts(job, arg)
    return Synthetic(job, kind, arg)
