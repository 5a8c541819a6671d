#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a wrapper may not do to its host besides taking a little time: system calls, allocations, a changed errno.

usage: cost.py LIBRARY BUILD_DIRECTORY
"""
from pathlib import Path

from harness import UNDER_VALGRIND, Bench, arguments, run_cases

LIBRARY, BUILD = arguments()
BUILD = Path(BUILD)
NCCL = {"LD_LIBRARY_PATH": BUILD / "all"}
EXCHANGES = 1000
# One exchange and one operation: two record heads, their cells, their lanes. All of them fit into one segment.
SEGMENT_KB = 512
bench = Bench(LIBRARY).__enter__()
INSTRUMENTED = UNDER_VALGRIND or bench.runtime in ("asan", "tsan")
NOT_INSTRUMENTED = "not with a sanitizer or valgrind, which make system calls and allocate by themselves"


def quiet(what, *ranges):
    more = {"NVTX_INJECTION64_PATH": LIBRARY} if ranges else {}
    result = bench.run([BUILD / "quiet", what, EXCHANGES, *ranges], SKEWSCOPE_SEGMENT_KB=SEGMENT_KB, code=None, **NCCL, **more)
    if result.code == 77:
        return "seccomp is not available here"
    assert result.code == 0 and result.out == "quiet\n", (
        f"exit status {result.code}: {'a system call' if result.code == -31 else result.err}")
    groups = result.spool.groups
    assert len(groups) == 2 * (EXCHANGES + 3), f"{len(groups)} groups"
    used = sum(1 for state, stream in result.spool.segments if state in (2, 3) and stream == 1)
    assert used == 1, f"{used} segments: the test does not show what it means to"
    assert len(result.spool.ranges) == (EXCHANGES + 3 if ranges else 0), f"{len(result.spool.ranges)} changes of ranges"
    return None


def case_no_system_call_on_the_hot_path():
    return NOT_INSTRUMENTED if INSTRUMENTED else quiet("syscalls")


def case_no_allocation_on_the_hot_path():
    return NOT_INSTRUMENTED if INSTRUMENTED else quiet("allocations")


def case_no_system_call_with_nvtx_ranges():
    return NOT_INSTRUMENTED if INSTRUMENTED else quiet("syscalls", "ranges")


def case_no_allocation_with_nvtx_ranges():
    return NOT_INSTRUMENTED if INSTRUMENTED else quiet("allocations", "ranges")


def case_the_test_itself_notices():
    """The same with segments so small that new ones are needed: then there are system calls."""
    if INSTRUMENTED:
        return NOT_INSTRUMENTED
    result = bench.run([BUILD / "quiet", "syscalls", EXCHANGES], SKEWSCOPE_SEGMENT_KB=16, code=None, **NCCL)
    assert result.code in (77, -31), result.code
    return None


def case_errno_is_the_applications():
    bench.run([BUILD / "errnos"], SKEWSCOPE_SEGMENT_KB=16, **NCCL)


def case_errno_when_nothing_can_be_written():
    for env in ({"SKEWSCOPE_OUT": "/proc/none", "SKEWSCOPE_SPOOL": "/proc/none"},
                {"SKEWSCOPE_SPOOL_MB": 1, "SKEWSCOPE_SEGMENT_KB": 16}, {"SKEWSCOPE_ENABLE": "off"},
                {"SKEWSCOPE_STACKS": "off"}):
        bench.run([BUILD / "errnos"], **env, **NCCL)
    # Enough descriptors to load the program (one), and none for us.
    bench.run(["sh", "-c", f"ulimit -n 4; ulimit -f 100; exec {BUILD / 'errnos'}"], **NCCL)


if __name__ == "__main__":
    with bench:
        run_cases([f for n, f in list(globals().items()) if n.startswith("case_")])
