# SPDX-License-Identifier: Apache-2.0
"""The cases of tests/gpu/run: each checks, by assertions, and returns what is to be written down."""
import collections
import json
import re
import statistics

import cost
import fixture
from harness import Trace

NCCL_KERNEL = re.compile(r"nccl(Dev)?Kernel_|ncclSymk")
PROMISE = {"step": 0.3, "alltoall": 1.0}  # percent, of the default tier: the upper end of the 95 % interval must be below
DEFAULT = "auto"


def percentiles(values):
    values = sorted(values)
    return {"n": len(values), "least": values[0], "median": statistics.median(values), "p95": values[int(0.95 * (len(values) - 1))],
            "most": values[-1]}


# ---- what the trace must say ----

def captured(result):
    row = result.one("SELECT sum(returned_groups), sum(stored_groups), sum(lost_groups) FROM coverage")
    assert row[0] and row[0] == row[1], f"captured {row[1]} of {row[0]} groups, lost {row[2]}"
    return f"{row[1]} of {row[0]}"


def same_bytes(result):
    """Every exchange of every rank, in order, to and from every rank: exactly what the job says it asked for."""
    count = total = 0
    for rank, said in enumerate(result.said):
        noted = [n for work in said.values() for n in work["noted"]]
        rows = result.rows("SELECT e.exchange_id FROM exchange e JOIN member m USING (member_id) WHERE m.rank = ? ORDER BY e.seq", rank)
        assert len(rows) == len(noted), f"rank {rank}: {len(rows)} exchanges in the trace, the job made {len(noted)}"
        for (exchange,), wanted in zip(rows, noted):
            for side, view, peer in (("sent", "edges", "dst_rank"), ("received", "recv_edges", "src_rank")):
                got = dict(map(tuple, result.rows(f"SELECT {peer}, sum(bytes) FROM {view} WHERE exchange_id = ? GROUP BY 1", exchange)))
                expected = {p: n for p, n in enumerate(wanted[side]) if n}
                got = {p: n for p, n in got.items() if n}
                assert got == expected, f"rank {rank}, exchange {exchange}: {side} {got} in the trace, {expected} in the job"
            count, total = count + 1, total + sum(wanted["sent"])
    return {"exchanges": count, "bytes": total}


def sides_agree(result):
    wrong = result.one("SELECT count(*) FROM exchange_matched WHERE sent_bytes IS NOT expected_bytes")
    assert wrong == 0, f"{wrong} sends and receives do not agree"


def timed(result, source):
    """Of what was not captured into a graph. Times are in order, and what is untimed has a reason."""
    share = 0.5 if result.bench.dry else 0.95  # of the stand-ins on a busy machine nothing is promised
    row = result.one("SELECT sum(launches) AS launches, sum(timed) AS timed, sum(events) AS events, sum(cupti) AS cupti FROM time_coverage")
    reasons = dict(map(tuple, result.rows("SELECT reason, sum(launches) FROM untimed GROUP BY 1")))
    at_once = result.one("SELECT count(*) FROM (SELECT member_id, thread, group_seq FROM exchange WHERE NOT flags & 1 UNION"
                         " SELECT member_id, thread, group_seq FROM operation WHERE NOT flags & 1)")
    got = result.one("SELECT count(*) FROM device_time d JOIN time_source s USING (source) WHERE launch_id = 0 AND s.name = ?", source)
    assert got >= share * at_once > 0, f"{got} of {at_once} launches timed by {source}; untimed: {reasons}"
    replays = row["launches"] - at_once
    assert at_once <= got + sum(reasons.values()), f"{at_once} launches outside of graphs, {got} timed, untimed: {reasons}"
    bad = result.one("SELECT count(*) FROM device_time WHERE end_ns < start_ns")
    assert bad == 0, f"{bad} launches end before they begin"
    return {"launches": row["launches"], "of_replays": replays, "timed": row["timed"], "untimed": reasons,
            "duration_ns": percentiles([r[0] for r in result.rows("SELECT end_ns - start_ns FROM device_time")]),
            "error_ns": percentiles([r[0] for r in result.rows("SELECT error_ns FROM device_time")]),
            "with_slack": result.one("SELECT count(*) FROM device_time WHERE start_slack_ns > 0 OR end_slack_ns > 0")}


def tiers(result):
    return [list(r) for r in result.rows("SELECT DISTINCT tier, why FROM timing ORDER BY ns")]


def tools(result):
    """The commands on this trace: none may fail, and nothing hangs in a job that ended well."""
    answers = {}
    for command in ("info", "label", "time", "overlap", "hang"):
        result.skewscope(command, result.trace)
        answers[command] = json.loads(result.skewscope(command, result.trace, "--json"))
    assert answers["hang"]["findings"] == [] and answers["hang"]["mismatched_edges"] == 0, answers["hang"]
    return {"own_cost": answers["info"][0]["own_cost"], "unknown_kernels": answers["overlap"]["unknown_kernels"],
            "steps": answers["time"]["headline"].get("steps")}


def keep(run, name, result, **more):
    """Makes a fixture of the trace."""
    def said(path):
        return fixture.said(lambda command: json.loads(result.skewscope(command, path, "--json")))
    about = {"name": name, "machine": run.machine, "date": run.now(), "expect": said(result.path), "tiers": tiers(result), **more}
    rows = fixture.export(result.path, run.fixtures / f"{name}.sql", about)
    again = result.out / f"{name}.db"
    fixture.load(run.fixtures / f"{name}.sql", again)
    assert said(again) == about["expect"], f"the fixture says {said(again)}, the trace {about['expect']}"
    return {"fixture": f"{name}.sql", "rows": rows}


# ---- one rank ----

ALL = ("unequal", "equal", "moe", "counts", "graph")


def case_single_rank_events(run):
    result = run.bench.job(ALL, timing="events")
    found = {"captured": captured(result), **same_bytes(result), **timed(result, "events"), "tiers": tiers(result), **tools(result)}
    launches = result.one("SELECT count(*) FROM graph_launch")
    replays = result.said[0]["graph"]["replays"]
    assert launches == replays, f"{launches} launches of graphs, {replays} replays"
    return {**found, "graph_launches": launches, **keep(run, "single_rank_events", result)}


def case_single_rank_cupti(run):
    result = run.bench.job(ALL, timing="cupti")
    found = {"captured": captured(result), **same_bytes(result), **timed(result, "cupti"), "tiers": tiers(result), **tools(result)}
    graph = result.said[0]["graph"]
    replays = result.one("SELECT count(*) FROM device_time WHERE launch_id > 0")
    wanted = graph["replays"] * graph["captured"]
    assert replays == wanted, f"{replays} exchanges of replays have a time, not {wanted}"
    kernels = result.one("SELECT count(*) FROM kernel")
    assert kernels > 0, "no other kernels are recorded"
    dropped = result.one("SELECT sum(cupti_dropped) FROM overhead")
    assert dropped == 0, f"{dropped} CUPTI records were dropped"
    return {**found, "replays_timed": replays, "other_kernels": kernels, **keep(run, "single_rank_cupti", result)}


def case_nonblocking(run):
    """Communicators whose calls return before they are done (TORCH_NCCL_USE_COMM_NONBLOCKING), timed by events."""
    result = run.bench.job(("unequal", "moe"), timing="events", TORCH_NCCL_USE_COMM_NONBLOCKING="1")
    assert result.one("SELECT min(nonblocking) FROM member") == 1, "the communicator is not non-blocking"
    return {"captured": captured(result), **same_bytes(result), **timed(result, "events"), **tools(result)}


def case_tiers_apart(run):
    """The same exchanges in two runs, by events and by CUPTI: how their durations are distributed."""
    found = {}
    for tier in ("events", "cupti"):
        result = run.bench.job(("moe",), timing=tier)
        timed(result, tier)
        found[tier] = percentiles([r[0] for r in result.rows("SELECT end_ns - start_ns FROM device_time")])
    found["median_ratio"] = found["events"]["median"] / max(1, found["cupti"]["median"])
    return found


# ---- beside torch.profiler ----

def kernels_of(result):
    """(NCCL kernels, kernels, records by category) in the trace of torch.profiler."""
    with open(result.said[0]["profiled"]["profile"], encoding="utf-8") as f:
        events = [e for e in json.load(f)["traceEvents"] if e.get("ph") == "X"]
    kernels = sorted((e for e in events if e.get("cat") == "kernel"), key=lambda e: e["ts"])
    return [e for e in kernels if NCCL_KERNEL.search(e["name"])], kernels, collections.Counter(e.get("cat") for e in events)


def unharmed(run, timing):
    """torch.profiler, started after us, sees what it sees without us."""
    alone = run.bench.once(("profiled",))
    beside = run.bench.once(("profiled",), timing=timing)
    nccl, kernels, records = kernels_of(beside)
    nccl_alone, kernels_alone, records_alone = kernels_of(alone)
    assert len(nccl) == len(nccl_alone) > 0, f"{len(nccl)} NCCL kernels with us, {len(nccl_alone)} without"
    assert len(kernels) == len(kernels_alone), f"{len(kernels)} kernels with us, {len(kernels_alone)} without"
    assert records["cuda_runtime"] > 0 and records_alone["cuda_runtime"] > 0, (records, records_alone)
    captured(beside)
    same_bytes(beside)
    return beside, {"nccl_kernels": len(nccl), "kernels": len(kernels), "records": dict(records), "tiers": tiers(beside),
                    "names": sorted({e["name"][:80] for e in nccl})}


def case_torch_profiler(run):
    """torch.profiler beside the default tier: it sees as many kernels as without us; we never had CUPTI."""
    beside, found = unharmed(run, DEFAULT)
    assert all(tier != "cupti" for tier, _ in tiers(beside)), tiers(beside)
    return found


def case_torch_profiler_takes_cupti(run):
    """torch.profiler beside the CUPTI tier: it asks for CUPTI and gets it; the trace says so, and we go on by events."""
    beside, found = unharmed(run, "cupti")
    assert ["events", "handed_over"] in tiers(beside) or ["host", "handed_over"] in tiers(beside), tiers(beside)
    window = beside.said[0]["profiled"]
    after = beside.one("SELECT count(*) FROM device_time d JOIN exchange e USING (member_id, thread, group_seq) WHERE d.source = 1"
                       " AND e.start_ns >= ?", window["begin_ns"])
    assert after > 0, "nothing was timed by events after CUPTI was handed over"
    return {**found, "timed_by_events_afterwards": after}


def case_tiers_on_the_same_exchanges(run):
    """Our events against torch.profiler's CUPTI records of the very same exchanges, matched by order: how durations differ."""
    beside = run.bench.once(("profiled",), timing=DEFAULT)
    window, (nccl, _, _) = beside.said[0]["profiled"], kernels_of(beside)
    every = beside.rows("SELECT d.start_ns, d.end_ns, d.error_ns, d.start_slack_ns + d.end_slack_ns AS slack FROM exchange e"
                        " LEFT JOIN device_time d ON d.member_id = e.member_id AND d.thread = e.thread AND d.group_seq = e.group_seq"
                        " AND d.source = 1 WHERE e.start_ns BETWEEN ? AND ? ORDER BY e.seq", window["begin_ns"], window["end_ns"])
    assert len(every) == len(nccl) == window["exchanges"], (f"{len(every)} exchanges in the trace, {len(nccl)} NCCL kernels,"
                                                            f" {window['exchanges']} exchanges in the job")
    both = [(r, round(1000 * e["dur"])) for r, e in zip(every, nccl) if r["end_ns"] is not None]
    assert len(both) >= len(every) / 2, f"{len(both)} of {len(every)} exchanges are timed by events"
    rows, durations = [r for r, _ in both], [d for _, d in both]
    differences = [r["end_ns"] - r["start_ns"] - d for r, d in both]
    found = {"exchanges": len(every), "events_minus_kernel_ns": percentiles(differences), "kernel_ns": percentiles(durations)}
    tight = [d for d, r in zip(differences, rows) if r["slack"] == 0]
    if tight:
        found["without_slack_ns"] = percentiles(tight)
    # Events stand around the kernel: less than it took is possible by what the trace says itself, and their resolution.
    least = [d + r["slack"] + 2 * r["error_ns"] + 2000 for d, r in zip(differences, rows)]
    short = sum(value < 0 for value in least)
    assert short <= 0.05 * len(least), f"{short} of {len(least)} exchanges took less by events than their kernel, by more than is stated"
    kept = keep(run, "events_beside_profiler", beside, kernels=[[e["name"][:120], round(1000 * e["dur"])] for e in nccl],
                window=[window["begin_ns"], window["end_ns"]])
    return {**found, "shorter_than_stated": short, **kept}


# ---- several ranks on one GPU ----

def same_tokens(result):
    """The tap: tokens of each expert, as the job says it sent them."""
    experts = result.said[0]["counts"]["experts"]
    result.skewscope("routing", result.trace, "--save", "--experts", experts)
    calls = 0
    for rank, said in enumerate(result.said):
        rows = result.rows("SELECT r.routing_id, r.verified FROM routing r JOIN exchange e USING (exchange_id) WHERE r.source_rank = ?"
                           " AND r.source LIKE 'tap %' ORDER BY e.seq", rank)
        got = [[c[0] for c in result.rows("SELECT tokens FROM routing_cell WHERE routing_id = ? ORDER BY expert", r[0])] for r in rows]
        assert got == said["counts"]["tokens"], f"rank {rank}: tokens by expert {got} in the trace, {said['counts']['tokens']} in the job"
        assert all(r[1] == 1 for r in rows), f"rank {rank}: counts that reproduce no payload"
        calls += len(got)
    return {"tapped_calls": calls, "experts": experts}


def several(ranks):
    """Bytes, order and API; latencies mean nothing where ranks share a GPU."""
    def case(run):
        result = run.bench.job(("unequal", "equal", "counts"), timing="events", ranks=ranks)
        sides_agree(result)
        found = {"ranks": ranks, "captured": captured(result), **same_bytes(result), **same_tokens(result)}
        result.db.commit()
        found.update(tools(result))
        row = result.one("SELECT sum(timed), sum(launches) FROM time_coverage")
        found["timed"] = f"{row[0]} of {row[1]}"
        return {**found, **(keep(run, "two_ranks_on_one_gpu", result) if ranks == 2 else {})}
    case.__name__ = f"case_{ranks}_ranks_on_one_gpu"
    case.__doc__ = (f"{ranks} processes, each with an NCCL_HOSTID: bytes of every exchange, both sides, tokens by expert from the tap; latencies"
                    " mean nothing there.")
    return case


# ---- cost ----

def worked(run, name, arm):
    """What was measured must have been at work: an arm that recorded nothing costs nothing."""
    trace = Trace(run.bench, arm.out / "trace")
    how = tiers(trace)
    wanted = {"auto": ("events", "auto"), "host": ("host", "asked"), "events": ("events", "asked"), "cupti": ("cupti", "asked")}[name]
    assert [list(wanted)] == how, f"arm {name} was timed by {how}"
    if name != "host":
        assert trace.one("SELECT count(*) FROM device_time") > 0, f"arm {name}: nothing was timed"
    info = json.loads(trace.skewscope("info", trace.trace, "--json"))[0]
    return {"captured": "{captured} of {of}".format(**info["groups"]), "timed": info["timing"][0]["timed"], "own_cost": info["own_cost"]}


def cost_of(what):
    def case(run):
        measured = cost.Measurement(run.bench.arm, run.tiers, what, run.pairs, run.fleets, run.block_seconds, run.bench.seed)
        n = measured.run(run.seconds)
        found = {"off_ns": measured.off_ns(), "in_a_block": n, "seed": run.bench.seed, "promise_percent": PROMISE[what]}
        found["noise"] = measured.added(cost.AGAIN)
        for tier in run.tiers:
            found[tier] = {**measured.added(tier), "of_each_fleet": [worked(run, tier, a) for a in measured.ended if a.name == tier]}
        found["verdict"] = "stand-in: not judged" if run.bench.dry else cost.judge(found[DEFAULT], PROMISE[what])
        found["rounds_ns"] = [[f, {name: round(ns) for name, ns in t.items()}] for f, t in measured.rounds]
        return found
    case.__name__ = f"case_cost_on_{'step' if what == 'step' else 'small_alltoall'}"
    case.takes = 200
    case.__doc__ = ("What each tier adds to a training step, and without the library a second time for the noise." if what == "step"
                    else "What each tier adds to the latency of a small all-to-all that is waited for.")
    return case


case_single_rank_events.__doc__ = (
    "All-to-alls with equal and unequal splits, MoE layers forward and backward, a CUDA graph: everything captured, bytes as the job says, timed"
    " by events; info, label, time, overlap and hang on the result.")
case_single_rank_cupti.__doc__ = "The same by CUPTI, each replay of the graph timed too."
CASES = {f.__name__.removeprefix("case_"): f for f in (
    case_single_rank_events, case_single_rank_cupti, case_torch_profiler, case_torch_profiler_takes_cupti,
    case_tiers_on_the_same_exchanges, several(2), cost_of("step"), cost_of("alltoall"), several(4), several(8), case_nonblocking,
    case_tiers_apart)}
