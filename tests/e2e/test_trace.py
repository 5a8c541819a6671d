#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The workload under the profiler: the job prints and ends the same as without it, and every cell of
every exchange in the trace equals what follows from the routing and the placement alone.

usage: test_trace.py WORKLOAD LIBRARIES SKEWSCOPE CASE
  a pattern    synthetic routing with all the other traffic beside it, non-blocking, threads, a graph
  real-PATTERN gpt-oss-20b's real decode routing over 8 ranks: all 504 positions of 64 requests, all 24
               layers, forward and backward; then one id is changed and the comparison must fail
  preload      only LD_PRELOAD instead of `skewscope run`
"""
import os
import subprocess
import sys

import expect_matrix
import npy
from harness import Workload, data, must_succeed, skip, temporary

REAL = ["--ranks", "8", "--experts", "32", "--topk", "4", "--layers", "24", "--tokens", "12", "--steps", "42",
        "--hidden", "32"]
SYNTHETIC = [
    "--ranks 4 --experts 8 --layers 3 --tokens 20 --steps 2 --microbatches 2 --routing zipf:1.1",
    "--ranks 4 --experts 8 --layers 4 --several-ep-groups 2 --recompute full --bias-allreduce "
    "--sequence-parallel --pipeline-p2p --routing hot-rank:0.6",
    "--ranks 4 --experts 8 --nonblocking --alltoall sendrecv --dtype fp8 --gatherv auto",
    "--ranks 4 --experts 8 --threads --layers 3",
    "--ranks 4 --experts 8 --graph 3",
]
RUN_ONLY = {"--nonblocking", "--threads"}  # changes how ranks run, not what they exchange


class Profiled:
    def __init__(self, workload, skewscope):
        if not os.path.exists(skewscope):
            skip(f"{skewscope} is not there: build the command first")
        self.workload, self.skewscope = workload, os.path.abspath(skewscope)

    def run(self, options, out):
        """Runs with and without the profiler; returns nothing, or ends the test when they differ."""
        plain = self.workload.run(options)
        must_succeed(plain, " ".join(options))
        traced = self.workload.run(options, prefix=[self.skewscope, "run", "--standin", "--out", out, "--"])
        if traced.returncode != plain.returncode:
            sys.exit(f"under the profiler: exit status {traced.returncode}\n{traced.stderr}")
        if traced.stdout != plain.stdout:
            sys.exit(f"under the profiler the job prints something else:\n{traced.stdout}")

    def check(self, options, out):
        wrong, calls, cells = expect_matrix.check(
            [*(o for o in options if o not in RUN_ONLY), "--trace", out])
        if wrong:
            sys.exit("\n".join([" ".join(options), *wrong]))
        print(f"ok: {' '.join(options)}: {calls} calls, {cells} cells")


    def fails_alike(self, pattern, out):
        """A job that fails fails in the same way."""
        options = ["--pattern", pattern, "--ranks", "4", "--corrupt", "0:1:2"]
        plain = self.workload.run(options)
        traced = self.workload.run(options, prefix=[self.skewscope, "run", "--standin", "--out", out, "--"])
        if (plain.returncode, traced.returncode, traced.stdout) != (1, 1, plain.stdout):
            sys.exit(f"a failing job: {plain.returncode} without, {traced.returncode} with the profiler")


def mutate(source, path, where, ranks, experts):
    """Copies the array with one id changed, to an expert of another rank."""
    array = npy.load(source)
    q, p, layer = where
    at = ((q * array.shape[1] + p) * array.shape[2] + layer) * array.shape[3]
    token = array.values[at:at + array.shape[3]]
    g = experts // ranks
    array.values[at] = next(e for e in range(experts) if e not in token and e // g != token[0] // g)
    npy.save(path, array)


def case_real(profiled, directory, pattern):
    source = data("gptoss20b_decode_topk.npy")
    if not source:
        skip("the real routing data is not at ../shared/data")
    out, changed = os.path.join(directory, "trace"), os.path.join(directory, "changed.npy")
    options = ["--pattern", pattern, *REAL, "--routing", f"npy:{source}"]
    profiled.run(options, out)
    profiled.check(options, out)
    where = (37, 503, 23)
    mutate(source, changed, where, 8, 32)
    wrong, _, _ = expect_matrix.check([*options[:-1], f"npy:{changed}", "--trace", out])
    if not wrong:
        sys.exit(f"with the id of request, position, layer {where} changed the check still passes")
    print(f"ok: a changed id at {where} is seen: {wrong[0]}")


def case_preload(profiled, directory):
    """The library starts the collector by itself, or leaves the spool for `collect`."""
    library = os.path.join(os.path.dirname(profiled.skewscope), "..", "interpose", "libskewscope.so")
    if not os.path.exists(library):
        skip(f"{library} is not there")
    options, out = ["--pattern", "megatron", *SYNTHETIC[0].split()], os.path.join(directory, "trace")
    plain = profiled.workload.run(options)
    traced = profiled.workload.run(options, LD_PRELOAD=os.path.abspath(library), SKEWSCOPE_OUT=out)
    must_succeed(traced, "with LD_PRELOAD")
    if traced.stdout != plain.stdout:
        sys.exit("with LD_PRELOAD the job prints something else")
    subprocess.run([profiled.skewscope, "collect", "--quiet", out], check=True)
    profiled.check(options, out)


def main():
    profiled = Profiled(Workload(*sys.argv[1:3]), sys.argv[3])
    pattern = sys.argv[4]
    with temporary() as directory:
        if pattern.startswith("real-"):
            return case_real(profiled, directory, pattern[len("real-"):])
        if pattern == "preload":
            return case_preload(profiled, directory)
        profiled.fails_alike(pattern, os.path.join(directory, "failed"))
        for n, shape in enumerate(SYNTHETIC):
            out = os.path.join(directory, f"trace{n}")
            options = ["--pattern", pattern, *shape.split()]
            profiled.run(options, out)
            profiled.check(options, out)


if __name__ == "__main__":
    main()
