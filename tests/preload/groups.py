#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs programs that print the records they expect, and compares these with what was recorded.

usage: groups.py LIBRARY PROGRAM NCCL_DIRECTORY NCCL_VERSION [CASE…]

The program, called without arguments, lists its cases as "NAME SINCE": a case runs on NCCLs of SINCE and later.
"""
import sys

from harness import Bench, arguments, same

# What a machine without a GPU, or without libunwind, always says.
USUAL = {"no_capture_query", "no_unwind"}
KINDS = ("comm", "end", "group", "loss", "lost", "diag")


def sorted_by_kind(lines, unordered):
    by_kind = {kind: [l for l in lines if l.split()[0] == kind] for kind in KINDS}
    if unordered:
        by_kind["group"].sort()
    return by_kind


def check(result, what):
    """Compares what a program says it did with what was recorded. "unordered": groups come from several threads;
    "only C7": of that communicator alone is something said."""
    lines = result.out.splitlines()
    unordered = "unordered" in lines
    only = [l.split()[1] for l in lines if l.startswith("only ")]
    expected = sorted_by_kind([l for l in lines if l.split()[0] in KINDS], unordered)
    got = sorted_by_kind(result.spool.lines(), unordered)
    for kind in ("comm", "end") if only else ():
        got[kind] = [l for l in got[kind] if l.split()[1] in only]
    got["diag"] = sorted({l.split(":")[0] for l in got["diag"]} - {f"diag {n}" for n in USUAL})
    for kind in KINDS:
        same(got[kind], expected[kind], f"{what}: {kind}")
    spool = result.spool
    lost = sum(c["groups"] for c in spool.loss.values())
    assert spool.returned_groups == len(spool.groups) + lost, (
        f"{what}: {spool.returned_groups} groups returned, but {len(spool.groups)} stored and {lost} lost")
    assert spool.state == 2, f"{what}: the spool does not say that the process has ended"
    assert not result.err, f"{what}: on standard error: {result.err}"


def main():
    library, program, nccl, version, *wanted = arguments()
    failed = 0
    with Bench(library) as bench:
        path = {"LD_LIBRARY_PATH": nccl}
        cases = [l.split() for l in bench.run([program], preload="", **path).out.splitlines()]
        for name, since in cases:
            if int(since) > int(version) or (wanted and name not in wanted):
                continue
            small = {"SKEWSCOPE_SEGMENT_KB": 16} if name.startswith("big") else {}
            try:
                plain = bench.run([program, name], preload="", **path)
                result = bench.run([program, name], **path, **small)
                assert result.out == plain.out, "the program's own output differs under the library"
                check(result, name)
                print(f"ok    {name}")
            except AssertionError as e:
                failed += 1
                print(f"FAIL  {e}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
