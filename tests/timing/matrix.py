#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every way of taking times against every kind of launch: each exchange as the link model says, or, where a time cannot be
had, none, with the reason, and still the right number of runs.

usage: matrix.py SKEWSCOPE LIBRARY JOB STANDIN_DIRECTORY matrix [CASE…]
"""
import json
import subprocess

from timing import SKEWSCOPE, Run, check_times, covered, main

# Source of each kind of launch by tier; None: it has no times, for the reason that stands behind it.
KINDS = {
    "plain": {"events": "events", "cupti": "cupti"},
    "streams": {"events": "events", "cupti": "cupti"},
    "nonblocking": {"events": "events", "cupti": "events"},
    "threads": {"events": "events", "cupti": "cupti"},
    "single": {"events": "events", "cupti": "cupti"},
    "engines": {"events": "events", "cupti": "events"},
    "graph": {"events": None, "cupti": "cupti"},
    "graphs": {"events": None, "cupti": "cupti"},
    "graph_streams": {"events": None, "cupti": "cupti"},
}
# Of their own making, the calls of which the job is told by JOB_ROUTE.
ROUTES = ("driver", "runtime", "static", "per_thread", "entry_point")


def run_kind(kind, tier, clock, **env):
    ranks = -3 if clock == "virtual" else 3
    return Run(kind, ranks, clock=clock, SKEWSCOPE_TIMING=tier, JOB_ROUTE="driver", **env)


def check_kind(kind, tier, clock):
    """One cell of the matrix. @return how many exchanges, replays counted each, had the model's times"""
    run = run_kind(kind, tier, clock)
    source = KINDS[kind][tier]
    assert run.tiers() == {(tier, "asked")}, run.tiers()
    if source:
        n = check_times(run, source, clock != "virtual")
        assert not run.untimed(), run.untimed()
        covered(run)
    else:
        n = check_times(run, "events", clock != "virtual", graphs=False)
        assert set(run.untimed()) == {"captured"}, run.untimed()
        assert not run.rows("SELECT 1 FROM exchange_time t JOIN exchange e USING (exchange_id) WHERE e.flags & 1"
                            " AND t.source <> 'host'")
    run.close()
    return n


def case_each_tier_and_kind_in_step_with_the_host():
    counts = {f"{kind} {tier}": check_kind(kind, tier, "paced") for kind in KINDS for tier in KINDS[kind]}
    return f"{sum(counts.values())} exchanges in {len(counts)} cells"


def case_each_tier_and_kind_exactly():
    """The virtual clock: nothing depends on how loaded the machine is. `single` waits for its own work between."""
    kinds = [k for k in KINDS if k != "single"]
    counts = {f"{kind} {tier}": check_kind(kind, tier, "virtual") for kind in kinds for tier in KINDS[kind]}
    return f"{sum(counts.values())} exchanges in {len(counts)} cells"


def case_host_only():
    """No times, and all that was said to run did, replays counted each."""
    for kind in KINDS:
        run = run_kind(kind, "host", "paced")
        assert run.tiers() == {("host", "asked")} and not run.rows("SELECT 1 FROM device_time"), run.tiers()
        ran = dict(run.rows("SELECT rank, sum(runs) FROM exchange_info GROUP BY rank"))
        truth = {}
        for (rank, _), lines in run.truth.items():
            truth[rank] = truth.get(rank, 0) + len(lines)
        assert ran == truth, f"{kind}: the trace says {ran}, the model {truth}"
        run.close()


# ---- graphs, by every way to the functions ----

def case_graphs_by_every_route():
    """Captured, instantiated in three ways, cloned, updated, added as children, launched into another capture: each replay
    counts, with CUPTI it has its time, and the runtime's own calls of the driver are not counted twice."""
    for route in ROUTES:
        run = Run("graphs", 2, SKEWSCOPE_TIMING="cupti", JOB_ROUTE=route)
        check_times(run, "cupti", True)
        covered(run, 2 * (2 + 2 * 8 + 2 * 2))
        events = dict(run.rows("SELECT event, count(*) FROM graph_event GROUP BY event"))
        expected = {"captured": 3, "instantiated": 4, "updated": 1, "cloned": 1, "child": 2, "graph_destroyed": 1,
                    "exec_destroyed": 4, "launch_captured": 1}
        assert events == {e: 2 * n for e, n in expected.items()}, f"{route}: {events}"
        assert run.one("SELECT count(*) FROM graph_launch") == 2 * (2 + 1 + 2 + 1 + 3), route
        runs = [tuple(r) for r in run.rows("SELECT runs, count(*) FROM exchange_info WHERE captured GROUP BY runs ORDER BY 1")]
        assert runs == [(2, 4), (8, 4)], f"{route}: {runs}"
        assert not run.rows("SELECT 1 FROM diagnostic WHERE code = 'graph_unseen'")
        run.close()


def case_graphs_unseen_where_dlsym_is_left_alone():
    """SKEWSCOPE_DLSYM=off: what is asked of the driver by address passes untouched. The job goes on as it would."""
    run = Run("graphs", 2, JOB_ROUTE="static", SKEWSCOPE_DLSYM="off")
    assert not run.rows("SELECT 1 FROM graph_event"), "an answer of cuGetProcAddress was changed"
    run.close()


# ---- copy engines ----

def kernels(run):
    """(with a kernel, without) of all exchanges that the model saw."""
    lines = [line for lines in run.truth.values() for line in lines]
    return sum(line["kernel"] != "" for line in lines), sum(line["kernel"] == "" for line in lines)


def case_copy_engines_have_no_kernel():
    """What the other cases rest on: both kinds are there, and CUPTI reports one merged copy a launch."""
    run = run_kind("engines", "cupti", "paced")
    with_kernel, without = kernels(run)
    assert without == 3 * 12 and with_kernel == 3 * 8, (with_kernel, without)
    flagged = run.one("SELECT count(*) FROM exchange WHERE flags & 64")
    assert flagged == 3 * 16, f"{flagged} exchanges may be copies"  # all-to-alls, in the window or not; no sends
    run.close()


def case_copy_engines_without_events():
    """With one connection no events are used: such launches have no time rather than one without the waiting."""
    run = run_kind("engines", "cupti", "paced", CUDA_DEVICE_MAX_CONNECTIONS=1)
    assert run.untimed() == {"copies": 3 * 20}, run.untimed()
    assert run.one("SELECT sum(timed) FROM time_coverage") == 0
    covered(run)
    text = subprocess.run([SKEWSCOPE, "info", run.path], capture_output=True, text=True, check=True).stdout
    assert "untimed 60: copies, done by copy engines" in text, text
    run.close()


def case_nonblocking_without_events():
    """Nor have non-blocking communicators: their kernels are launched by a thread without an external id."""
    run = run_kind("nonblocking", "cupti", "paced", CUDA_DEVICE_MAX_CONNECTIONS=1)
    assert run.untimed() == {"nonblocking": 3 * 8}, run.untimed()
    assert not run.rows("SELECT 1 FROM device_time")
    covered(run)
    run.close()


def case_copy_engines_in_graphs():
    """Replays with a copy in them are not timed, for which kernel is which launch cannot be told; the others are."""
    for clock in ("paced", "virtual"):
        run = run_kind("engine_graphs", "cupti", clock)
        check_times(run, "cupti", clock != "virtual", sources=["cupti", "events"], graphs="timed")
        assert run.untimed() == {"replay": 3 * 3 * (2 + 1)}, run.untimed()
        covered(run, 3 * (2 + 3))
        by = dict(run.rows("SELECT source, count(*) FROM exchange_time t JOIN exchange e USING (exchange_id)"
                           " WHERE e.flags & 1 GROUP BY source"))
        assert by == {"cupti": 3 * 3, "host": 3 * 3}, by
        data = json.loads(subprocess.run([SKEWSCOPE, "info", "--json", run.path], capture_output=True, text=True,
                                         check=True).stdout)[0]
        assert data["untimed"] == [{"reason": "replay", "launches": 27}], data["untimed"]
        assert run.rows("SELECT 1 FROM diagnostic WHERE code = 'timing' AND text LIKE '%copy engines%'")
        run.close()


if __name__ == "__main__":
    main([f for n, f in list(globals().items()) if n.startswith("case_")])
