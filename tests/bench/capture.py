#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What recording adds to one send, and to a 64-peer exchange, beside LTTng-UST doing the same.

Arms, taking turns in every round, each a fresh process on one core: bare (do-nothing NCCL), skewscope
(the same program, library preloaded, a collector draining on the other core) and rival (an enabled
LTTng-UST tracepoint before every call, in a live session on tmpfs that must discard nothing, else it is
run again with larger buffers). Added is arm minus bare of the same round. See hotpath.c for what warm,
cold and coldest mean.
"""
import argparse
import os
import shutil
import sqlite3
import sys
import tempfile

import benchlib
import rival

# How: exchanges a process. Enough for seconds at a job's pace, and for a p99.9.
EXCHANGES = {"flood": 20000, "warm": 20000, "cold": 3000, "coldest": 250}


def parse():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--hotpath", required=True, help="the measured program")
    p.add_argument("--library", required=True, help="libskewscope.so")
    p.add_argument("--rival", help="the measured program with tracepoints")
    p.add_argument("--tool", help="skewscope, for the collector; without it the spool alone takes everything")
    p.add_argument("--what", choices=["send", "exchange"], required=True)
    p.add_argument("--how", help="only these, separated by commas")
    p.add_argument("--rounds", type=int, default=11)
    p.add_argument("--scale", type=float, default=1.0, help="times as many exchanges a process")
    return p.parse_args()


class Run:
    """One benchmark run: its arms, its scratch directory on tmpfs and its collector."""

    def __init__(self, options, scratch, trace):
        self.options = options
        self.scratch = scratch
        self.core, self.other = benchlib.cores()
        self.trace = trace
        self.clean = {k: v for k, v in os.environ.items() if not k.startswith(("SKEWSCOPE_", "LD_PRELOAD"))}
        self.preloaded = dict(self.clean, LD_PRELOAD=os.path.abspath(options.library), SKEWSCOPE_OUT=self.trace,
                              SKEWSCOPE_SPOOL=os.path.join(scratch, "spool"), SKEWSCOPE_COLLECTOR="off",
                              SKEWSCOPE_SPOOL_MB="256" if options.tool else "1024")
        os.mkdir(os.path.join(scratch, "spool"))

    def one(self, arm, what, how, session):
        out = os.path.join(self.scratch, "times")
        program = self.options.rival if arm == "rival" else self.options.hotpath
        env = {"bare": self.clean, "skewscope": self.preloaded, "rival": session.env if session else None}[arm]
        exchanges = max(100, int(EXCHANGES[how] * self.options.scale))
        benchlib.run_on(self.core, [program, "calls" if what == "send" else "exchange", how, str(exchanges), out], env)
        if arm == "skewscope" and not self.options.tool:
            # Nobody drains: the next process gets an empty file system again.
            shutil.rmtree(os.path.join(self.scratch, "spool"), ignore_errors=True)
            os.mkdir(os.path.join(self.scratch, "spool"))
        return benchlib.read_ns(out)

    def rounds(self, what, how, arms, session):
        """[{arm: times}], all but each process's first exchange, which is returned apart."""
        result, first = [], {arm: [] for arm in arms}
        for number in range(self.options.rounds):
            times = {arm: self.one(arm, what, how, session) for arm in benchlib.turns(arms, number)}
            for arm in arms:
                first[arm].append(times[arm][0])
                times[arm] = times[arm][1:]
            result.append(times)
        return result, first


def collector(run):
    """Drains what the arms write, on the other core, as in a job."""
    if not run.options.tool:
        return None
    return benchlib.start_on(run.other, [run.options.tool, "collect", "--follow", "--out", run.trace], run.clean,
                             os.path.join(run.scratch, "collector.log"))


def coverage(trace):
    """What became of all groups, from the trace itself."""
    path = os.path.join(trace, "trace.db")
    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    returned, stored, lost = db.execute("SELECT sum(returned_groups), sum(stored_groups), sum(lost_groups) FROM coverage").fetchone()
    db.close()
    return f"captured {stored} of {returned} exchanges, {lost} counted as lost"


def added(rounds, arm):
    """Median over rounds of (median of the arm minus median of bare)."""
    return benchlib.median([r[arm] - r["bare"] for r in rounds])


def medians(rounds):
    return [{arm: benchlib.median(times) for arm, times in r.items()} for r in rounds]


def tail(rounds, arm):
    values = [x for r in rounds for x in r[arm]]
    return benchlib.quantile(values, 0.999), max(values)


def print_send(how, rounds, calls):
    m = [{arm: x / calls for arm, x in r.items()} for r in medians(rounds)]
    ours = benchlib.bootstrap(m, lambda r: added(r, "skewscope"))
    print(f"  {how:8} bare call {benchlib.median([r['bare'] for r in m]):.1f} ns; skewscope adds "
          f"{benchlib.interval(ours, ' ns', 1)}")
    if "rival" not in m[0]:
        return
    theirs = benchlib.bootstrap(m, lambda r: added(r, "rival"))
    ratio = benchlib.bootstrap(m, lambda r: added(r, "skewscope") / added(r, "rival"))
    print(f"  {'':8} an LTTng-UST tracepoint adds {benchlib.interval(theirs, ' ns', 1)}; ratio "
          f"{benchlib.interval(ratio, '', 4)} = 1/{1 / ratio[0]:.1f}   (promise: at most 1/8 = 0.125)")


def print_exchange(how, rounds, first):
    m = medians(rounds)
    arms = [a for a in ("bare", "skewscope", "rival") if a in m[0]]
    promise = "   (promise: at most 1000 ns)" if how == "cold" else ""
    ours = benchlib.bootstrap(m, lambda r: added(r, "skewscope"))
    print(f"  {how:8} skewscope adds {benchlib.interval(ours, ' ns', 0)}{promise}")
    if "rival" in arms:
        theirs = benchlib.bootstrap(m, lambda r: added(r, "rival"))
        ratio = benchlib.bootstrap(m, lambda r: added(r, "skewscope") / added(r, "rival"))
        print(f"  {'':8} 128 LTTng-UST tracepoints add {benchlib.interval(theirs, ' ns', 0)}; ratio "
              f"{benchlib.interval(ratio, '', 4)} = 1/{1 / ratio[0]:.1f}")
    for arm in arms:
        high, slowest = tail(rounds, arm)
        print(f"  {'':8} {arm:9} median {benchlib.median([r[arm] for r in m]):8.0f} ns   p99.9 {high:10.0f} ns   "
              f"slowest {slowest:10.0f} ns   first of a process {benchlib.median(first[arm]):10.0f} ns")


def measure(run, arms, session):
    hows = ["flood", "warm", "cold"] if run.options.what == "send" else ["warm", "cold", "coldest", "flood"]
    if run.options.how:
        hows = run.options.how.split(",")
    lines = []
    for how in hows:
        rounds, first = run.rounds(run.options.what, how, arms, session)
        lines.append((how, rounds, first))
    return lines


def main():
    options = parse()
    benchlib.describe_machine()
    why_not = "the build found no lttng-ust" if not options.rival else rival.available()
    shm = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    status = 0
    with tempfile.TemporaryDirectory(prefix="skewscope-bench-", dir=shm) as scratch, \
            tempfile.TemporaryDirectory(prefix="skewscope-bench-") as trace:
        run = Run(options, scratch, trace)
        drain = collector(run)
        try:
            if why_not:
                results = measure(run, ["bare", "skewscope"], None)
                status = benchlib.SKIP
            else:
                for step in range(len(rival.BUFFERS)):
                    with rival.Session(scratch, run.other, step) as session:
                        results = measure(run, ["bare", "skewscope", "rival"], session)
                        lost = session.discarded()
                    if not lost:
                        break
                    print(f"the rival's session discarded {lost} events or packets with buffers of {session.number} x "
                          f"{session.size} a core: run again")
                else:
                    raise SystemExit("the rival's session discarded events with the largest buffers too; no result")
        finally:
            benchlib.stop(drain)
        draining = "no collector: the spool takes everything"
        if options.tool:
            draining = f"a collector draining on the other core ({coverage(trace)})"
    title = ("one ncclSend or ncclRecv inside a group (mean of 64 and 64)" if options.what == "send"
             else "a 64-peer exchange: group, 64 sends, 64 receives, record")
    print(f"\n{title}; {options.rounds} rounds, {draining}; medians with 95 % intervals over rounds")
    for how, rounds, first in results:
        if options.what == "send":
            print_send(how, rounds, 128)
        else:
            print_exchange(how, rounds, first)
    print("  the rival's session: " + (f"no rival arm, since {why_not}" if why_not else
                                       "0 events discarded, 0 packets lost"))
    print(f"load after the run {benchlib.load()}")
    return status


if __name__ == "__main__":
    sys.exit(main())
