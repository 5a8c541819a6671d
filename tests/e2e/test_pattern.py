#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs one pattern of the workload on the stand-ins in many shapes and compares every call that it says
it made with an independent computation from the routing.

usage: test_pattern.py WORKLOAD LIBRARIES PATTERN
"""
import os
import sys

from harness import Workload, check_truth, must_fail, random_topk, temporary

SHAPES = [
    "--ranks 4 --experts 8 --layers 3 --tokens 20 --steps 2 --microbatches 2",
    "--ranks 4 --experts 8 --layers 4 --several-ep-groups 2 --recompute full --bias-allreduce "
    "--sequence-parallel --pipeline-p2p --routing zipf:1.3",
    "--ranks 4 --routing hot-rank:0.6 --dtype fp8 --recompute selective --graph 3",
    "--ranks 4 --routing hot-expert:0.7 --alltoall sendrecv --gatherv auto --dtype fp16",
    "--ranks 2 --routing bursts:0.9:2:1 --steps 4 --microbatches 4 --pp-stages 2 --pp-chunks 2 "
    "--schedule interleaved --pipeline-p2p",
    "--ranks 2 --microbatches 4 --pp-stages 3 --pp-stage 1 --dtype fp32",
    "--ranks 2 --microbatches 3 --schedule gpipe --mode auto --tokens 1 --experts 6",
]
EXTRA = ["--ranks 3 --nonblocking --experts 6", "--ranks 4 --threads --graph 2", "--ranks 1"]
EVEN_ONLY = {"deepspeed", "tutel-padded"}


def npy_shapes(directory):
    decode = random_topk(os.path.join(directory, "decode.npy"), (13, 6, 3, 2), 12, 7)
    prefill = random_topk(os.path.join(directory, "prefill.npy"), (2, 64, 3), 12, 8)
    placement = os.path.join(directory, "placement.txt")
    with open(placement, "w", encoding="utf-8") as f:
        f.write("layer,expert,rank\n# not contiguous, another one in each layer\n")
        for layer in range(3):
            for expert in range(12):
                f.write(f"{layer},{expert},{(expert * 5 + layer) % 4}\n")
    return decode, prefill, placement


def main():
    workload, pattern = Workload(*sys.argv[1:3]), sys.argv[3]
    base = ["--pattern", pattern]
    with temporary() as directory:
        decode, prefill, placement = npy_shapes(directory)
        for shape in SHAPES:
            check_truth(workload, base + shape.split(), directory)
        for shape in EXTRA:
            options = shape.split()
            drop = {"--nonblocking", "--threads"}
            check_plain(workload, base, options, drop, directory)
        check_truth(workload, base + ["--routing", f"npy:{prefill}", "--ranks", "4", "--experts", "12",
                                      "--topk", "3", "--layers", "2", "--tokens", "8", "--steps", "2"],
                    directory)
        uneven = ["--routing", f"npy:{decode}", "--ranks", "4", "--experts", "12", "--topk", "2",
                  "--layers", "3", "--tokens", "2", "--steps", "3", "--placement", placement]
        if pattern in EVEN_ONLY:
            must_fail(workload.run(base + ["--mode", "infer", "--serve", "4:8", "--ranks", "4"]), 2, ["--serve"], "uneven passes")
            must_fail(workload.run(base + uneven), 2, ["equally many tokens"], "13 requests on 4 ranks")
        else:
            check_truth(workload, base + uneven, directory)
            serving = ["--mode", "infer", "--serve", "4:8:2", "--tokens", "40", "--steps", "10", "--layers", "2"]
            check_truth(workload, base + serving + ["--ranks", "4", "--microbatches", "2"], directory)
            check_truth(workload, base + ["--ranks", "4", "--tokens-spread", "1", "--tokens", "9"],
                        directory)
        result = workload.run(base + ["--ranks", "4", "--layers", "3", "--corrupt", "0:1:2"])
        must_fail(result, 1, ["layer 1", "step 0", "dispatch", "rank 2"], "a damaged row")


def check_plain(workload, base, options, drop, directory):
    """Options that change how ranks run, and nothing of what they exchange."""
    truth = os.path.join(directory, "variant.jsonl")
    result = workload.run(base + options + ["--truth", truth])
    if result.returncode or result.stderr:
        sys.exit(f"{options}: {result.returncode} {result.stderr}")
    plain = [o for o in options if o not in drop]
    check_truth(workload, base + plain, directory)
    with open(truth, encoding="utf-8") as a, \
            open(os.path.join(directory, "truth.jsonl"), encoding="utf-8") as b:
        if a.read() != b.read():
            sys.exit(f"{options}: the truth differs from that of {plain}")


if __name__ == "__main__":
    main()
