#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks a run of skewscope-workload against its routing file and placement alone.

Every cell of every exchange's byte matrix, on every rank, and every other call is computed from the
options below (those of the run) and compared with the workload's ground truth and/or the trace. Nothing
that the workload printed goes into the computation. Exit status: 0 equal, 1 different, 2 wrong usage.
"""
import argparse
import sys

import expected
import trace_check
import truth_check


def read_placement(path, layers):
    placement = {}
    with open(path, encoding="utf-8") as f:
        for text in f:
            cells = text.split("#")[0].replace(",", " ").split()
            if not cells or cells[0][0].isalpha():
                continue
            *layer, expert, rank = map(int, cells)
            for l in layer or range(layers):
                placement[l, expert] = rank
    return placement


def parse(argv):
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--truth", help="the workload's --truth FILE")
    p.add_argument("--trace", help="trace database or directory")
    p.add_argument("--comm-init", choices=["id", "split"], default="id")
    defaults = expected.Job()
    spelling = {"ep_groups": "--several-ep-groups", "micro_batches": "--microbatches"}
    for name, value in vars(defaults).items():
        option = spelling.get(name, "--" + name.replace("_", "-"))
        if name == "placement":
            p.add_argument(option)
        elif name == "train":
            p.add_argument("--mode", choices=["auto", "train", "infer"], default="auto")
        elif isinstance(value, bool):
            p.add_argument(option, dest=name, action="store_true")
        else:
            p.add_argument(option, dest=name, type=type(value), default=value)
    args = p.parse_args(argv)
    if not args.truth and not args.trace:
        p.error("give --truth, --trace or both")
    job = expected.Job(**{k: getattr(args, k) for k in vars(defaults) if k != "train"})
    job.train = args.mode != "infer" and args.pattern != "vllm"
    job.placement = read_placement(args.placement, args.layers) if args.placement else None
    return args, job


def check(argv):
    """Differences between the run that `argv` describes and what it must be."""
    args, job = parse(argv)
    calls = expected.calls(job)
    wrong = truth_check.check(job, calls, args.truth) if args.truth else []
    if args.trace:
        wrong += trace_check.check(job, calls, args.trace, args.comm_init == "split")
    cells = sum(len(c.sends or []) for rank in calls for c in rank)
    return wrong, sum(map(len, calls)), cells


def main():
    wrong, calls, cells = check(sys.argv[1:])
    for line in wrong:
        print(line, file=sys.stderr)
    if wrong:
        return 1
    print(f"equal: {calls} calls, {cells} cells sent")
    return 0


if __name__ == "__main__":
    sys.exit(main())
