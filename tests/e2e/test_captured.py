#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Real routing driven whole through the workload and captured: tokens of each expert in the trace equal the input
exactly, call by call and added up, and `skewscope router` gives the figures of verified_metrics.csv, which independent
code computed. Those are pooled over steps; the means over calls are another estimand, and are held against the input too.

usage: test_captured.py WORKLOAD LIBRARIES SKEWSCOPE CASE
  gptoss, flame, olmoe   a few patterns and numbers of ranks; SKEWSCOPE_TEST_LONG=1: megatron, torchtitan, fastmoe and vllm
                         at 4, 8, 16 and 32 ranks, OLMoE in all its domains
  balancedness           the three formulas on gpt-oss at 8 ranks and on vLLM's 2x2 oracle, never by the wrong axis
"""
import csv
import json
import math
import os
import subprocess
import sys

import expected
import npy
import test_tap
from harness import Workload, data, must_succeed, skip, temporary

METRICS = {"gini": "gini", "max_mean": "max_over_mean", "entropy": "norm_entropy", "cv": "cv"}
PATTERNS, DEGREES = ("megatron", "torchtitan", "fastmoe", "vllm"), (4, 8, 16, 32)
SHORT = {"gptoss": (("megatron", 8), ("fastmoe", 4)), "flame": (("torchtitan", 4), ("vllm", 8), ("megatron", 32)),
         "olmoe": (("megatron", 8), ("torchtitan", 16))}
COUNTS = "olmoe_mixtral_expert_counts.csv"


class Input:
    """One set of verified_metrics.csv: how it is driven, and what it adds up to."""

    def __init__(self, kind, name):
        self.kind, self.name = kind, name
        with open(data("verified_metrics.csv"), newline="", encoding="utf-8") as f:
            self.rows = [row for row in csv.DictReader(f) if row["set"] == name]
        self.experts, self.layers = int(self.rows[0]["experts"]), len(self.rows)
        self.calls = {}

    def job(self, pattern, ranks):
        how, file, model = test_tap.DATA[self.kind]
        job = expected.Job(pattern=pattern, ranks=ranks, layers=self.layers, routing=f"{how}:{data(file)}", **model)
        job.tokens, job.steps = {"gptoss": (63, 8), "flame": (2048 // ranks // 4, 4),
                                 "olmoe": (16384 // ranks, 13)}[self.kind]
        options = ["--pattern", pattern, "--ranks", ranks, "--layers", job.layers, "--steps", "all", "--tokens", job.tokens,
                   "--experts", job.experts, "--topk", job.topk, "--routing", job.routing, "--mode", "infer",
                   "--bias-allreduce", "--brief", *(["--share-gpu"] if ranks > 8 else [])]
        if how == "counts":
            job.counts_select = "model={},domain={}".format(*self.name.split("|"))
            options += ["--counts-select", job.counts_select]
        return job, [str(o) for o in options]

    def truth(self, job):
        """{rank: [counts of each call]}: the same for every pattern."""
        if job.ranks not in self.calls:
            self.calls = {job.ranks: test_tap.truth(job)}
        return self.calls[job.ranks]


def metrics(loads):
    n, total = len(loads), sum(loads)
    gini = sum((2 * i - n + 1) * x for i, x in enumerate(sorted(loads))) / (n * total)
    cv = math.sqrt(sum((x * n / total - 1) ** 2 for x in loads) / n)
    entropy = -sum(x / total * math.log(x / total) for x in loads if x) / math.log(n)
    return {"gini": gini, "max_mean": max(loads) * n / total, "entropy": entropy, "cv": cv}


class Captured:
    def __init__(self, workload, skewscope, directory):
        if not os.path.exists(skewscope):
            skip(f"{skewscope} is not there: build the command first")
        self.workload, self.skewscope, self.directory = workload, os.path.abspath(skewscope), directory

    def capture(self, options, name):
        out = os.path.join(self.directory, name)
        subprocess.run(["rm", "-rf", out], check=True)
        must_succeed(self.workload.run(options, prefix=[self.skewscope, "run", "--standin", "--quiet", "--out", out, "--"]),
                     " ".join(options))
        self.tool("label", "--save", out)
        self.tool("routing", "--save", out)
        return out

    def tool(self, *arguments):
        done = subprocess.run([self.skewscope, *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"skewscope {' '.join(arguments)}: {done.stderr}")
        return done.stdout

    def router(self, out, *more):
        return json.loads(self.tool("router", "--json", *more, out))


def close(what, found, want, by):
    if not abs(found - want) <= by:
        sys.exit(f"{what}: {found} in the trace, {want} by the input")


def check_counts(what, job, truth, out):
    """Call by call and rank by rank; then all of them against the file."""
    have = test_tap.rows(out)
    for rank, calls in truth.items():
        mine = [call for call in calls if sum(call)] if job.pattern == "fastmoe" else calls
        if have.get(rank, []) != mine and have.get(rank, []) != calls:
            wrong = [n for n, (a, b) in enumerate(zip(have.get(rank, []), calls)) if a != b][:3]
            sys.exit(f"{what}: rank {rank}: {len(have.get(rank, []))} calls of {len(calls)}, other counts in {wrong}")


def pooled(truth, layers, layer):
    calls = [calls[n] for calls in truth.values() for n in range(layer, len(calls), layers)]
    return [sum(column) for column in zip(*calls)]


def mean_of_calls(truth, layers, layer):
    """Mean over calls of each metric, a call being that of all ranks."""
    count = len(next(iter(truth.values())))
    calls = [[sum(column) for column in zip(*(c[n] for c in truth.values()))] for n in range(layer, count, layers)]
    found = [metrics(c) for c in calls if sum(c)]
    return {m: sum(f[m] for f in found) / len(found) for m in METRICS}


def check(captured, given, pattern, ranks):
    job, options = given.job(pattern, ranks)
    truth, what = given.truth(job), f"{given.name}, {pattern}, {ranks} ranks"
    out = captured.capture(options, "trace")
    check_counts(what, job, truth, out)
    answer = captured.router(out)
    eight = captured.router(out, "--ranks", "8")
    if [layer["layer"] for layer in answer["layers"]] != list(range(job.layers)) or answer["layers_mixed"]:
        sys.exit(f"{what}: layers {[layer['layer'] for layer in answer['layers']]}")
    for n, (layer, of_eight, row) in enumerate(zip(answer["layers"], eight["layers"], given.rows)):
        total = pooled(truth, job.layers, n)
        if sum(total) != int(row["assignments"]):
            sys.exit(f"{what}, layer {n}: {sum(total)} tokens are not the {row['assignments']} of the input")
        means = mean_of_calls(truth, job.layers, n)
        for ours, theirs in METRICS.items():
            close(f"{what}, layer {n}, pooled {ours}", layer["expert"][ours]["pooled"]["value"], float(row[theirs]), 1e-6)
            close(f"{what}, layer {n}, {ours} of a call", layer["expert"][ours]["call"]["value"], means[ours], 1e-9)
        close(f"{what}, layer {n}, Gini of 8 ranks", of_eight["rank"]["gini"]["pooled"]["value"], float(row["gini_rank8"]), 1e-6)
        close(f"{what}, layer {n}, max/mean of 8 ranks", of_eight["rank"]["max_mean"]["pooled"]["value"],
              float(row["max_over_mean_rank8_contiguous"]), 1e-6)
    first = answer["layers"][0]["expert"]["gini"]
    print(f"ok: {what}: {job.layers * job.experts} counts, {job.layers} layers; layer 0: Gini pooled "
          f"{first['pooled']['value']:.6f}, mean of calls {first['call']['value']:.6f}", flush=True)
    return answer


def sets_of(kind, long):
    if kind != "olmoe":
        return [{"gptoss": "gpt-oss-20b|decode64req", "flame": "FLAME-MoE-290M|prefill2048tok"}[kind]]
    with open(data("verified_metrics.csv"), newline="", encoding="utf-8") as f:
        names = sorted({row["set"] for row in csv.DictReader(f) if row["set"].startswith("OLMoE")})
    return names if long else ["OLMoE-1B-7B-0924|github"]


def case_sets(captured, kind):
    long = bool(os.environ.get("SKEWSCOPE_TEST_LONG"))
    for name in sets_of(kind, long):
        given = Input(kind, name)
        for pattern, ranks in [(p, r) for r in DEGREES for p in PATTERNS] if long else SHORT[kind]:
            check(captured, given, pattern, ranks)


def case_balancedness(captured):
    """facts: 0.678 is the ratio of sums, 0.689 the mean of ratios, 0.914 hides layers, 0.607 is the wrong axis."""
    balance = check(captured, Input("gptoss", "gpt-oss-20b|decode64req"), "megatron", 8)["balancedness"]
    for name, want in (("ratio_of_sums", 0.678), ("mean_of_ratios", 0.689), ("summed_first", 0.914)):
        close(f"balancedness, {name}", balance[name]["value"], want, 0.0005)
    if "do not compare" not in balance["summed_first"]["formula"]:
        sys.exit("summed over layers first: without its warning")
    if any(abs(b["value"] - 0.607) < 0.0005 for b in balance.values()):
        sys.exit(f"the wrong axis: {balance}")
    text = captured.tool("router", os.path.join(captured.directory, "trace"))
    if "0.678" not in text or "0.689" not in text or "0.607" in text:
        sys.exit(f"the text does not show 0.678 and 0.689: {text[-600:]}")
    with open(data("reference/vllm_balancedness_axis_bug.json"), encoding="utf-8") as f:
        case = json.load(f)
    loads = case["loads_layer_by_rank"]
    values = [e for layer in loads for e, count in enumerate(layer) for _ in range(count)]
    path = os.path.join(captured.directory, "oracle.npy")
    npy.save(path, npy.Npy((len(loads), sum(loads[0]), 1), values))
    out = captured.capture(["--pattern", "megatron", "--ranks", "2", "--experts", "2", "--topk", "1", "--layers", "2",
                            "--routing", f"npy:{path}", "--tokens", str(sum(loads[0]) // 2), "--steps", "all", "--brief"], "oracle")
    answer = captured.router(out, "--topk", "1")
    for name in ("ratio_of_sums", "mean_of_ratios", "summed_first"):
        close(f"vLLM's oracle, {name}", answer["balancedness"][name]["value"], case["correct_mean_over_max"], 1e-9)
    print(f"ok: balancedness 0.678, 0.689, 0.914, not 0.607; vLLM's oracle {case['correct_mean_over_max']}, not"
          f" {case['axis_swapped_old_metric']}")


def main():
    if not data("verified_metrics.csv"):
        skip("the real routing data is not at ../shared/data")
    with temporary() as directory:
        captured = Captured(Workload(*sys.argv[1:3]), sys.argv[3], directory)
        if sys.argv[4] == "balancedness":
            case_balancedness(captured)
        else:
            case_sets(captured, sys.argv[4])


if __name__ == "__main__":
    main()
