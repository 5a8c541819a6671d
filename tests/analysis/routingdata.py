# SPDX-License-Identifier: Apache-2.0
"""Traces with a routing table, made from the real data or from plain lists, for the tests of the router."""
import csv
import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "tests" / "cli"), str(ROOT / "tests" / "e2e")]

import npy
import tracegen

DATA = pathlib.Path(os.environ.get("SKEWSCOPE_TEST_DATA", ROOT.parent / "shared" / "data"))
SKIP = 77


def need_data():
    if not (DATA / "verified_metrics.csv").exists():
        print(f"skipped: no real data at {DATA} (set SKEWSCOPE_TEST_DATA)")
        sys.exit(SKIP)


class RoutingTrace(tracegen.Trace):
    """A trace with one communicator of `ranks` ranks (0: none) and rows of table routing."""

    def __init__(self, path, ranks=8, key="ab" * 8):
        super().__init__(path)
        self.comm_id = None
        if ranks:
            self.comm_id = self.comm(key, ranks, {0: self.process(0)})

    def counts(self, counts, layer=0, step=None, source=None, topk=None, tokens=None, request=None, microbatch=None,
               stage=None, verified=0, how="import test"):
        vector, unit = self.vector(list(enumerate(counts)))
        self.db.execute(
            "INSERT INTO routing (comm_id, source_rank, step, layer, microbatch, stage, request, experts, topk, tokens,"
            " counts, unit, verified, source) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (self.comm_id, source, step, layer, microbatch, stage, request, len(counts), topk, tokens, vector,
             unit or 1, verified, how))

    def place(self, layer, rank_of):
        """rank_of[slot] = (rank, expert)."""
        self.db.executemany("INSERT INTO placement VALUES (?, ?, ?, ?, ?)",
                            [(self.comm_id, layer, slot, rank, expert) for slot, (rank, expert) in enumerate(rank_of)])


def verified():
    """(set, layer) → the row of verified_metrics.csv."""
    with open(DATA / "verified_metrics.csv", newline="") as f:
        return {(row["set"], int(row["layer"])): row for row in csv.DictReader(f)}


def counted_sets():
    """set → layer → counts, of the sets of which only counts exist."""
    sets = {}
    with open(DATA / "olmoe_mixtral_expert_counts.csv", newline="") as f:
        for row in csv.DictReader(f):
            layer = sets.setdefault(f"{row['model']}|{row['domain']}", {}).setdefault(int(row["layer"]), {})
            layer[int(row["expert"])] = int(row["count"])
    return {name: {layer: [counts.get(e, 0) for e in range(max(counts) + 1)] for layer, counts in layers.items()}
            for name, layers in sets.items()}


def gptoss(path, ranks=8, requests=False):
    """gpt-oss-20b: a call is one decode step of one layer; request q's tokens come from rank q % ranks."""
    ids = npy.load(DATA / "gptoss20b_decode_topk.npy")
    queries, steps, layers, k = ids.shape
    trace = RoutingTrace(path, ranks)
    values = ids.values
    for step in range(steps):
        for layer in range(layers):
            per_rank = [[0] * 32 for _ in range(ranks)]
            for q in range(queries):
                at = ((q * steps + step) * layers + layer) * k
                row = per_rank[q % ranks]
                for e in values[at:at + k]:
                    row[e] += 1
            for rank, row in enumerate(per_rank):
                trace.counts(row, layer, step, rank, topk=k, tokens=queries // ranks, stage="decode")
    if requests: # whole lives, beside the calls: they must not count twice
        for layer in range(layers):
            for q in range(queries):
                row = [0] * 32
                for step in range(steps):
                    at = ((q * steps + step) * layers + layer) * k
                    for e in values[at:at + k]:
                        row[e] += 1
                trace.counts(row, layer, None, None, topk=k, tokens=steps, request=q)
    trace.close()


def flame(path, ranks=8):
    """FLAME-MoE-290M prefill: a call is one sequence of 64 tokens."""
    ids = npy.load(DATA / "flame290m_prefill_topk.npy")
    layers, tokens, k = ids.shape
    trace = RoutingTrace(path, ranks)
    for layer in range(layers):
        for step in range(tokens // 64):
            row = [0] * 64
            at = (layer * tokens + step * 64) * k
            for e in ids.values[at:at + 64 * k]:
                row[e] += 1
            trace.counts(row, layer + 2, step, topk=k, tokens=64)
    trace.close()
