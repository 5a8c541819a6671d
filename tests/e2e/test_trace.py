#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The workload under the profiler: the job prints and ends the same as without it, and every cell of
every exchange in the trace equals what follows from the routing and the placement alone.

usage: test_trace.py WORKLOAD LIBRARIES SKEWSCOPE CASE
  megatron, torchtitan   gpt-oss-20b's real decode routing over 8 ranks, all 24 layers, forward and
                         backward; then one id is changed and the comparison must fail
  any other pattern      synthetic routing with all the other traffic beside it, then in a graph
"""
import os
import sys

import expect_matrix
import npy
from harness import Workload, data, must_succeed, skip, temporary

REAL = ["--ranks", "8", "--experts", "32", "--topk", "4", "--layers", "24", "--tokens", "12"]
SYNTHETIC = [
    "--ranks 4 --experts 8 --layers 3 --tokens 20 --steps 2 --microbatches 2 --routing zipf:1.1",
    "--ranks 4 --experts 8 --layers 4 --several-ep-groups 2 --recompute full --bias-allreduce "
    "--sequence-parallel --pipeline-p2p --routing hot-rank:0.6",
    "--ranks 4 --experts 8 --nonblocking --alltoall sendrecv --dtype fp8 --gatherv auto",
    "--ranks 4 --experts 8 --graph 3",
]
RUN_ONLY = {"--nonblocking"}  # changes how ranks run, not what they exchange


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


def mutate(source, path, ranks, experts, steps, tokens):
    """Copies the array with one id changed, to an expert of another rank, where the run has read it."""
    array = npy.load(source)
    requests, _, layers, k = array.shape
    q, p, layer = requests // 2, steps * tokens - 1, layers - 1
    at = ((q * array.shape[1] + p) * layers + layer) * k
    token = array.values[at:at + k]
    g = experts // ranks
    array.values[at] = next(e for e in range(experts) if e not in token and e // g != token[0] // g)
    npy.save(path, array)


def case_real(profiled, directory, pattern):
    source = data("gptoss20b_decode_topk.npy")
    if not source:
        skip("the real routing data is not at ../shared/data")
    steps, out = 3, os.path.join(directory, "trace")
    options = ["--pattern", pattern, *REAL, "--steps", str(steps), "--routing", f"npy:{source}"]
    profiled.run(options, out)
    profiled.check(options, out)
    changed = os.path.join(directory, "changed.npy")
    mutate(source, changed, 8, 32, steps, 12)
    options[-1] = f"npy:{changed}"
    wrong, _, _ = expect_matrix.check([*options, "--trace", out])
    if not wrong:
        sys.exit("with one id changed in the input the check still passes")
    print(f"ok: one changed id is seen: {wrong[0]}")


def main():
    profiled = Profiled(Workload(*sys.argv[1:3]), sys.argv[3])
    pattern = sys.argv[4]
    with temporary() as directory:
        if pattern in ("megatron", "torchtitan"):
            case_real(profiled, directory, pattern)
        for n, shape in enumerate(SYNTHETIC):
            out = os.path.join(directory, f"trace{n}")
            options = ["--pattern", pattern, *shape.split()]
            profiled.run(options, out)
            profiled.check(options, out)


if __name__ == "__main__":
    main()
