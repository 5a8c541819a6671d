#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The tap, end to end: tokens of each expert in the trace's table routing equal what the routing data says,
which is computed here from the data alone.

usage: test_tap.py WORKLOAD LIBRARIES SKEWSCOPE WATCH CASE
  grid      real data through the patterns at several numbers of ranks; a changed id must be seen.
            SKEWSCOPE_TEST_LONG=1: every pattern × data × 4, 8, 16, 32 ranks
  payload   a count that does not fit the payload is rejected, and only that call
  capture   count exchanges that are captured into a graph are not copied but counted
  off       SKEWSCOPE_TAP=off: no copies, no rows; what sizes alone say is right
  other     sums over a step, agreed capacities, padded dispatch, routing maps, threads, recomputation
  program   one thread with two devices, a capture in global mode beside it, a forked child (tap_program.c)
  quiet     nothing waits; arrival is seen without asking the driver, and with it where it cannot write words
"""
import json
import os
import sqlite3
import subprocess
import sys

import expected
import npy
import routings
from harness import Workload, data, must_succeed, skip, temporary

SOURCES = {"megatron": "tap allgather", "torchtitan": "tap sendrecv", "fastmoe": "tap sendrecv",
           "vllm": "tap broadcast", "colossalai": "tap alltoall", "autoep": "tap alltoall",
           "xla-ragged": "tap allgather"}
DATA = {
    "gptoss": ("npy", "gptoss20b_decode_topk.npy", dict(experts=32, topk=4)),
    "flame": ("npy", "flame290m_prefill_topk.npy", dict(experts=64, topk=6)),
    "olmoe": ("counts", "olmoe_mixtral_expert_counts.csv", dict(experts=64, topk=8)),
    "synthetic": ("zipf", "1.2", dict(experts=16, topk=3)),
}
OLMOE = "model=OLMoE-1B-7B-0924,domain=github"


class Tapped:
    def __init__(self, workload, skewscope, watch):
        for path in (skewscope, watch):
            if not os.path.exists(path):
                skip(f"{path} is not there: build it first")
        self.workload, self.skewscope, self.watch = workload, os.path.abspath(skewscope), os.path.abspath(watch)

    def run(self, options, out, **env):
        """Runs the job with and without the profiler; its output must be the same."""
        plain = self.workload.run(options)
        must_succeed(plain, " ".join(options))
        traced = self.workload.run(options, prefix=[self.skewscope, "run", "--standin", "--out", out, "--"], **env)
        if (traced.returncode, traced.stdout) != (0, plain.stdout):
            sys.exit(f"under the profiler: exit status {traced.returncode}\n{traced.stdout}{traced.stderr}")

    def reduce(self, out, *more):
        result = subprocess.run([self.skewscope, "routing", out, "--save", "--json", *more],
                                capture_output=True, text=True, check=False)
        if result.returncode != 0:
            sys.exit(f"skewscope routing: {result.stderr}")
        return json.loads(result.stdout)


def job_of(pattern, kind, ranks, layers, steps, tokens):
    how, name, model = DATA[kind]
    path = name if how == "zipf" else data(name)
    if not path:
        skip("the real routing data is not at ../shared/data")
    job = expected.Job(pattern=pattern, ranks=ranks, layers=layers, steps=steps, tokens=tokens, hidden=16,
                       routing=f"{how}:{path}", **model)
    options = ["--pattern", pattern, "--ranks", str(ranks), "--layers", str(layers), "--steps", str(steps),
               "--tokens", str(tokens), "--hidden", "16", "--experts", str(job.experts), "--topk", str(job.topk),
               "--routing", job.routing]
    if how == "counts":
        job.counts_select = OLMOE
        options += ["--counts-select", OLMOE]
    if ranks > 8:
        options.append("--share-gpu")
    return job, options


def truth(job):
    """{rank: [counts of each call, in order]}"""
    routing, calls = routings.make(job), {r: [] for r in range(job.ranks)}
    for block in range(job.steps * job.micro_batches):
        for layer in range(job.layers):
            for rank in range(job.ranks):
                counts = [0] * job.experts
                for token in routing.ids(block, layer, rank):
                    for e in token:
                        counts[e] += 1
                calls[rank].append(counts)
    return calls


def rows(out, source="tap %"):
    """{rank: [counts, in order]} of the trace's table routing."""
    db, found = sqlite3.connect(os.path.join(out, "trace.db")), {}
    cells = {}
    for routing, expert, tokens in db.execute("SELECT routing_id, expert, tokens FROM routing_cell"):
        cells.setdefault(routing, {})[expert] = tokens
    for routing, rank, experts, how in db.execute(
            "SELECT routing_id, source_rank, experts, source FROM routing WHERE source LIKE ? ORDER BY routing_id",
            (source,)):
        found.setdefault(rank, []).append([cells[routing][e] for e in range(experts)])
    db.close()
    return found


def differences(job, out, source):
    want, have = truth(job), rows(out, source)
    wrong = [f"rank {rank} has {len(have.get(rank, []))} rows and not {len(calls)}"
             for rank, calls in want.items() if len(have.get(rank, [])) != len(calls)]
    wrong += [f"rank {rank}, call {n}: {got} and not {call}"
              for rank, calls in want.items()
              for n, (call, got) in enumerate(zip(calls, have.get(rank, []))) if call != got]
    return wrong


def check(tapped, directory, pattern, kind, ranks, layers=3, steps=2, tokens=8):
    job, options = job_of(pattern, kind, ranks, layers, steps, tokens)
    out = os.path.join(directory, f"{pattern}-{kind}-{ranks}-{len(os.listdir(directory))}")
    tapped.run(options, out)
    summary = tapped.reduce(out)
    wrong = differences(job, out, SOURCES[pattern])
    if wrong:
        sys.exit("\n".join([" ".join(options), json.dumps(summary), *wrong[:5]]))
    calls = ranks * layers * steps
    if summary["verified" if pattern != "vllm" else "unverified"] != calls:
        sys.exit(f"{' '.join(options)}: {calls} calls, but {summary}")
    print(f"ok: {' '.join(options)}: {calls} rows of {job.experts} experts")
    return job, out


def changed(source, path):
    array = npy.load(source)
    token = array.values[:array.shape[-1]]
    array.values[0] = next(e for e in range(max(array.values) + 1) if e not in token)
    npy.save(path, array)


def case_grid(tapped, directory):
    job, out = check(tapped, directory, "megatron", "gptoss", 8)
    other = os.path.join(directory, "changed.npy")
    changed(data("gptoss20b_decode_topk.npy"), other)
    job.routing = f"npy:{other}"
    wrong = differences(job, out, SOURCES["megatron"])
    if len(wrong) != 1:
        sys.exit(f"with one id changed the comparison says: {wrong}")
    print(f"ok: one changed id is seen: {wrong[0][:60]}…")
    if not os.environ.get("SKEWSCOPE_TEST_LONG"):
        check(tapped, directory, "torchtitan", "flame", 4)
        check(tapped, directory, "fastmoe", "gptoss", 4)
        check(tapped, directory, "vllm", "gptoss", 4)
        check(tapped, directory, "megatron", "olmoe", 4, layers=1, tokens=16)
        check(tapped, directory, "xla-ragged", "gptoss", 4, layers=2)
        return
    for pattern in SOURCES:
        for kind in ("gptoss", "flame", "olmoe"):
            for ranks in (4, 8, 16, 32):
                check(tapped, directory, pattern, kind, ranks, layers=1 if kind == "olmoe" else 3,
                      tokens=8 if kind == "gptoss" else 16)


def case_payload(tapped, directory):
    for pattern in ("megatron", "torchtitan"):
        out = check(tapped, directory, pattern, "synthetic", 4)[1]
        db = sqlite3.connect(os.path.join(out, "trace.db"))
        side = "own" if pattern == "megatron" else "sent"
        tap, blob = db.execute("SELECT tap_id, data FROM tap WHERE side = ? AND width = 1 LIMIT 1", (side,)).fetchone()
        blob = bytes([blob[0] + 1]) + blob[1:]
        db.execute("UPDATE tap SET data = ? WHERE tap_id = ?", (blob, tap))
        db.commit()
        db.close()
        summary = tapped.reduce(out)
        if (summary["verified"], summary["rejected"], summary["rows"]) != (23, 1, 23):
            sys.exit(f"{pattern}: with one count changed: {summary}")
        print(f"ok: {pattern}: counts that do not fit the payload are rejected")
    for column, value in (("width", 9), ("elements", 7), ("elements", -1), ("data", "x")):
        db = sqlite3.connect(os.path.join(out, "trace.db"))
        old = db.execute(f"SELECT {column} FROM tap WHERE tap_id = 1").fetchone()[0]
        before = db.execute("SELECT count(*) FROM routing").fetchone()
        db.execute(f"UPDATE tap SET {column} = ? WHERE tap_id = 1", (value,))
        db.commit()
        result = subprocess.run([tapped.skewscope, "routing", out, "--save"], capture_output=True, text=True,
                                check=False)
        after = db.execute("SELECT count(*) FROM routing").fetchone()
        db.execute(f"UPDATE tap SET {column} = ? WHERE tap_id = 1", (old,))
        db.commit()
        db.close()
        if result.returncode != 1 or result.stderr.count("\n") != 1 or "is damaged" not in result.stderr or \
                before != after:
            sys.exit(f"a damaged tap ({column} = {value}): {result.returncode}, {result.stderr}, {before} → {after}")
    print("ok: damaged copies are refused with one sentence, and nothing is changed")


def case_capture(tapped, directory):
    for pattern in ("megatron", "torchtitan"):
        job, options = job_of(pattern, "synthetic", 4, 2, 1, 8)
        out = os.path.join(directory, pattern)
        tapped.run([*options, "--graph", "3"], out)
        summary = tapped.reduce(out)
        # Rank 0 copies the matrix, the others their row; of send and receive groups both sides.
        captured = 4 * 2 * (1 if pattern == "megatron" else 2)
        if summary["captured"] != captured or summary["verified"] != 8:
            sys.exit(f"{pattern}: captured {summary['captured']} and not {captured}: {summary}")
        wrong = differences(job, out, SOURCES[pattern])
        if wrong:
            sys.exit("\n".join(wrong))
        print(f"ok: {pattern}: {captured} buffers of captured calls were counted, not copied")


def case_off(tapped, directory):
    job, options = job_of("fastmoe", "gptoss", 4, 3, 2, 8)
    out = os.path.join(directory, "off")
    tapped.run(options, out, SKEWSCOPE_TAP="off")
    summary = tapped.reduce(out)
    db = sqlite3.connect(os.path.join(out, "trace.db"))
    copies = db.execute("SELECT (SELECT count(*) FROM tap) + (SELECT count(*) FROM tap_count)").fetchone()[0]
    db.close()
    if copies or summary["calls"] or rows(out):
        sys.exit(f"with the tap off: {copies} copies, {summary}")
    # Where each local expert got a token, sizes alone tell which group is whose.
    have, want = rows(out, "sizes"), truth(job)
    right = sum(call in want[rank] for rank, calls in have.items() for call in calls)
    if right != summary["by_sizes"] or not right:
        sys.exit(f"sizes: {right} rows of {summary['by_sizes']} are right")
    print(f"ok: tap off: no copies; {right} calls by their sizes alone")


def case_quiet(tapped, directory):
    totals = {}
    for name, env in (("off", {"SKEWSCOPE_TAP": "off"}), ("on", {}), ("events", {"WATCH_NO_WRITE": "1"})):
        job, options = job_of("torchtitan", "synthetic", 4, 3, 2, 8)
        out, totals_file = os.path.join(directory, name), os.path.join(directory, name + ".txt")
        tapped.run(options, out, LD_PRELOAD=tapped.watch, WATCH_FILE=totals_file, **env)
        totals[name] = [0, 0, 0, 0]
        if os.path.exists(totals_file):
            with open(totals_file, encoding="utf-8") as f:
                for line in f:
                    totals[name] = [a + int(b) for a, b in zip(totals[name], line.split())]
        tapped.reduce(out)
        wrong = differences(job, out, SOURCES["torchtitan"]) if name != "off" else []
        if wrong:
            sys.exit("\n".join([name, *wrong]))
    off, on, events = totals["off"], totals["on"], totals["events"]
    copies = 2 * 4 * 3 * 2
    if on[0] != off[0] or events[0] != off[0]:
        sys.exit(f"the tap waited: {totals}")
    if on[1] - off[1] != copies or on[2] - off[2] != copies or on[3] != off[3]:
        sys.exit(f"expected {copies} copies, a word behind each, and no question: {totals}")
    if events[2] != off[2] or events[3] <= off[3]:
        sys.exit(f"without words, events should be asked: {totals}")
    print(f"ok: waits, copies, words, questions: {totals}")


def sums_of(job):
    """[step][layer][experts] over all ranks, and the largest count of any rank by call."""
    calls = truth(job)
    total = [[sum(column) for column in zip(*(calls[r][n] for r in calls))] for n in range(job.steps * job.layers)]
    fullest = [max(max(calls[r][n]) for r in calls) for n in range(job.steps * job.layers)]
    return total, fullest


def case_other(tapped, directory):
    for pattern in ("deepspeed", "deepspeed-nodrop"):
        job, options = job_of(pattern, "synthetic", 4, 3, 2, 8)
        out = os.path.join(directory, pattern)
        tapped.run([*options, "--bias-allreduce"], out)
        if tapped.reduce(out)["rows"] or tapped.reduce(out)["padded"] != 4 * 3 * 2 * 4:
            sys.exit(f"{pattern}: without the number of experts: {tapped.reduce(out)}")
        summary, (total, fullest) = tapped.reduce(out, "--experts", str(job.experts)), sums_of(job)
        db = sqlite3.connect(os.path.join(out, "trace.db"))
        where = db.execute("SELECT step, layer, source_rank FROM routing ORDER BY routing_id").fetchall()
        db.close()
        if rows(out, "tap sum").get(None) != total or where != [(s, l, None) for s in range(2) for l in range(3)]:
            sys.exit(f"{pattern}: sums over a step: {rows(out, 'tap sum')} at {where} and not {total}")
        agreed = (summary["capacities"], summary["capacity_min"], summary["capacity_max"])
        if agreed != ((24, min(fullest), max(fullest)) if pattern == "deepspeed-nodrop" else (0, None, None)):
            sys.exit(f"{pattern}: capacities {agreed}, fullest {fullest}")
        print(f"ok: {pattern}: sums over steps, padding and capacities")

    job, options = job_of("megatron", "synthetic", 4, 3, 2, 8)
    for name, more, recomputed in (("threads", ["--threads"], 0), ("recompute", ["--recompute", "full"], 24)):
        out = os.path.join(directory, name)
        tapped.run([*options, *more], out)
        summary = tapped.reduce(out)
        wrong = differences(job, out, SOURCES["megatron"])
        if wrong or (summary["rows"], summary["recomputed"]) != (24, recomputed):
            sys.exit("\n".join([name, str(summary), *wrong[:5]]))
        print(f"ok: {name}")

    # A routing map, which no pattern of the workload gathers: written into a trace.
    tokens, out = [[0, 5], [5, 7], [15, 1]], os.path.join(directory, "threads")
    cells = bytes(int(e in token) for token in tokens for e in range(16))
    db = sqlite3.connect(os.path.join(out, "trace.db"))
    db.execute("DELETE FROM tap WHERE tap_id NOT IN (SELECT min(tap_id) FROM tap)")
    db.execute("UPDATE tap SET shape = 'map', side = 'own', dtype = 1, count = 48, elements = 48, width = 1, data = ?",
               (cells,))
    db.commit()
    tapped.reduce(out, "--experts", "16")
    row = db.execute("SELECT topk, tokens, verified FROM routing WHERE source = 'tap map'").fetchall()
    db.close()
    counts = list(rows(out, "tap map").values())
    if row != [(2, 3, 0)] or counts != [[[sum(e in t for t in tokens) for e in range(16)]]]:
        sys.exit(f"routing map: {row}, {counts}")
    print("ok: routing map")


def case_program(tapped, directory):
    program, out = os.path.join(os.path.dirname(tapped.watch), "tap_program"), os.path.join(directory, "trace")
    result = subprocess.run([tapped.skewscope, "run", "--standin", "--out", out, "--", program],
                            env=tapped.workload.environment(), capture_output=True, text=True, check=False)
    if (result.returncode, result.stdout) != (0, "done\n"):
        sys.exit(f"exit status {result.returncode}\n{result.stdout}{result.stderr}")
    summary = tapped.reduce(out)
    want = {r: [[1 + (r * 7 + e * 5) % 11 for e in range(6)]] for r in range(2)}
    if rows(out) != want or (summary["verified"], summary["skipped"]) != (2, 0):
        sys.exit(f"{rows(out)} and not {want}: {summary}")
    db = sqlite3.connect(os.path.join(out, "trace.db"))
    places = db.execute("SELECT place, side FROM tap ORDER BY member_id").fetchall()
    db.close()
    if places != [(1, "whole"), (1, "own")]:
        sys.exit(f"places in the group: {places}")
    print("ok: two devices, a global capture beside, a fork")


def main():
    tapped = Tapped(Workload(*sys.argv[1:3]), sys.argv[3], sys.argv[4])
    with temporary() as directory:
        globals()["case_" + sys.argv[5]](tapped, directory)


if __name__ == "__main__":
    main()
