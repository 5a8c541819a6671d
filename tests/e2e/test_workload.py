#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The workload itself: options and their errors, routings from files, launchers, failing ranks.

usage: test_workload.py WORKLOAD LIBRARIES CASE
"""
import os
import signal
import subprocess
import sys
import time

from harness import (Workload, check_truth, data, must_fail, must_succeed, random_topk, skip,
                     temporary)

WRONG = [
    ("--ranks 0", ["--ranks", "1 to 4096"]),
    ("--ranks x", ["--ranks", "'x'"]),
    ("--pattern nemo", ["--pattern", "nemo"]),
    ("--recompute some", ["--recompute", "none|selective|full"]),
    ("--routing zipf", ["zipf:1.2"]),
    ("--routing zipf:-1", ["0 to 10"]),
    ("--routing bursts:0.5:2:3", ["LENGTH <= PERIOD"]),
    ("--routing npy:/nonexistent.npy", ["/nonexistent.npy"]),
    ("--routing counts:/nonexistent.csv", ["/nonexistent.csv"]),
    ("--routing magic", ["--routing", "magic"]),
    ("--experts 9", ["--experts", "evenly"]),
    ("--topk 9", ["--topk", "distinct"]),
    ("--hidden 4", ["--hidden", "tag"]),
    ("--dtype int4", ["--dtype", "int4"]),
    ("--several-ep-groups 3", ["--several-ep-groups", "equal groups"]),
    ("--steps all", ["--steps", "all"]),
    ("--steps 0", ["--graph"]),
    ("--pp-stage 3", ["--pp-stage"]),
    ("--schedule interleaved --pp-stages 2 --microbatches 3", ["--microbatches"]),
    ("--pattern vllm --mode train", ["--mode", "vllm"]),
    ("--pattern deepspeed --tokens-spread 0.5", ["--tokens-spread", "deepspeed"]),
    ("--corrupt 1:2", ["STEP:LAYER:RANK"]),
    ("--placement /nonexistent", ["/nonexistent"]),
    ("--frobnicate", ["frobnicate"]),
    ("stray", ["stray"]),
]


def case_options(workload, directory):
    for options, words in WRONG:
        result = workload.run(["--ranks", "4", *options.split()])
        must_fail(result, 2, words, options)
        if result.stdout:
            sys.exit(f"{options}: words on stdout: {result.stdout}")
    must_succeed(workload.run(["--help"]), "--help")
    # Its ranks are ended while they meet: nobody tidies up after them.
    crowded = workload.run(["--ranks", "9", "--experts", "9"], SKEWSCOPE_STANDIN_SHM_DIR=directory)
    must_fail(crowded, 1, ["--share-gpu"], "more ranks than GPUs")
    must_succeed(workload.run(["--ranks", "10", "--experts", "10", "--share-gpu"]), "--share-gpu")
    print(f"ok: {len(WRONG)} mistakes are told")


BROKEN = [
    (b"", "not an .npy"),
    (b"\x93NUMPY\x01\x00\xff\xff{'descr'", "cut short"),
    (b"\x93NUMPY\x01\x00\x50\x00{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2, 2)}", "cut short"),
]


def npy_bytes(descr, shape, payload, order="False"):
    text = f"{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + payload


def case_files(workload, directory):
    path = os.path.join(directory, "bad.npy")
    broken = BROKEN + [
        (npy_bytes("<f4", "(1, 4, 2)", bytes(32)), "not integers"),
        (npy_bytes(">i4", "(1, 4, 2)", bytes(32)), "little endian"),
        (npy_bytes("|u1", "(1, 4, 2)", bytes(8), "True"), "C order"),
        (npy_bytes("|u1", "(1, 4, 2)", bytes(7)), "shorter than its shape"),
        (npy_bytes("|u1", "(99999999999, 99999999999, 2)", bytes(7)), "enormous"),
        (npy_bytes("|u1", "(1, 4, 2)", bytes([0, 1, 0, 1, 0, 9, 0, 1])), "expert 9"),
        (npy_bytes("|u1", "(1, 4, 2)", bytes([0, 1, 0, 1, 2, 2, 0, 1])), "twice"),
        (npy_bytes("|u1", "(4, 2)", bytes([0, 1] * 4)), "--npy-axes"),
    ]
    for content, words in broken:
        with open(path, "wb") as f:
            f.write(content)
        must_fail(workload.run(["--ranks", "2", "--experts", "4", "--tokens", "1", "--routing",
                                f"npy:{path}"]), 2, [words], repr(content[:60]))
    good = random_topk(os.path.join(directory, "good.npy"), (2, 8, 2), 4, 3)
    base = ["--ranks", "2", "--routing", f"npy:{good}"]
    must_succeed(workload.run(base + ["--tokens", "4"]), "no --experts")
    must_fail(workload.run(base + ["--experts", "3"]), 2, ["expert 3"], "too few experts")
    must_fail(workload.run(base + ["--tokens", "5"]), 2, ["tokens a rank"], "too many tokens")
    must_fail(workload.run(base + ["--tokens", "2", "--steps", "3"]), 2, ["2 steps"], "too many steps")
    must_fail(workload.run(base + ["--topk", "3"]), 2, ["--topk"], "another k")
    must_fail(workload.run(base + ["--layers", "3"]), 2, ["--layers"], "more layers")
    for code in ("<i2", "<i4", "<i8", "<u2"):
        size = int(code[2])
        ids = b"".join(e.to_bytes(size, "little") for e in [0, 1, 2, 3] * 8)
        with open(path, "wb") as f:
            f.write(npy_bytes(code, "(2, 8, 2)", ids))
        check_truth(workload, ["--ranks", "2", "--experts", "4", "--layers", "2", "--tokens", "4",
                               "--routing", f"npy:{path}"], directory)
    case_counts(workload, directory)


def case_counts(workload, directory):
    path = os.path.join(directory, "counts.csv")
    counts = {3: [30, 0, 7, 11], 9: [12, 12, 12, 12]}
    with open(path, "w", encoding="utf-8") as f:
        f.write("model,layer,expert,count\n")
        for model in ("a", "b"):
            for layer, row in counts.items():
                for expert, n in enumerate(row):
                    f.write(f"{model},{layer},{expert},{n}\n")
    base = ["--ranks", "2", "--routing", f"counts:{path}", "--hidden", "8"]
    must_fail(workload.run(base), 2, ["--counts-select"], "two models")
    base += ["--counts-select", "model=b"]
    must_fail(workload.run(base), 2, ["no number of tokens"], "an expert with more than all tokens")
    with open(path, "a", encoding="utf-8") as f:
        for layer, row in {0: [20, 3, 11, 14], 1: [0, 24, 24, 0]}.items():
            for expert, n in enumerate(row):
                f.write(f"c,{layer},{expert},{n}\n")
    base[-1] = "model=c"
    out = check_truth(workload, base + ["--tokens", "5", "--steps", "3", "--experts", "4"], directory)
    for words in ("48  0.281250   1.666667        0", "48  0.500000   2.000000        1"):
        if words not in out:
            sys.exit(f"the report does not show '{words}':\n{out}")
    result = workload.run(base + ["--tokens", "5", "--steps", "all"])
    if result.stdout != out:
        sys.exit("--steps all does not use all tokens")


def case_real(workload, directory):
    """The real routing data, against the independently computed metrics that come with it."""
    names = ("gptoss20b_decode_topk.npy", "flame290m_prefill_topk.npy", "flame290m_decode_topk.npy",
             "olmoe_mixtral_expert_counts.csv", "verified_metrics.csv")
    if not all(data(n) for n in names):
        skip("the real routing data is not at ../shared/data")
    gptoss, prefill, decode, olmoe, metrics = map(data, names)
    runs = [
        (["--experts", "32", "--topk", "4", "--layers", "24", "--tokens", "12", "--steps", "42",
          "--routing", f"npy:{gptoss}"], "gpt-oss-20b|decode64req"),
        (["--experts", "64", "--topk", "6", "--layers", "8", "--tokens", "256",
          "--routing", f"npy:{prefill}"], "FLAME-MoE-290M|prefill2048tok"),
        (["--experts", "64", "--topk", "6", "--layers", "8", "--tokens", "10", "--npy-axes",
          "token,layer,request,k", "--routing", f"npy:{decode}"], None),
        (["--experts", "64", "--topk", "8", "--layers", "3", "--tokens", "26112", "--counts-select",
          "model=OLMoE-1B-7B-0924,domain=github", "--routing", f"counts:{olmoe}", "--hidden", "8"],
         "OLMoE-1B-7B-0924|github"),
    ]
    for options, name in runs:
        result = workload.run(["--ranks", "8", "--mode", "infer", "--hidden", "16", *options])
        must_succeed(result, " ".join(options))
        if name:
            compare_metrics(result.stdout, metrics, name)
        print(f"ok: {' '.join(options)}")


def compare_metrics(stdout, metrics, name):
    table = {}
    for line in stdout.splitlines():
        cells = line.split()
        if len(cells) == 5 and cells[0].isdigit() and "|" not in line:
            table[int(cells[0])] = cells[1:4]
    rows = []
    with open(metrics, encoding="utf-8") as f:
        for line in f:
            cells = line.strip().split(",")
            if cells[0] == name:
                rows.append((int(cells[1]), cells[3], cells[4], cells[5]))
    rows.sort()
    if not rows or len(rows) != len(table):
        sys.exit(f"{name}: {len(rows)} layers known, {len(table)} reported")
    for n, (_, assignments, gini, peak) in enumerate(rows):
        if table[n] != [assignments, gini, peak]:
            sys.exit(f"{name}, layer {n}: {table[n]}, independently computed {assignments} {gini} {peak}")


def case_launcher(workload, directory):
    """Ranks started one by one with RANK and WORLD_SIZE, as torchrun does."""
    base = ["--pattern", "torchtitan", "--layers", "3"]
    truth = os.path.join(directory, "own.jsonl")
    alone = workload.run([*base, "--ranks", "3", "--experts", "6", "--truth", truth])
    must_succeed(alone, "our own ranks")
    under = os.path.join(directory, "under.jsonl")
    for rendezvous in ([], ["--rendezvous", os.path.join(directory, "meet")]):
        ranks = [subprocess.Popen([workload.program, *base, "--experts", "6", "--truth", under, *rendezvous],
                                  env=workload.environment(RANK=r, WORLD_SIZE=3, LOCAL_RANK=r,
                                                           TMPDIR=directory),
                                  stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
                 for r in range(3)]
        out = [p.communicate()[0] for p in ranks]
        if any(p.returncode for p in ranks) or out != [alone.stdout, "", ""]:
            sys.exit(f"under a launcher: {[p.returncode for p in ranks]} {out}")
        with open(truth, encoding="utf-8") as a, open(under, encoding="utf-8") as b:
            if a.read() != b.read():
                sys.exit("under a launcher: the truth differs")
        left = set(os.listdir(directory)) - {"own.jsonl", "under.jsonl"}
        if left:
            sys.exit(f"under a launcher: files were left behind: {left}")
    print("ok: under a launcher")


def case_deterministic(workload, directory):
    options = ["--ranks", "4", "--routing", "zipf:1", "--bias-allreduce", "--layers", "3", "--steps", "3"]
    results = [workload.run(options) for _ in range(3)] + [workload.run(options + ["--threads"])]
    for r in results:
        must_succeed(r, " ".join(options))
    if len({r.stdout for r in results}) != 1:
        sys.exit("stdout differs between runs of one command")
    if workload.run(options + ["--seed", "2"]).stdout == results[0].stdout:
        sys.exit("--seed changes nothing")
    if "time:" not in workload.run(options + ["--timing"]).stdout:
        sys.exit("--timing prints no time")
    print("ok: the same command prints the same")


def case_killed(workload, directory):
    """A rank that dies takes the job down; a job that dies takes its ranks along."""
    options = [workload.program, "--ranks", "4", "--steps", "1000000", "--layers", "4"]
    env = workload.environment(SKEWSCOPE_STANDIN_SHM_DIR=directory) # nobody tidies up after these
    job = subprocess.Popen(options, env=env, stdin=subprocess.DEVNULL,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    ranks = children(job.pid, 4)
    os.kill(ranks[2], signal.SIGKILL)
    _, stderr = job.communicate()
    if job.returncode != 1 or "signal 9" not in stderr:
        sys.exit(f"a killed rank: {job.returncode} {stderr}")
    job = subprocess.Popen(options, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL)
    ranks = children(job.pid, 4)
    job.kill()
    job.wait()
    while any(alive(pid) for pid in ranks):
        time.sleep(0.02)
    print("ok: no rank outlives its job")


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as f:
            return f.read().rpartition(")")[2].split()[0] not in ("Z", "X")
    except FileNotFoundError:
        return False


def children(pid, n):
    while True:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="utf-8") as f:
            found = [int(c) for c in f.read().split()]
        if len(found) >= n:
            return found
        time.sleep(0.02)


CASES = {"options": case_options, "files": case_files, "real": case_real, "launcher": case_launcher,
         "deterministic": case_deterministic, "killed": case_killed}


def main():
    workload = Workload(*sys.argv[1:3])
    with temporary() as directory:
        CASES[sys.argv[3]](workload, directory)


if __name__ == "__main__":
    main()
