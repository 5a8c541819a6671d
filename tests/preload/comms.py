#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The life of communicators: what is recorded of each, and by what it is the same one in other processes.

usage: comms.py LIBRARY PROGRAM NCCL_DIRECTORY [CASE…]
"""
import sys

from harness import Bench, arguments
from groups import check

RANKS = 4


def keys(result):
    """label → key, by the lines "same LABEL C<n>"."""
    found = {}
    for line in result.out.splitlines():
        if line.startswith("same "):
            _, label, comm = line.split()
            key = result.spool.comms[int(comm[1:])]["key"]
            assert found.setdefault(label, key) == key, f"{label} has two keys in one process"
    return found


def check_keys(results, name):
    labels = {}
    for rank, result in enumerate(results):
        for label, key in keys(result).items():
            labels.setdefault(label, {})[rank] = key
    for label, by_rank in labels.items():
        assert len(set(by_rank.values())) == 1, f"{name}: the members of {label} have different keys: {by_rank}"
    distinct = {next(iter(by_rank.values())): label for label, by_rank in labels.items()}
    assert len(distinct) == len(labels), f"{name}: different communicators share a key: {labels}"


def main():
    library, program, nccl, *wanted = arguments()
    failed = 0
    with Bench(library) as bench:
        path = {"LD_LIBRARY_PATH": nccl}
        for name in bench.run([program], preload="", **path).out.split():
            if wanted and name not in wanted:
                continue
            try:
                ranks = 1 if name == "churn" else RANKS
                results = [bench.run([program, name, rank], **path) for rank in range(ranks)]
                for rank, result in enumerate(results):
                    check(result, f"{name}, rank {rank}")
                check_keys(results, name)
                print(f"ok    {name}")
            except AssertionError as e:
                failed += 1
                print(f"FAIL  {e}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
