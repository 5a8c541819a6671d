#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs programs that are in NVTX ranges, by every way to NVTX, and compares what was recorded with what they say.

usage: nvtx.py LIBRARY NCCL_DIRECTORY DIRECTORY     DIRECTORY: where the programs are
"""
import os

from harness import Bench, arguments, run_cases, same

LIBRARY, NCCL, PROGRAMS = arguments()
PATH = {"LD_LIBRARY_PATH": f"{NCCL}:{PROGRAMS}"}
INJECT = {"NVTX_INJECTION64_PATH": LIBRARY}


def compare(result, what):
    lines = result.out.splitlines()
    parent, *children = result.spools
    same(parent.range_lines(), [l for l in lines if l.startswith("ranges ")], what)
    expected = [l.removeprefix("child ") for l in lines if l.startswith("child ")]
    assert bool(children) == bool(expected), f"{what}: {len(children)} children have a spool"
    for child in children:
        same(child.range_lines(), expected, f"{what}: the child")
    diags = [name for name, _ in parent.diags if name == "nvtx"]
    assert diags == [l.split()[1] for l in lines if l.startswith("diag")], f"{what}: {parent.diags}"
    assert parent.unknown == 0 and not result.err, f"{what}: {result.err}"


def check_all(bench, program, **env):
    program = os.path.join(PROGRAMS, program)
    for case in bench.run([program], preload="", **PATH).out.split():
        result = bench.run([program, case], **PATH, **env)
        if case == "without_nccl":
            assert not result.spools, "a program that only uses NVTX has a spool"
            continue
        compare(result, case)
        groups = sum(len(s.groups) for s in result.spools)
        plain = bench.run([program, case], **PATH, **env, SKEWSCOPE_NVTX="off")
        assert not any(s.ranges for s in plain.spools), f"{case}: ranges although switched off"
        assert sum(len(s.groups) for s in plain.spools) == groups, f"{case}: {groups} groups, others without ranges"


with Bench(LIBRARY) as BENCH:
    def case_nvtx_3_in_our_own_words():
        check_all(BENCH, "nvtx_own", **INJECT)

    def case_nvtx_3_of_the_headers():
        if not os.path.exists(os.path.join(PROGRAMS, "nvtx_real")):
            return "no nvtx3/nvToolsExt.h was found when this was built"
        return check_all(BENCH, "nvtx_real", **INJECT)

    def case_the_older_library():
        check_all(BENCH, "nvtx_linked")

    def case_the_older_library_made_of_nvtx_3():
        """Both ways at once: nothing is told twice."""
        check_all(BENCH, "nvtx_linked", **INJECT)

    def case_without_being_asked_nothing_is_recorded():
        """NVTX 3 looks for a tool by the variable alone."""
        for program in ("nvtx_own", "nvtx_real"):
            if not os.path.exists(os.path.join(PROGRAMS, program)):
                continue
            result = BENCH.run([os.path.join(PROGRAMS, program), "inside"], **PATH)
            assert result.spool.groups and not result.spool.ranges

    def case_nccl_s_own_ranges_are_refused():
        """A copy of NVTX inside an NCCL gets no tool: its calls stay as cheap as they were."""
        for program, answer in (("nvtx_own", "heard"), ("nvtx_in_nccl", "refused")):
            out = BENCH.run([os.path.join(PROGRAMS, program), "asked"], **PATH, **INJECT).out
            assert out.split() == [answer], f"{program}: {out}"

    def case_small_segments():
        """Ranges take room where records go on in a fresh segment."""
        for case in ("nested", "deep", "marks"):
            compare(BENCH.run([os.path.join(PROGRAMS, "nvtx_own"), case], **PATH, **INJECT, SKEWSCOPE_SEGMENT_KB=16), case)

    run_cases([f for n, f in list(globals().items()) if n.startswith("case_")])
