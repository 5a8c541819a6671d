#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Labels of traced workload runs against the workload's own truth: whatever was told must be right; what can be
known must have been told; what cannot be known must have been left open.

usage: test_labels.py WORKLOAD LIBRARIES SKEWSCOPE CASE
  a pattern   training in several schedules, inference, balanced routing, other traffic beside it
  matrix      `matrix --role --layer --step`, with labels found on the way and with saved ones
  cut         traces that end anywhere: nothing wrong may be told
  lost        traces that lack records anywhere: likewise
  nvtx        what NVTX ranges and options say; prefill and decode
  checks      the checks of this test themselves: a changed label is seen
"""
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys

import label_check
from harness import Workload, must_succeed, skip, temporary

ALL = ("role", "layer", "step", "microbatch")
# (workload options, options of `label`, what must be told of every exchange of an MoE layer, what must not be)
TRAINING = [
    # gradient accumulation; the bias all-reduce ends a step
    ("--ranks 4 --experts 8 --layers 3 --steps 3 --microbatches 2 --bias-allreduce", "", ALL, ()),
    # without it nothing tells a step from a micro-batch …
    ("--ranks 4 --experts 8 --layers 3 --steps 2 --microbatches 2", "", ALL[:2], ALL[2:]),
    # … but the user may
    ("--ranks 4 --experts 8 --layers 3 --steps 2 --microbatches 2 --threads", "--microbatches 2", ALL, ()),
    # two EP groups beside each other, recomputation, sequence and pipeline parallel traffic
    ("--ranks 4 --experts 8 --layers 4 --several-ep-groups 2 --recompute full --bias-allreduce "
     "--sequence-parallel --pipeline-p2p --steps 2 --routing zipf:1.3", "--step-marker allreduce", ALL, ()),
    # 1F1B in the middle of a pipeline, every second layer recomputed
    ("--ranks 2 --microbatches 5 --pp-stages 3 --pp-stage 1 --dtype fp32 --steps 2 --layers 3 "
     "--recompute selective --sequence-parallel", "", ALL, ()),
    # all forward, then all backward; tokens in fp8, results in bf16
    ("--ranks 4 --microbatches 3 --schedule gpipe --experts 8 --steps 2 --dtype fp8 --alltoall sendrecv", "", ALL, ()),
]
# tokens of 16 bytes, only four times their gate weights
SMALL = [("--ranks 4 --experts 8 --layers 3 --steps 3 --hidden 8 --bias-allreduce --mode infer", "", ALL[:3], ALL[3:]),
         ("--ranks 4 --experts 8 --layers 3 --steps 3 --microbatches 2 --hidden 8 --bias-allreduce --recompute full", "", ALL, ())]
INTERLEAVED = ("--ranks 2 --microbatches 4 --pp-stages 2 --pp-chunks 2 --layers 4 --schedule interleaved "
               "--pipeline-p2p --steps 2", "", ALL, ())
BALANCED = [
    ("--ranks 4 --experts 8 --routing balanced --layers 3 --steps 2 --microbatches 2 --recompute full", "",
     ALL[:1], ALL[1:]),
    ("--ranks 4 --experts 8 --routing balanced --layers 3 --steps 2 --microbatches 4 --pp-stages 3",
     "--layers 3", ALL, ()),
]
INFERENCE = [
    ("--mode infer --ranks 4 --layers 3 --steps 5 --pipeline-p2p", "", ALL[:3], ALL[3:]),
    ("--mode infer --ranks 4 --layers 3 --steps 5", "", ALL[:1], ALL[1:]),
    ("--mode infer --ranks 4 --layers 3 --steps 6 --graph 2", "--layers 3", ALL[:2], ALL[3:]),
]
PADDED = [
    ("--ranks 4 --layers 3 --steps 2", "", (), ALL),
    ("--ranks 4 --layers 4 --steps 3 --recompute full --sequence-parallel", "", ALL[:1], ALL[1:]),
    ("--ranks 4 --layers 4 --steps 3 --recompute selective --microbatches 2 --bias-allreduce", "--layers 4", ALL, ()),
    ("--ranks 2 --layers 3 --steps 2 --microbatches 5 --pp-stages 3 --pp-stage 1", "--layers 3", ALL, ()),
]
GATHERED = [
    ("--ranks 4 --layers 3 --steps 5 --pipeline-p2p --sequence-parallel", "", ALL[:3], ALL[3:]),
    ("--ranks 4 --layers 3 --steps 5 --gatherv auto --dtype fp8", "", ALL[:1], ALL[1:]),
    ("--ranks 2 --layers 3 --steps 5 --dtype fp32 --tokens-spread 0.5 --bias-allreduce --graph 2", "",
     ALL[:2], ALL[3:]),
]
# Marked by NVTX ranges: (workload options, options of `label`, what must be told, what must be told of which stages,
# what the note has to say)
SERVING = "--pattern vllm --ranks 4 --layers 3 --steps 20 --tokens 96"
NVTX = [
    # what sizes and order cannot tell
    ("--pattern megatron --ranks 4 --experts 8 --layers 3 --steps 3 --microbatches 2 --nvtx step", "", ALL, (), None),
    ("--pattern torchtitan --ranks 4 --experts 8 --layers 3 --steps 3 --microbatches 2 --nvtx mark --threads", "", ALL, (), None),
    ("--pattern fastmoe --mode infer --ranks 4 --layers 3 --steps 5 --nvtx layer", "", ALL[:3], (), None),
    ("--pattern deepspeed --mode infer --ranks 4 --layers 3 --steps 5 --nvtx layer", "--layers 3", ALL[:3], (), None),
    # named outright: then it is certain
    ("--pattern megatron --ranks 4 --experts 8 --layers 3 --steps 3 --microbatches 2 --recompute full --nvtx layer",
     "--step-marker step --layer-marker layer", ALL, (), None),
    ("--pattern megatron --ranks 4 --experts 8 --layers 3 --steps 3 --microbatches 2 --nvtx layer",
     "--step-marker s*p* --layer-marker l*r*", ALL, (), None),
    # pipelines: order and ranges say the same
    ("--pattern autoep --ranks 2 --microbatches 4 --pp-stages 2 --pp-chunks 2 --layers 4 --schedule interleaved "
     "--pipeline-p2p --steps 2 --nvtx layer", "", ALL, (), None),
    ("--pattern colossalai --ranks 2 --microbatches 5 --pp-stages 3 --pp-stage 1 --steps 2 --layers 3 --nvtx layer "
     "--recompute selective", "", ALL, (), None),
    # inference of several micro-batches a step, which nothing else could tell
    ("--pattern torchtitan --mode infer --ranks 2 --layers 3 --steps 4 --microbatches 2 --nvtx layer", "", ALL, (), None),
    # operations that end a step, from so many bytes on
    ("--pattern tutel --ranks 4 --experts 8 --layers 3 --steps 3 --microbatches 2 --bias-allreduce",
     "--step-marker allreduce>=90", ALL, (), None),
    # prefill and decode, by their ranges and by their tokens
    (f"{SERVING} --serve 6:8 --nvtx layer", "", ALL[:3], ("prefill", "decode"), None),
    (f"{SERVING} --serve 6:8 --nvtx layer", "--prefill-marker pre --decode-marker dec", ALL[:3], ("prefill", "decode"), None),
    (f"{SERVING} --serve 6:8", "", ALL[:3], ("prefill", "decode"), None),
    (f"{SERVING} --serve 6:8:1", "", ALL[:3], ("prefill", "decode"), "filled up to the same number"),
    (f"{SERVING} --serve 6:8 --dtype fp8 --gatherv auto", "--layers 3", ALL[:3], ("prefill", "decode"), None),
    ("--pattern megatron --mode infer --ranks 4 --layers 2 --steps 20 --tokens 96 --serve 6:8", "--layers 2", ALL[:3],
     ("prefill", "decode"), None),
    ("--pattern fastmoe --mode infer --ranks 2 --layers 2 --steps 20 --tokens 96 --serve 6:8", "--layers 2", ALL[:3],
     ("prefill", "decode"), None),
    # every second pass is of many tokens: that is not how prompts and decode alternate
    (f"{SERVING} --serve 2:8", "--layers 3", ALL[:3], (), "do not tell prefill from decode"),
]
LAYER_ROLES = {"dispatch", "combine", "probs", "dispatch_bwd", "combine_bwd", "probs_bwd", "dispatch_recompute",
               "combine_recompute", "probs_recompute", "count"}


def cases_of(pattern):
    if pattern == "vllm":
        return GATHERED
    if pattern in ("deepspeed", "tutel-padded"):
        return PADDED
    if pattern == "deepspeed-nodrop":  # all sizes of a call are alike: with few calls the order tells too little
        return [TRAINING[0], TRAINING[3], TRAINING[4], *BALANCED, INFERENCE[0]]
    return [*TRAINING, INTERLEAVED, *BALANCED, *INFERENCE, *(SMALL if pattern in ("megatron", "torchtitan") else [])]


class Job:
    def __init__(self, options):
        self.ep_groups = int(options[options.index("--several-ep-groups") + 1]) \
            if "--several-ep-groups" in options else 1


class Labelled:
    def __init__(self, workload, skewscope, directory):
        if not os.path.exists(skewscope):
            skip(f"{skewscope} is not there: build the command first")
        self.workload, self.skewscope, self.directory = workload, os.path.abspath(skewscope), directory

    def trace(self, options):
        out, truth = (os.path.join(self.directory, n) for n in ("trace", "truth.jsonl"))
        subprocess.run(["rm", "-rf", out, truth], check=True)
        must_succeed(self.workload.run([*options, "--brief", "--truth", truth],
                                       prefix=[self.skewscope, "run", "--standin", "--quiet", "--out", out, "--"]),
                     " ".join(options))
        return out, truth

    def tool(self, *arguments):
        done = subprocess.run([self.skewscope, *arguments], capture_output=True, text=True, check=False)
        if done.returncode or done.stderr:
            sys.exit(f"skewscope {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def compare(self, options, label=()):
        out, truth = self.trace(options)
        found = json.loads(self.tool("label", "--json", "--save", *label, out))
        return label_check.compare(out, truth, Job(options)), found["traces"][0]["communicators"]


def fail(what, result, why):
    sys.exit(f"{what}: {why}\n  told: {result.summary()}\n  " + "\n  ".join(result.wrong[:8]))


def check(labelled, pattern, case):
    options, label, must, must_not = case
    what = f"--pattern {pattern} {options}" + (f" / label {label}" if label else "")
    result, comms = labelled.compare(["--pattern", pattern, *options.split()], label.split())
    if result.wrong:
        fail(what, result, "wrong labels")
    roles = {role for role, _ in result.total} & LAYER_ROLES
    for role in roles:
        for field in must:
            if result.share(role, field) != 1:
                fail(what, result, f"{field} of {role} is told of {result.told[role, field]} in "
                                   f"{result.total[role, field]} only")
        for field in must_not:
            if result.told[role, field]:
                fail(what, result, f"{field} of {role} cannot be known, and was told")
    for role in ("pipeline", "sequence", "other"):
        if must and result.share(role, "role") not in (None, 1):
            fail(what, result, f"not all of {role} was told")
    if must_not and "captured" not in what and "--graph" not in what and not any(c["note"] for c in comms) \
            and must_not != ("microbatch",):
        fail(what, result, "nothing says why")
    padded = pattern in ("deepspeed", "deepspeed-nodrop", "tutel-padded")
    if must and any(c["skew_not_observable"] for c in comms) != padded:
        fail(what, result, f"skew_not_observable is {[c['skew_not_observable'] for c in comms]}")
    check_tokens(what, pattern, options, result, padded or pattern == "vllm" or "balanced" in options)
    print(f"ok: {what}: {result.summary()}")


def check_tokens(what, pattern, options, result, unknown):
    """Bytes of a token: H elements, exact; nothing where sizes are padded."""
    hidden = 8 if "--hidden 8" in options else 64
    element = 4 if "fp32" in options else 1 if "fp8" in options else 2
    for role, sizes in result.token_bytes.items():
        back = role not in ("dispatch", "dispatch_recompute")
        bytes_of = hidden * (2 if back and element == 1 else element)
        if role.startswith("probs"):
            bytes_of = 4
        if sizes != {bytes_of} and not (pattern == "fastmoe" and element == 1 and sizes == {64}) and \
                not (pattern == "tutel" and element == 1):
            fail(what, result, f"a token of {role} has {sizes} bytes, not {bytes_of}")
    if not unknown and not result.token_bytes["dispatch"]:
        fail(what, result, "no size of a token was told")


def case_matrix(labelled):
    options = ("--pattern megatron --ranks 4 --experts 8 --layers 3 --steps 3 --microbatches 2 --bias-allreduce "
               "--routing zipf:1.2").split()
    out, truth = labelled.trace(options)
    want = {}
    with open(truth, encoding="utf-8") as f:
        for line in map(json.loads, f):
            if line["role"] == "dispatch" and (line["layer"], line["step"]) == (1, 2):
                row = want.setdefault(line["comm_rank"], [0] * 4)
                want[line["comm_rank"]] = [a + b for a, b in zip(row, line["send_bytes"])]
    arguments = ["matrix", "--role", "dispatch", "--layer", "1", "--step", "2", "--format", "nccl-tests", out]
    found = labelled.tool(*arguments)
    rows = [[int(v) for v in row.replace(",", " ").split()] for row in found.splitlines() if row and row[0] != "#"]
    if rows != [want[r] for r in range(4)]:
        sys.exit(f"matrix --role dispatch --layer 1 --step 2: {rows} instead of {want}")
    labelled.tool("label", "--save", out)
    if labelled.tool(*arguments) != found:
        sys.exit("with saved labels the matrix is another one")
    labelled.tool("label", "--save", out)  # again: replaces, does not double
    done = subprocess.run([labelled.skewscope, "matrix", "--role", "sequence", out], capture_output=True, text=True,
                          check=False)
    if done.returncode != 1 or "sequence" not in done.stderr:
        sys.exit(f"matrix --role sequence: {done.returncode} {done.stderr}")
    print("ok: matrix by role, layer and step")


def cut(source, target, share):
    """Keeps the first calls of every rank, of each a few more or less."""
    shutil.copy(source, target)
    db = sqlite3.connect(target)
    for n, (process,) in enumerate(db.execute("SELECT process_id FROM process ORDER BY process_id").fetchall()):
        calls = db.execute(
            "SELECT start_ns, 'exchange', exchange_id, e.seq FROM exchange e JOIN member USING (member_id)"
            " WHERE process_id = ?1 UNION ALL SELECT start_ns, 'operation', operation_id, o.seq FROM operation o"
            " JOIN member USING (member_id) WHERE process_id = ?1 ORDER BY 1, 4", (process,)).fetchall()
        for _, table, ident, _ in calls[max(1, int(len(calls) * share) + n % 3 - 1):]:
            db.execute(f"DELETE FROM {table} WHERE {table}_id = ?", (ident,))
    db.commit()
    db.close()


def case_cut(labelled):
    shapes = ("--ranks 4 --experts 8 --layers 3 --steps 3 --microbatches 2 --bias-allreduce",
              "--ranks 2 --microbatches 5 --pp-stages 3 --pp-stage 1 --steps 3 --layers 3 --recompute selective",
              "--ranks 4 --layers 4 --steps 3 --recompute full --bias-allreduce")
    shares = [n / 24 for n in range(1, 24)] if os.environ.get("SKEWSCOPE_TEST_LONG") else (0.04, 0.08, 0.17, 0.37, 0.61, 0.83, 0.97)
    target = os.path.join(labelled.directory, "cut.db")
    for pattern in ("megatron", "torchtitan", "fastmoe"):
        for shape in shapes:
            options = ["--pattern", pattern, *shape.split()]
            out, truth = labelled.trace(options)
            for share in shares:
                cut(os.path.join(out, "trace.db"), target, share)
                labelled.tool("label", "--save", target)
                result = label_check.compare(target, truth, Job(options), cut=True)
                if result.wrong:
                    fail(f"{' '.join(options)}, the first {share:.2f} of it", result, "wrong labels")
            print(f"ok: cut: {' '.join(options)}")


def lose(source, target, seed, share=0.01):
    """One record in a hundred is missing, anywhere."""
    rng = random.Random(seed)
    shutil.copy(source, target)
    db = sqlite3.connect(target)
    tables = ("exchange", "operation")
    rows = " UNION ".join(f"SELECT process_id, thread, group_seq FROM {t} JOIN member USING (member_id)" for t in tables)
    for process, *group in db.execute(f"{rows} ORDER BY 1, 2, 3").fetchall():
        for table in tables if rng.random() < share else ():
            db.execute(f"DELETE FROM {table} WHERE thread = ? AND group_seq = ? AND member_id IN"
                       " (SELECT member_id FROM member WHERE process_id = ?)", (*group, process))
    db.commit()
    db.close()


def case_lost(labelled):
    shapes = ("--ranks 4 --experts 8 --layers 3 --steps 3 --microbatches 2 --bias-allreduce",
              "--ranks 2 --microbatches 5 --pp-stages 3 --pp-stage 1 --steps 3 --layers 3 --recompute selective",
              "--ranks 4 --layers 4 --steps 3 --recompute full --bias-allreduce",
              "--mode infer --ranks 4 --layers 3 --steps 6 --pipeline-p2p")
    target = os.path.join(labelled.directory, "lost.db")
    told = total = 0
    for pattern in ("megatron", "torchtitan", "fastmoe", "tutel"):
        for shape in shapes:
            options = ["--pattern", pattern, *shape.split()]
            out, truth = labelled.trace(options)
            for seed in range(24 if os.environ.get("SKEWSCOPE_TEST_LONG") else 3):
                lose(os.path.join(out, "trace.db"), target, seed)
                labelled.tool("label", "--save", target)
                result = label_check.compare(target, truth, Job(options), lost=True)
                if result.wrong:
                    fail(f"{' '.join(options)}, seed {seed}", result, "wrong labels")
                told += sum(n for (_, field), n in result.told.items() if field == "role")
                total += sum(n for (_, field), n in result.total.items() if field == "role")
            print(f"ok: lost: {' '.join(options)}")
    print(f"roles told: {told} of {total}")
    if told * 2 < total:
        sys.exit("one record in a hundred is missing, and less than half of the roles were told")


def case_nvtx(labelled):
    for options, label, must, stages, note in NVTX:
        what = f"{options} / label {label}"
        result, comms = labelled.compare(options.split(), label.split())
        if result.wrong:
            fail(what, result, "wrong labels")
        for role in {role for role, field in result.total if field == "role"} & LAYER_ROLES:
            for field in must:
                if result.share(role, field) != 1:
                    fail(what, result, f"{field} of {role} is told of {result.told[role, field]} in {result.total[role, field]} only")
        for stage in ("prefill", "decode", "mixed"):
            if result.share(stage, "stage") not in (None, 1.0 if stage in stages else 0.0):
                fail(what, result, f"stage: {result.told[stage, 'stage']} of {result.total[stage, 'stage']} of {stage} were told")
        if "--layer-marker" in label and result.confidences["dispatch"] != {0.99}:
            fail(what, result, f"named by the user, yet the confidence is {result.confidences['dispatch']}")
        notes = " ".join(c["note"] or "" for c in comms)
        if note and note not in notes:
            fail(what, result, f"the note says '{notes}'")
        print(f"ok: {what}: {result.summary()}")
    marker_wins(labelled)
    losses(labelled)
    autograd(labelled)
    stage_is(labelled)


def marker_wins(labelled):
    """What ranges say goes before what order says, and the note tells."""
    out, _ = labelled.trace("--pattern megatron --ranks 2 --layers 3 --steps 3 --bias-allreduce --nvtx layer".split())
    found = json.loads(labelled.tool("label", "--json", "--save", "--step-marker", "layer", out))
    notes = " ".join(c["note"] or "" for c in found["traces"][0]["communicators"])
    db = sqlite3.connect(os.path.join(out, "trace.db"))
    # its numbers begin anew in each step, so each range is a step of its own
    same, last, flagged = db.execute("SELECT min(step % 3 = layer), max(step), min(flags & 8) FROM exchange_label"
                                     " WHERE role = 'dispatch'").fetchone()
    db.close()
    if (same, last, flagged) != (1, 8, 8) or "ranges were believed" not in notes:
        sys.exit(f"--step-marker layer: {same} {last} {flagged} {notes}")
    print("ok: a marker wins over the order of exchanges")


def losses(labelled):
    """Steps that ranges tell do not suffer from records that are missing."""
    options = "--pattern megatron --ranks 2 --layers 3 --steps 4 --microbatches 2 --nvtx step".split()
    out, truth = labelled.trace(options)
    path = os.path.join(out, "trace.db")
    db = sqlite3.connect(path)
    gone, = db.execute("SELECT exchange_id FROM exchange WHERE member_id = 1 AND seq = 20").fetchone()
    steps = {}
    with open(truth, encoding="utf-8") as f:
        for line in map(json.loads, f):
            if line["comm"] == "ep" and line["rank"] == 0:
                steps[len(steps)] = line["step"]
    db.execute("DELETE FROM exchange WHERE exchange_id = ?", (gone,))
    db.commit()
    db.close()
    labelled.tool("label", "--save", out)
    db = sqlite3.connect(path)
    rows = db.execute("SELECT seq, step FROM exchange JOIN member USING (member_id) JOIN exchange_label USING (exchange_id)"
                      " WHERE comm_id = (SELECT comm_id FROM member WHERE member_id = 1) AND rank = 0 AND role IS NOT NULL"
                      " AND seq > 20").fetchall()
    db.close()
    wrong = [(seq, step, steps[seq]) for seq, step in rows if step not in (None, steps[seq])]
    told = sum(step is not None for _, step in rows)
    if wrong or told < 0.9 * len(rows) or len(rows) < 100:
        sys.exit(f"a lost record: {told} of {len(rows)} steps told behind it, wrong: {wrong[:5]}")
    print(f"ok: {told} of {len(rows)} steps are told behind a lost record")


def autograd(labelled):
    """Backward passes on a thread of their own, which is in no range, have the steps of their forward passes."""
    out, truth = labelled.trace("--pattern megatron --ranks 2 --layers 3 --steps 3 --microbatches 2 --nvtx layer".split())
    path = os.path.join(out, "trace.db")
    labelled.tool("label", "--save", out)
    db = sqlite3.connect(path)
    moved = db.execute("UPDATE exchange SET thread = 99 WHERE exchange_id IN (SELECT exchange_id FROM exchange_label"
                       " WHERE role LIKE '%_bwd')").rowcount
    db.execute("DELETE FROM exchange_label")
    db.commit()
    if db.execute("SELECT count(*) FROM exchange_range JOIN exchange USING (exchange_id) WHERE thread = 99").fetchone() != (0,):
        sys.exit("a thread that pushed nothing is in a range")
    db.close()
    labelled.tool("label", "--save", out)
    result = label_check.compare(path, truth, Job([]), ranges=False)
    if result.wrong or not moved or any(result.share(role, field) != 1 for role in LAYER_ROLES for field in ALL
                                        if result.total[role, field]):
        fail("backward passes on another thread", result, f"{moved} moved")
    print("ok: backward passes on another thread")


def stage_is(labelled):
    out, _ = labelled.trace("--pattern vllm --ranks 2 --layers 2 --steps 4".split())
    for stage in ("prefill", "decode"):
        labelled.tool("label", "--save", "--stage-is", stage, out)
        db = sqlite3.connect(os.path.join(out, "trace.db"))
        found = db.execute("SELECT DISTINCT stage, round(confidence, 2), flags FROM operation_label").fetchall()
        db.close()
        if found != [(stage, 0.9, 8)]:
            sys.exit(f"--stage-is {stage}: {found}")
    for wrong in (["--layer-marker", "nowhere"], ["--decode-marker", "nowhere"], ["--stage-is", "train"], ["--layer-marker", ""],
                  ["--step-marker", "allreduce>=x"]):
        done = subprocess.run([labelled.skewscope, "label", *wrong, out], capture_output=True, text=True, check=False)
        if done.returncode not in (1, 2) or wrong[1] not in done.stderr:
            sys.exit(f"{wrong}: {done.returncode} {done.stderr}")
    print("ok: --stage-is, and what cannot be named")


def case_checks(labelled):
    out, truth = labelled.trace("--pattern megatron --ranks 2 --layers 3 --steps 2 --bias-allreduce".split())
    labelled.tool("label", "--save", out)
    if label_check.compare(out, truth, Job([])).wrong:
        sys.exit("the unchanged labels are wrong")
    for change in ("role = 'combine' WHERE role = 'dispatch'", "layer = layer + 1 WHERE role = 'combine_bwd'",
                   "step = 0 WHERE role = 'probs'", "microbatch = 1 WHERE role = 'dispatch'",
                   "pair_id = exchange_id WHERE role = 'combine'"):
        db = sqlite3.connect(os.path.join(out, "trace.db"))
        where = change.split(" WHERE ")[1]
        db.execute(f"UPDATE exchange_label SET {change} AND exchange_id = "
                   f"(SELECT max(exchange_id) FROM exchange_label WHERE {where})")
        db.commit()
        db.close()
        if not label_check.compare(out, truth, Job([])).wrong:
            sys.exit(f"{change}: not seen")
        labelled.tool("label", "--save", out)
    done = subprocess.run([labelled.skewscope, "label", "--step-marker", "nowhere", out], capture_output=True, text=True,
                          check=False)
    if done.returncode != 1 or done.stderr.count("\n") != 1 or "nowhere" not in done.stderr:
        sys.exit(f"--step-marker nowhere: {done.returncode} {done.stderr}")
    print("ok: changed labels are seen")


def main():
    workload, case = Workload(*sys.argv[1:3]), sys.argv[4]
    with temporary() as directory:
        labelled = Labelled(workload, sys.argv[3], directory)
        if case == "matrix":
            return case_matrix(labelled)
        if case == "cut":
            return case_cut(labelled)
        if case == "lost":
            return case_lost(labelled)
        if case == "nvtx":
            return case_nvtx(labelled)
        if case == "checks":
            return case_checks(labelled)
        for one in cases_of(case):
            check(labelled, case, one)


if __name__ == "__main__":
    main()
