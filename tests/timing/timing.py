#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Device times of exchanges against what the stand-ins' link model says of each of them.

usage: timing.py SKEWSCOPE LIBRARY JOB STANDIN_DIRECTORY GROUP      GROUP: events, limits, cupti, …
"""
import collections
import glob
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile

SKEWSCOPE, LIBRARY, JOB, LIBRARIES, GROUP = [os.path.abspath(a) if os.path.exists(a) else a for a in sys.argv[1:6]]
LINK = "latency_us=40,bw_gbps=0.5"


class Run:
    """One job: the trace in `db`, the truth by (rank, sizes sent)."""

    def __init__(self, case, ranks, clock="paced", **env):
        self.top = tempfile.mkdtemp(prefix="skewscope-timing-")
        try:
            self.run(case, ranks, clock, env)
        except BaseException:
            if not os.environ.get("SKEWSCOPE_TEST_KEEP"):
                shutil.rmtree(self.top)
            raise

    def run(self, case, ranks, clock, more):
        out = os.path.join(self.top, "out")
        env = {k: v for k, v in os.environ.items()
               if not k.startswith(("SKEWSCOPE_", "NCCL_", "CUDA_", "LD_", "MALLOC_PERTURB"))}
        env.update(LD_LIBRARY_PATH=LIBRARIES, SKEWSCOPE_STANDIN_CLOCK=clock, SKEWSCOPE_STANDIN_LINK=LINK,
                   SKEWSCOPE_STANDIN_TRUTH=os.path.join(self.top, "truth"), SKEWSCOPE_OUT=out,
                   SKEWSCOPE_SPOOL=self.top, SKEWSCOPE_COLLECTOR="off", LD_PRELOAD=LIBRARY)
        env.update({k: str(v) for k, v in more.items()})
        done = subprocess.run([JOB, case, str(ranks)], env=env, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, f"{case}: exit status {done.returncode}\n{done.stdout}{done.stderr}"
        assert not done.stderr, done.stderr
        self.out = done.stdout
        env.pop("LD_PRELOAD")
        done = subprocess.run([SKEWSCOPE, "collect", out], env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        self.path = os.path.join(out, "trace.db")
        self.db = sqlite3.connect(self.path)
        self.db.row_factory = sqlite3.Row
        self.met = collections.defaultdict(set)  # of communicators whose ordinals may disagree
        for ours, other in self.rows("SELECT * FROM exchange_met"):
            self.met[ours].add(other)
        self.timed = self.rows("SELECT * FROM exchange_time WHERE source <> 'host'")
        self.truth = collections.defaultdict(list)
        for name in glob.glob(os.path.join(self.top, "truth.*")):
            for line in map(json.loads, open(name, encoding="utf-8")):
                if "op" in line and any(line["send"]):
                    self.truth[line["rank"], tuple(line["send"])].append(line)

    def rows(self, sql, *parameters):
        return self.db.execute(sql, parameters).fetchall()

    def one(self, sql, *parameters):
        rows = self.rows(sql, *parameters)
        assert len(rows) == 1, f"{sql}: {len(rows)} rows"
        return rows[0][0] if len(rows[0]) == 1 else rows[0]

    def exchanges(self, graphs=True):
        """(row of exchange_time, its line of truth), for every exchange that ran. `graphs` False: only those outside of
        graphs; "timed": and those of which there are times. Of the others the trace has to know how often they ran."""
        sent = collections.defaultdict(lambda: collections.defaultdict(int))
        for r in self.rows("SELECT exchange_id, dst_rank, bytes FROM edges"):
            sent[r["exchange_id"]][r["dst_rank"]] += r["bytes"]
        captured = dict(self.rows("SELECT exchange_id, runs FROM exchange_info WHERE captured"))
        taken = collections.Counter()
        ranks = len(next(iter(self.truth))[1])
        for row in self.rows("SELECT * FROM exchange_time ORDER BY exchange_id, run"):
            to = sent[row["exchange_id"]]
            key = row["rank"], tuple(to.get(p, 0) for p in range(ranks))
            if row["exchange_id"] in captured and (not graphs or graphs == "timed" and row["source"] == "host"):
                runs = captured[row["exchange_id"]]
                assert runs == len(self.truth[key]), f"{key} ran {len(self.truth[key])} times, the trace says {runs}"
                taken[key] = len(self.truth[key])
                continue
            yield row, self.truth[key][taken[key]]
            taken[key] += 1
        assert {k: len(v) for k, v in self.truth.items()} == dict(taken), "exchanges that ran are not in the trace"

    def uncertainty(self, row):
        """The largest error_ns and start_slack_ns of the exchanges that `row` met."""
        if (met := self.met.get(row["exchange_id"])) is None:
            return self.one("SELECT max(error_ns), max(start_slack_ns) FROM exchange_time WHERE comm_id = ? AND seq = ?"
                            " AND run = ?", row["comm_id"], row["seq"], row["run"])
        return [max(values) for values in zip(*((r["error_ns"], r["start_slack_ns"]) for r in self.timed if r["exchange_id"] in met))]

    def untimed(self):
        return dict(map(tuple, self.rows("SELECT reason, sum(launches) FROM untimed GROUP BY reason")))

    def tiers(self):
        return {tuple(r) for r in self.rows("SELECT tier, why FROM timing")}

    def close(self):
        self.db.close()
        shutil.rmtree(self.top)


def between(got, wanted, less, more, what):
    """The truth lies no further below and above what was measured than the trace says."""
    assert got - less <= wanted <= got + more, (f"{what} is {got}, the model says {wanted}: off by {wanted - got}, "
                                                f"not -{less} … +{more}")


def check_times(run, source, real_axis, sources=None, graphs=True):
    """Every exchange: when it began and ended, the wait for the last rank and the transfer after it. `real_axis`: the
    device's clock keeps step with the host's, and what may be off by how much the trace says itself. Else the clock
    is virtual, the same for all ranks, and all is exact, but for the resolution of events."""
    count = tight = slack = 0
    offsets = {}
    for row, truth in run.exchanges(graphs):
        what = f"exchange {row['seq']} of rank {row['rank']}, run {row['run']}"
        assert row["source"] in (sources or [source]), f"{what}: source {row['source']}, untimed {run.untimed()}"
        if row["source"] == "host":
            continue
        count += 1
        early, over, error = row["start_slack_ns"], row["end_slack_ns"], row["error_ns"]
        tight += not early and not over
        # two events of half a microsecond each; and the drift may not be known yet
        off = 1100 + (row["duration_ns"] // 5000 if real_axis else 0)
        between(row["duration_ns"], truth["end_ns"] - truth["arrival_ns"], over + off, early + off,
                f"duration of {what}")
        if not real_axis:
            assert not early and not over, what
            # one for each device clock; that of a source is the same on all ranks
            offset = offsets.setdefault(row["source"], row["end_ns"] - truth["end_ns"])
            # that clock cannot be related to the host's better than by the first anchor: times may shift by that
            error = last = 1100 + run.one("SELECT max(high_ns - low_ns) FROM device_clock")
        else:
            offset = 0
            last, slack = run.uncertainty(row)
        between(row["arrival_ns"] - offset, truth["arrival_ns"], early + error, error, f"arrival of {what}")
        between(row["end_ns"] - offset, truth["end_ns"], over + error, error, f"end of {what}")
        between(row["wait_ns"], truth["start_ns"] - truth["arrival_ns"], slack + error + last, early + error + last,
                f"wait of {what}")
        between(row["transfer_ns"], truth["end_ns"] - truth["start_ns"], over + error + last, slack + error + last,
                f"transfer of {what}")
    assert count, "nothing was timed"
    run.tight = tight
    return count


def covered(run, timed=None):
    launches, got = run.one("SELECT sum(launches), sum(timed) FROM time_coverage")
    untimed = sum(run.untimed().values())
    assert launches == got + untimed, f"{launches} launches, {got} timed, {run.untimed()} not"
    assert timed is None or got == timed, f"{got} timed, expected {timed}"
    return got


# ---- events ----

def case_plain_paced():
    run = Run("plain", 4)
    n = check_times(run, "events", True)
    covered(run, n)
    assert run.tiers() == {("events", "auto")}, run.tiers()
    worst = run.one("SELECT max(error_ns) FROM device_time")
    run.close()
    return f"{n} exchanges, error at most {worst} ns, {run.tight} without slack"


def case_exact_under_the_virtual_clock():
    """Nothing here depends on how loaded the machine is: no time of the host's plays a part."""
    total = 0
    for case, ranks in (("plain", 4), ("streams", 4), ("nonblocking", 4), ("threads", 2)):
        run = Run(case, -ranks, clock="virtual")
        total += covered(run, check_times(run, "events", False))
        run.close()
    return f"{total} exchanges to 1.1 µs"


def case_clock_offset_and_drift():
    run = Run("plain", 4, SKEWSCOPE_STANDIN_CLOCK_OFFSET_NS=10_000_000, SKEWSCOPE_STANDIN_CLOCK_DRIFT_PPB=50_000)
    covered(run, check_times(run, "events", True))
    run.close()


def case_several_streams():
    run = Run("streams", 3)
    covered(run, check_times(run, "events", True))
    assert run.rows("SELECT 1 FROM exchange WHERE flags & 16")
    run.close()


def case_several_communicators():
    run = Run("comms", 3)
    check_times(run, "events", True, sources=["events", "host"])
    assert run.untimed() == {"shared_stream": 3 * 2 * 2}, run.untimed()
    covered(run, 3 * 4 * 2)
    run.close()


def case_calls_outside_groups():
    run = Run("single", 3)
    check_times(run, "events", True)
    covered(run, 3 * 8)
    run.close()


def case_ordinals_that_disagree():
    """Ranks that have nothing to send make no call, as with FastMoE: the view and `skewscope time` still put together what
    belongs together, and by ordinals it would be something else."""
    run = Run("skipping", 4)
    covered(run, check_times(run, "events", True))
    lines = {(row["rank"], row["seq"]): (row, line) for row, line in run.exchanges()}
    numbers = collections.defaultdict(set)  # by ordinal: the calls it stands for, told by what a rank sends to itself
    for (rank, seq), (_, line) in lines.items():
        numbers[seq].add((line["send"][rank] - rank * 10 % 11 * 4096 - rank) // 1000)
    wrong = sum(len(n) > 1 for n in numbers.values())
    assert wrong >= 8, f"{wrong} of {len(numbers)} ordinals stand for several calls"
    done = subprocess.run([SKEWSCOPE, "time", "--json", "--rows", "1000", run.path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    assert (got["exchanges"], got["complete"]) == (8 * 2 + 16, 8 * 2 + 16), (got["exchanges"], got["complete"])
    for x in got["ledger"]:
        ids = run.met[lines[x["rank"], x["seq"]][0]["exchange_id"]]
        ids = set().union(*(run.met[i] for i in ids))  # at most two steps from one to any other
        group = [(r, t) for r, t in lines.values() if r["exchange_id"] in ids]
        wanted = max(t["end_ns"] for _, t in group) - max(t["arrival_ns"] for _, t in group)
        error = 1100 + sum(max(r[k] for r, _ in group) for k in ("error_ns", "error_ns", "start_slack_ns", "end_slack_ns"))
        got_ns = sum(x[k] for k in ("latency_ns", "balanced_ns", "skew_ns", "unexplained_ns"))
        assert abs(got_ns - wanted) <= error + wanted / 5000, (x, wanted, error)
    run.close()
    return f"{wrong} of {len(numbers)} ordinals stand for several calls"


def case_nonblocking_communicators():
    run = Run("nonblocking", 3)
    covered(run, check_times(run, "events", True))
    run.close()


def case_threads_that_come_and_go():
    run = Run("threads", 3)
    covered(run, check_times(run, "events", True))
    run.close()


# ---- where nothing can be timed, and why ----

def case_graphs_are_not_timed_by_events():
    run = Run("graph", 3)
    check_times(run, "events", True, graphs=False)
    assert run.untimed() == {"captured": 3 * 2}, run.untimed()
    assert run.one("SELECT sum(timed) FROM time_coverage") == 3 * 2
    run.close()


def case_global_captures_survive():
    run = Run("captures", 2)
    covered(run, 2 * 200)
    run.close()


def case_max_connections():
    run = Run("plain", 2, CUDA_DEVICE_MAX_CONNECTIONS=1)
    assert run.tiers() == {("host", "max_connections")}, run.tiers()
    assert not run.rows("SELECT 1 FROM device_time")
    assert run.one("SELECT total(events) FROM overhead") == 0
    assert run.rows("SELECT 1 FROM diagnostic WHERE code = 'timing'")
    run.close()


def case_off_and_host():
    for tier in ("off", "host"):
        run = Run("plain", 2, SKEWSCOPE_TIMING=tier)
        assert run.tiers() == {("host", "asked")}, run.tiers()
        assert not run.rows("SELECT 1 FROM device_time") and not run.untimed()
        assert run.one("SELECT min(measured_groups) FROM overhead") > 0
        assert {r["source"] for r in run.rows("SELECT source FROM exchange_time")} == {"host"}
        run.close()


def case_info_tells():
    run = Run("comms", 3)
    text = subprocess.run([SKEWSCOPE, "info", run.path], capture_output=True, text=True, check=True).stdout
    for words in ("timed 24 of 36 launches on the device, 24 by CUDA events", "tier events in 3 processes: nothing speaks",
                  "untimed 12: shared_stream, several communicators", "own cost: ", "CUDA events"):
        assert words in text, f"info does not say '{words}':\n{text}"
    data = json.loads(subprocess.run([SKEWSCOPE, "info", "--json", run.path], capture_output=True, text=True,
                                     check=True).stdout)[0]
    assert data["timing"][0]["timed"] == 24 and data["timing"][0]["launches"] == 36, data["timing"]
    assert data["untimed"] == [{"reason": "shared_stream", "launches": 12}], data["untimed"]
    run.close()


def case_one_in_three():
    run = Run("plain", 3, SKEWSCOPE_TIMING_EVERY=3)
    check_times(run, "events", True, sources=["events", "host"])
    assert run.untimed() == {"sampled_out": 3 * 16}, run.untimed()
    seqs = {r["seq"] for r in run.rows("SELECT seq FROM exchange_time WHERE source = 'events'")}
    assert seqs == set(range(0, 24, 3)), seqs
    covered(run, 3 * 8)
    run.close()


def case_too_many_under_way():
    run = Run("ahead", 2)
    assert set(run.untimed()) == {"no_event"}, run.untimed()
    assert covered(run) >= 2 * 1024
    run.close()


def case_unfinished():
    run = Run("unfinished", 2)
    assert run.untimed() == {"unfinished": 2}, run.untimed()
    covered(run, 2)
    run.close()


def case_device_reset():
    run = Run("reset", 2)
    covered(run)
    run.close()


def case_nothing_synchronises():
    waits = {}
    for tier in ("host", "events"):
        run = Run("watched", 2, SKEWSCOPE_TIMING=tier)
        waits[tier] = [line for line in run.out.splitlines() if line.startswith("waits")]
        run.close()
    assert len(waits["host"]) == 2 and waits["events"] == waits["host"], waits
    return " and ".join(waits["host"])


# ---- CUPTI ----

def case_cupti_exchanges():
    total = 0
    for case in ("plain", "streams", "single", "threads"):
        run = Run(case, 3, SKEWSCOPE_TIMING="cupti")
        assert run.tiers() == {("cupti", "asked")}, run.tiers()
        check_times(run, "cupti", True)
        assert not run.untimed(), run.untimed()
        total += covered(run)
        assert run.one("SELECT sum(start_slack_ns + end_slack_ns) FROM device_time") == 0
        run.close()
    return f"{total} launches"


def case_cupti_several_communicators():
    run = Run("comms", 3, SKEWSCOPE_TIMING="cupti")
    check_times(run, "cupti", True, sources=["cupti", "host"])
    assert run.untimed() == {"shared_stream": 3 * 2 * 2}, run.untimed()
    run.close()


def case_cupti_graph_replays():
    run = Run("graph", 3, SKEWSCOPE_TIMING="cupti")
    check_times(run, "cupti", True)
    covered(run, 3 * (2 + 2 * 5))
    replays = run.rows("SELECT DISTINCT run FROM exchange_time JOIN exchange e USING (exchange_id) WHERE e.flags & 1")
    assert sorted(r[0] for r in replays) == [0, 1, 2, 3, 4], replays
    assert not run.rows("SELECT 1 FROM graph_launch WHERE stream_id IS NULL")
    run.close()


def case_cupti_and_events_for_nonblocking():
    run = Run("nonblocking", 3, SKEWSCOPE_TIMING="cupti")
    check_times(run, "events", True)
    covered(run, 3 * 8)
    run.close()


def case_cupti_with_one_connection():
    run = Run("plain", 2, SKEWSCOPE_TIMING="cupti", CUDA_DEVICE_MAX_CONNECTIONS=1)
    assert run.tiers() == {("cupti", "asked")}, run.tiers()
    covered(run, 2 * 24)
    assert run.one("SELECT total(events) FROM overhead") == 0
    run.close()


def case_cupti_tells_of_other_kernels():
    run = Run("plain", 2, SKEWSCOPE_TIMING="cupti")
    names = {r[0] for r in run.rows("SELECT name FROM kernel JOIN kernel_name USING (process_id, name_id)")}
    assert names == {"_Z11expert_gemmv"}, names
    kernels, busy = run.one("SELECT sum(kernels), sum(busy_ns) FROM kernel")
    # those of the 24 exchanges; what was launched before the first group ended was not seen, or seen by half
    wanted = sum((r * 3 + i) % 4 * 120000 + 20000 for r in range(2) for i in range(1, 24))
    assert 2 * 23 <= kernels <= 2 * 25, kernels
    assert wanted - 1000 <= busy <= wanted + 2 * (30000000 + 400000), (busy, wanted)
    run.close()


def case_another_tool_has_cupti():
    run = Run("watched", 2, SKEWSCOPE_TIMING="cupti")
    assert run.tiers() == {("events", "foreign_cupti")}, run.tiers()
    check_times(run, "events", True)
    covered(run, 2 * 24)
    assert run.rows("SELECT 1 FROM diagnostic WHERE code = 'timing'")
    run.close()
    run = Run("plain", 2, SKEWSCOPE_TIMING="cupti", NSYS_PROFILING_SESSION_ID=1)
    assert run.tiers() == {("events", "foreign_cupti")}, run.tiers()
    run.close()


def case_another_tool_asks_for_cupti():
    run = Run("profiled", 2, SKEWSCOPE_TIMING="cupti")
    assert run.out.count("profiler saw 10 kernels") == 2, run.out
    assert run.tiers() == {("cupti", "asked"), ("events", "handed_over")}, run.tiers()
    check_times(run, "cupti", True, sources=["cupti", "events"])
    by = dict(map(tuple, run.rows("SELECT source, count(*) FROM exchange_time GROUP BY source")))
    assert by == {"cupti": 2 * 10, "events": 2 * 10}, by
    run.close()


def case_collectives_that_are_copies():
    for tier, wanted, slack in (("events", 1, 1100), ("cupti", 2, 0)):
        run = Run("copies", 1, clock="virtual", SKEWSCOPE_TIMING=tier, SKEWSCOPE_STANDIN_COPY_NS=2000,
                  SKEWSCOPE_STANDIN_COPY_BYTES_PER_US=10000)
        rows = run.rows("SELECT end_ns - start_ns AS ns, source FROM device_time ORDER BY group_seq")
        assert [r["source"] for r in rows] == [wanted] * 6, [tuple(r) for r in rows]
        for i, row in enumerate(rows, 1):
            between(row["ns"], 2000 + 10000 * i, slack, slack, f"{tier}: copy {i}")
        run.close()


def case_cupti_is_bounded():
    run = Run("flood", 2, SKEWSCOPE_TIMING="cupti")
    records, dropped = run.one("SELECT sum(cupti_records), sum(cupti_dropped) FROM overhead")
    got = run.one("SELECT sum(timed) FROM time_coverage")
    assert covered(run) == got > 2 * 1000, got
    run.close()
    return f"{records} records, {dropped} dropped, {got} launches timed"


# ---- what else the device did ----

def overlap_json(run):
    done = subprocess.run([SKEWSCOPE, "overlap", "--json", "--rows", "1000", run.path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def union(intervals, start, end):
    """ns of start … end in at least one of them, point by point of what begins and ends."""
    edges = sorted({start, end, *(p for i in intervals for p in i if start < p < end)})
    return sum(b - a for a, b in zip(edges, edges[1:]) if any(s <= a and b <= e for s, e in intervals))


def case_overlap_is_exact():
    """The truth: when the model's exchanges began and ended, and how long the kernels are that the job launches."""
    run = Run("overlap", -2, clock="virtual", SKEWSCOPE_TIMING="cupti")
    offset = None
    truth = {}
    for row, line in run.exchanges():
        assert row["source"] == "cupti", row["source"]
        offset = row["end_ns"] - line["end_ns"] if offset is None else offset
        truth[row["exchange_id"]] = row["rank"], row["seq"], line["arrival_ns"], line["end_ns"]
    by = {(rank, seq): (i, start, end) for i, (rank, seq, start, end) in truth.items()}
    assert len(by) == 2 * 7, by
    pairs = {by[rank, 1 + 2 * n][0]: by[rank, 2 + 2 * n][0] for rank in range(2) for n in range(3)}
    with run.db:
        for there, back in pairs.items():
            for role, a, b in (("dispatch", there, back), ("combine", back, there)):
                run.db.execute("INSERT INTO exchange_label (exchange_id, role, pair_id, token_bytes, confidence, source)"
                               " VALUES (?, ?, ?, 16, 1, 'test')", (a, role, b))
    # the second stream: what it did first is where the trace has it, the rest follows from the lengths
    at = run.one("SELECT min(start_ns) FROM kernel JOIN kernel_name USING (process_id, name_id) WHERE name = ?",
                 "_Z11second_gemmv") - offset
    computed = []
    for i in range(60):
        computed.append((at, at + 7000 + 1000 * (i % 5)))
        at = computed[-1][1] + 3000 + 2000 * (i % 3)
    for rank in range(2):
        for n in range(3):
            end = by[rank, 1 + 2 * n][2]
            computed.append((end, end + 15000 + 5000 * n + 1000 * rank))
    got = overlap_json(run)
    hidden = 0
    for x in got["exchanges"]:
        rank, seq, start, end = truth[x["exchange_id"]]
        if seq == 0:
            continue
        what = f"exchange {seq} of rank {rank}"
        wanted = union(computed, start, end)
        hidden += 0 < wanted < end - start
        low, high = x["overlapped_ns"]["low"], x["overlapped_ns"]["high"]
        # times are rounded to whole ns, each kernel's start and end for itself
        assert abs(low - wanted) <= 40 and abs(high - wanted) <= 40, f"{what}: {wanted} ns hidden, not {low} … {high}"
        assert abs(x["exposed_ns"]["low"] - (end - start - wanted)) <= 40, what
        if x["exchange_id"] in pairs:
            until = truth[pairs[x["exchange_id"]]][2]
            wanted = union(computed, end, until)
            assert x["pair_id"] == pairs[x["exchange_id"]] and abs(x["gap_ns"] - (until - end)) <= 2, (what, x)
            assert abs(x["kernels_ns"]["low"] - wanted) <= 40 and abs(x["kernels_ns"]["high"] - wanted) <= 40, (what, x, wanted)
            load = run.one("SELECT recv_bytes FROM rank_load WHERE exchange_id = ?", x["exchange_id"])
            assert x["received_bytes"] == load and x["tokens"] == load // 16, (what, x)
    assert hidden >= 4, f"only {hidden} exchanges are hidden in part: the test tests nothing"
    # `time` takes the same figures: of an exchange, the least of its ranks
    done = subprocess.run([SKEWSCOPE, "time", "--json", "--rows", "1000", run.path], capture_output=True, text=True, check=True)
    ledger = json.loads(done.stdout)["ledger"]
    assert len(ledger) == 7 and all(x["exposed_ns"] for x in ledger), ledger
    for x in ledger:
        ours = [o["overlapped_ns"] for o in got["exchanges"] if o["seq"] == x["seq"]]
        parts = x["lag_ns"] + sum(x[k] for k in ("latency_ns", "balanced_ns", "skew_ns", "unexplained_ns"))
        for side, other in (("low", "high"), ("high", "low")):
            least = min(parts, min(o[other] for o in ours))
            assert abs(parts - x["exposed_ns"][side] - least) < 1e-3, (x, ours)
    assert got["unknown_kernels"] == ["some_all_to_all_of_others"], got["unknown_kernels"]
    roles = {r["role"]: r for r in got["roles"]}
    assert roles["dispatch"]["exchanges"] == roles["dispatch"]["known"] == 6, roles
    assert roles["dispatch"]["experts"]["known"] == 6 and "experts" not in roles["combine"], roles
    run.close()
    return f"{hidden} exchanges hidden in part"


def case_without_kernels_nothing_is_known():
    run = Run("plain", 2)
    got = overlap_json(run)
    assert got["kernel_rows"] == 0 and all(r["known"] == 0 and r["overlapped_ns"] is None and r["exposed_ns"] is None
                                           for r in got["roles"]), got["roles"]
    text = subprocess.run([SKEWSCOPE, "overlap", run.path], capture_output=True, text=True, check=True).stdout
    assert "no kernels are recorded, so what they hide is not known" in text, text
    run.close()


def case_kernels_of_backends_stand_alone():
    """Every kernel that moves tokens, as schema/kernels.json names it, has a row and a time of its own, and its name."""
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../schema/kernels.json"), encoding="utf-8") as f:
        table = json.load(f)["kernels"]
    known = [(pattern.replace("*", "x"), k) for k in table if not k.get("bytes") for pattern in k["names"]
             if k["does"] in ("dispatch", "combine", "fused", "transfer")]
    mangled = "_ZN7deep_ep9intranode8dispatchILi8ELi768ELi8192EEEvv"
    names = [name for name, _ in known] + [mangled]
    with tempfile.NamedTemporaryFile("w", suffix=".names") as f:
        f.write("\n".join(names) + "\n")
        f.flush()
        run = Run("named", 1, clock="virtual", SKEWSCOPE_TIMING="cupti", KERNEL_NAMES=f.name)
    rows = {r["name"]: r for r in run.rows("SELECT name, does, backend, kernels, busy_ns FROM kernel JOIN kernel_name"
                                           " USING (process_id, name_id) WHERE name <> '_Z11expert_gemmv'")}
    assert set(rows) == set(names), set(names) ^ set(rows)
    for i, name in enumerate(names):
        assert rows[name]["kernels"] == 1 and abs(rows[name]["busy_ns"] - 1000 - i) <= 2, tuple(rows[name])
    assert rows[mangled]["backend"] == "DeepEP V1" and rows[mangled]["does"] == "dispatch", tuple(rows[mangled])
    backends = {r[0] for r in run.rows("SELECT DISTINCT backend FROM backend_time")}
    missing = {k["backend"] for _, k in known} - backends
    assert not missing, missing
    assert run.one("SELECT count(*) FROM kernel JOIN kernel_name USING (process_id, name_id)"
                   " WHERE name = '_Z11expert_gemmv' AND kernels > 1") > 0, "nothing was merged"
    run.close()
    return f"{len(names)} names of {len(backends)} backends"


GROUPS = {
    "overlap": [case_overlap_is_exact, case_without_kernels_nothing_is_known, case_kernels_of_backends_stand_alone],
    "cupti": [case_cupti_exchanges, case_cupti_several_communicators, case_cupti_graph_replays,
              case_cupti_and_events_for_nonblocking, case_cupti_with_one_connection,
              case_cupti_tells_of_other_kernels, case_another_tool_has_cupti, case_another_tool_asks_for_cupti,
              case_collectives_that_are_copies, case_cupti_is_bounded],
    "events": [case_plain_paced, case_exact_under_the_virtual_clock, case_clock_offset_and_drift, case_several_streams,
               case_several_communicators, case_calls_outside_groups, case_ordinals_that_disagree,
               case_nonblocking_communicators,
               case_threads_that_come_and_go],
    "limits": [case_graphs_are_not_timed_by_events, case_global_captures_survive, case_max_connections,
               case_off_and_host, case_info_tells, case_one_in_three, case_too_many_under_way, case_unfinished, case_device_reset,
               case_nothing_synchronises],
}


def main(cases):
    if not os.path.exists(os.path.join(LIBRARIES, "libnccl.so.2")):
        print("skipped: the stand-ins are not built")
        sys.exit(77)
    failed = 0
    only = sys.argv[6:]
    for case in cases:
        name = case.__name__.removeprefix("case_")
        if only and name not in only:
            continue
        try:
            note = case()
            print(f"ok    {name.replace('_', ' ')}" + (f" ({note})" if note else ""), flush=True)
        except AssertionError as e:
            failed += 1
            print(f"FAIL  {name.replace('_', ' ')}: {e}", flush=True)
    sys.exit(failed != 0)


if __name__ == "__main__":
    main(GROUPS[GROUP])
