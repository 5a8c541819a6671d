#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Processes whose clocks really differ: each rank of the stand-in in a time namespace of its own. What `skewscope clocks` makes of
their exchanges against the offsets that they were given.

usage: clocks.py SKEWSCOPE LIBRARY JOB STANDIN_DIRECTORY clocks [CASE…]
"""
import json
import shutil
import subprocess
import sys

from timing import SKEWSCOPE, Run, main

MS = 1_000_000
# 8 ranks within ±10 ms, no two alike, and nothing round
OFFSETS = [0, 10 * MS, -10 * MS, 3_141_593, -2_718_282, 7_654_321, -9_999_001, 577_216]


def namespaces():
    """Why no clock can be given to a process; "": it can."""
    if not shutil.which("unshare"):
        return "there is no unshare(1)"
    done = subprocess.run(["unshare", "--time", "--monotonic=1", "true"], capture_output=True, text=True)
    return done.stderr.strip() if done.returncode else ""


def clocks(run, *options):
    done = subprocess.run([SKEWSCOPE, "clocks", "--json", *options, run.path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def case_offsets_of_real_processes():
    """Within the stated residual, on every rank; and the residual is of the size that the traffic allows."""
    told = []
    for tier in ("events", "cupti"):
        run = Run("plain", len(OFFSETS), SKEWSCOPE_TIMING=tier, RIG_CLOCKS=",".join(map(str, OFFSETS)),
                  SKEWSCOPE_STANDIN_LINK="latency_us=20,bw_gbps=20")
        # as they are, the clocks put ranks as far apart as the offsets are
        spread = run.one("SELECT max(wait_ns) FROM exchange_time WHERE source <> 'host'")
        assert spread > 15 * MS, f"the largest wait is {spread} ns: the clocks do not differ"
        answer = clocks(run, "--each-process")
        found = {p["rank"]: p for p in answer["processes"]}
        assert sorted(found) == list(range(len(OFFSETS))), found
        assert sorted(p["state"] for p in found.values()) == ["fitted"] * 7 + ["reference"], found
        reference = next(r for r, p in found.items() if p["state"] == "reference")
        errors, residuals = [], []
        for rank, p in found.items():
            if rank == reference:
                continue
            wanted = OFFSETS[reference] - OFFSETS[rank]  # what brings its times to the reference's
            error = abs(p["offset_ns"] - wanted)
            assert error <= p["residual_ns"], f"{tier}: rank {rank} is off by {error} ns, more than {p['residual_ns']}: {p}"
            assert p["residual_ns"] < 5 * MS, f"{tier}: rank {rank}: a residual of {p['residual_ns']} ns says nothing"
            errors.append(error)
            residuals.append(p["residual_ns"])
        told.append(f"{tier}: off by {max(errors) / 1e3:.1f} µs at most, residual {max(residuals) / 1e3:.0f} µs")
        # saved, they put the ranks together again: no wait is longer than the lateness of the job, and what the fit may be off
        subprocess.run([SKEWSCOPE, "clocks", "--each-process", "--save", run.path], check=True, capture_output=True)
        apart = run.one("SELECT max(last - first) FROM (SELECT min(end_axis_ns) AS first, max(end_axis_ns) AS last"
                        " FROM exchange_axis WHERE run = 0 GROUP BY comm_id, seq)")
        assert apart < 5 * MS, f"{tier}: on the shared axis ends of one exchange lie {apart} ns apart"
        run.close()
    return "; ".join(told)


def case_one_node_has_one_clock_unless_asked():
    """Without --each-process a node's processes are taken to share their clock, which here is not so: the answer is 0 by
    construction, and says so."""
    run = Run("plain", 2, RIG_CLOCKS=f"0,{5 * MS}")
    answer = clocks(run)
    assert sorted(p["state"] for p in answer["processes"]) == ["reference", "shared"], answer["processes"]
    assert {p["offset_ns"] for p in answer["processes"]} == {0}
    run.close()


if __name__ == "__main__":
    why = namespaces()
    if why:
        print(f"skipped: time namespaces with offsets are not permitted here: {why}")
        sys.exit(77)
    main([f for n, f in list(globals().items()) if n.startswith("case_")])
