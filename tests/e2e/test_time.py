#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`skewscope time` on the workload's traffic, timed by the stand-ins' link model.

usage: test_time.py WORKLOAD LIBRARIES SKEWSCOPE CASE
  fastmoe   ranks make no call for nothing, so that ordinals disagree: exchanges are those of the workload's own account
  megatron  transfers are the model's latency and bandwidth; computation goes by what the dispatch brought
"""
import collections
import json
import os
import sqlite3
import statistics
import subprocess
import sys

from harness import Workload, must_succeed, skip, temporary

LATENCY_NS, NS_A_BYTE = 40_000, 2
LINK = "latency_us=40,bw_gbps=0.5"
ROLES = ("dispatch", "combine", "combine_bwd", "dispatch_bwd")


def expect(what, got, wanted):
    if got != wanted:
        sys.exit(f"{what}: {got}, not {wanted}")


def record(workload, skewscope, out, options, tier):
    """(lines of the workload's truth, answer of `time`, its text)"""
    truth = os.path.join(out, "truth.jsonl")
    traced = workload.run([*options, "--brief", "--truth", truth], SKEWSCOPE_STANDIN_CLOCK="paced", SKEWSCOPE_STANDIN_LINK=LINK,
                          SKEWSCOPE_TIMING=tier, prefix=[skewscope, "run", "--standin", "--out", out, "--"])
    if traced.returncode:
        sys.exit(f"{options}: exit status {traced.returncode}\n{traced.stderr}")
    answers = []
    for more in (["--json", "--rows", "100000"], []):
        done = subprocess.run([skewscope, "time", out, "--microbatches", "1", *more], capture_output=True, text=True, check=False)
        must_succeed(done, "time")
        answers.append(done.stdout)
    with open(truth, encoding="utf-8") as f:
        return [json.loads(line) for line in f], json.loads(answers[0]), answers[1]


def exchanges_of(lines):
    """Of each call the ranks that belong together, by who sends to or receives from whom."""
    ties = collections.defaultdict(dict)
    for line in lines:
        if line["role"] in ROLES and line["op"] == "sendrecv":
            key = line["role"], line["step"], line["layer"], line["local_expert"]
            rank = line["comm_rank"]
            ties[key][rank] = {p for side in ("send_bytes", "recv_bytes") for p, b in enumerate(line[side]) if b} | {rank}
    found = collections.Counter()
    for (role, *_), tied in ties.items():
        left = set(tied)
        while left:
            piece, new = set(), {left.pop()}
            while new:
                piece |= new
                new = set().union(*(tied[r] for r in new)) - piece
            left -= piece
            found[role] += 1
    return found


def case_fastmoe(workload, skewscope, out):
    options = "--pattern fastmoe --ranks 4 --experts 16 --layers 3 --tokens 3 --topk 2 --steps 24".split()
    lines, answer, text = record(workload, skewscope, out, options, "cupti")
    wanted = exchanges_of(lines)
    got = {role: r["exchanges"] for role, r in answer["roles"].items()}
    expect("exchanges by role", got, dict(wanted))
    expect("exchanges and complete ones", (answer["exchanges"], answer["complete"]), (wanted.total(), wanted.total()))
    with sqlite3.connect(os.path.join(out, "trace.db")) as db:
        ordinals = db.execute("SELECT count(*) FROM (SELECT DISTINCT seq FROM exchange JOIN device_time USING (member_id,"
                              " thread, group_seq))").fetchone()[0]
    if ordinals >= wanted.total():
        sys.exit(f"{ordinals} ordinals for {wanted.total()} exchanges: they agree, and nothing is tested")
    expect("calls in several exchanges are told", "a dispatch is several exchanges here" in text, True)
    return f"{wanted.total()} exchanges behind {ordinals} ordinals"


def case_megatron(workload, skewscope, out):
    options = "--pattern megatron --ranks 4 --experts 8 --layers 3 --tokens 64 --topk 2 --steps 30 --routing zipf:1.1".split()
    lines, answer, text = record(workload, skewscope, out, options, "cupti")
    calls = sum(line["role"] in ROLES and line["comm_rank"] == 0 for line in lines)
    expect("exchanges and complete ones", (answer["exchanges"], answer["complete"], answer["overlap_known"]), (calls,) * 3)
    ports = collections.defaultdict(int)  # of each call the busiest port, a rank's bytes to itself left out
    received = 0
    for line in lines:
        if line["role"] in ROLES:
            for side in ("send_bytes", "recv_bytes"):
                others = sum(line[side]) - line[side][line["comm_rank"]]
                ports[line["role"], line["step"], line["layer"]] = max(ports[line["role"], line["step"], line["layer"]], others)
            received = max(received, sum(line["recv_bytes"])) if line["role"] == "dispatch" else received
    off = []
    for x in answer["ledger"]:
        transfer = sum(x[k] for k in ("latency_ns", "balanced_ns", "skew_ns", "unexplained_ns"))
        off.append(abs(transfer - LATENCY_NS - NS_A_BYTE * ports[x["role"], x["step"], x["layer"]]))
    expect("rows of the ledger", len(off), calls)
    # two ranks' times, each within the error that the trace states; the median, since a few are known worse
    if statistics.median(off) > 2 * answer["error_ns"] + 500:
        sys.exit(f"transfers are off by {statistics.median(off)} ns from the model's, times are within {answer['error_ns']} ns")
    expect("bytes before a combine, at most", answer["load"]["combine"]["most"], received)
    for words in ("ledger of steps", "hidden by computation on every rank", "on the stand-ins for NCCL and CUDA"):
        expect(f"the text says '{words}'", words in text, True)
    return f"{calls} exchanges, off by {statistics.median(off):.0f} ns, times within {answer['error_ns']:.0f} ns"


def main():
    workload, skewscope, case = Workload(*sys.argv[1:3]), sys.argv[3], sys.argv[4]
    if not os.path.exists(skewscope):
        skip(f"{skewscope} is not there: build the command first")
    with temporary() as directory:
        note = {"fastmoe": case_fastmoe, "megatron": case_megatron}[case](workload, os.path.abspath(skewscope), directory)
    print(f"ok: {case}: {note}")


if __name__ == "__main__":
    main()
