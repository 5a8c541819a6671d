#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""NVIDIA's static CUDA runtime gets our wrappers for the driver's graph functions, in each version that it asks for, and for
nothing else. (On the stand-in driver it asks, and then stops: see tests/standin/cuda/README.md.)

usage: static_cudart.py LIBRARY STANDIN_DIRECTORY CUDA_API [PROGRAM]
"""
import os
import re
from pathlib import Path

from harness import Bench, arguments, run_cases, skip

LIBRARY, STANDIN, API, *PROGRAM = arguments()
if not PROGRAM:
    skip("no libcudart_static.a on this machine")
if os.environ.get("TSAN_OPTIONS"):
    skip("NVIDIA's static runtime on the stand-in driver crashes under ThreadSanitizer, also without our library")
if not os.path.exists(os.path.join(STANDIN, "libcuda.so.1")):
    skip("the stand-ins are not built")
bench = Bench(LIBRARY).__enter__()


def wrapped():
    """Names that cuGetProcAddress knows: without version and without the mark of per-thread streams."""
    names = set()
    for line in Path(API).read_text(encoding="utf-8").splitlines():
        cells = [c.strip() for c in line.split("|")]
        if len(cells) == 4 and cells[1] in ("graph", "proc"):
            name = re.search(r"(\w+)\(", cells[3]).group(1)
            if not name.startswith("cuda"):
                names.add(re.sub(r"(_v2)?(_ptsz)?$", "", name))
    return names


def answers(result):
    """(name, version, flags) → the object that the answer lies in; and what the runtime's own call returned."""
    *lines, last = result.out.splitlines()
    # an empty name is asked for too
    return {tuple(line.split(" ")[:3]): line.split(" ")[3] for line in lines}, last


def case_graph_functions_and_no_others():
    plain, plain_end = answers(bench.run([PROGRAM[0]], preload=bench.preload(library=""), LD_LIBRARY_PATH=STANDIN))
    got, end = answers(bench.run([PROGRAM[0]], LD_LIBRARY_PATH=STANDIN))
    assert end == plain_end and got.keys() == plain.keys(), (end, plain_end, got.keys() ^ plain.keys())
    ours = os.path.basename(LIBRARY)
    names = wrapped()
    asked = {key for key in got if re.sub(r"_v2$", "", key[0]) in names and plain[key] != "nowhere"}
    assert {k for k, v in got.items() if v == ours} == asked, {k: v for k, v in got.items() if (v == ours) != (k in asked)}
    for key in got.keys() - asked:
        assert got[key] == plain[key] != ours, (key, got[key], plain[key])
    # it does ask for what matters, for some in several versions and for both kinds of default streams
    for name, version, flags in (("cuGraphLaunch", "10000", "0"), ("cuGraphLaunch", "10000", "2"), ("cuStreamEndCapture", "10000", "0"),
                                 ("cuGraphInstantiate", "10000", "0"), ("cuGraphInstantiate", "11000", "0"),
                                 ("cuGetProcAddress", "12000", "0")):
        assert (name, version, flags) in asked, f"{name} {version} {flags} was not asked for: {sorted(asked)}"
    return f"{len(asked)} of {len(got)} answers"


def case_off():
    got, _ = answers(bench.run([PROGRAM[0]], LD_LIBRARY_PATH=STANDIN, SKEWSCOPE_DLSYM="off"))
    assert os.path.basename(LIBRARY) not in got.values(), got


if __name__ == "__main__":
    with bench:
        run_cases([f for n, f in list(globals().items()) if n.startswith("case_")])
