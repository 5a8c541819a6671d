#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Replays short captures that tests/gpu/run took on a GPU (fixtures/*.sql): the analyses say of them what they said there, and
what was measured is in order. Skipped while none has been captured.

usage: test_fixtures.py SKEWSCOPE [DIRECTORY]
"""
import fnmatch
import json
import pathlib
import re
import sqlite3
import subprocess
import sys
import tempfile

import fixture

HERE = pathlib.Path(__file__).resolve().parent
KERNELS = json.loads((HERE.parents[1] / "schema" / "kernels.json").read_text(encoding="utf-8"))


class Replayed:
    def __init__(self, skewscope, path, top):
        self.skewscope, self.path = skewscope, top / f"{path.stem}.db"
        self.about = fixture.load(path, self.path)
        self.db = sqlite3.connect(self.path)

    def ask(self, command, *more):
        done = subprocess.run([self.skewscope, command, self.path, *more], capture_output=True, text=True)
        assert done.returncode == 0, f"skewscope {command}: exit status {done.returncode}: {done.stderr}"
        return done.stdout

    def json(self, command):
        return json.loads(self.ask(command, "--json"))

    def count(self, sql, *values):
        return self.db.execute(sql, values).fetchone()[0]


def check_expectations(f):
    """info, label, time, overlap and hang say what they said where it was captured."""
    for command in ("info", "label", "time", "overlap", "hang"):
        assert f.ask(command).strip(), f"skewscope {command} says nothing"
    got, info = fixture.said(f.json), f.json("info")[0]
    assert got == f.about["expect"], f"{got}, there it was {f.about['expect']}"
    assert got["timed"] > 0 and got["findings"] == 0, got
    assert info["own_cost"]["measured"] and info["own_cost"]["host_ns_per_group"] > 0, info["own_cost"]
    assert info["groups"]["captured"] == info["groups"]["of"] > 0, info["groups"]
    tiers = [list(r) for r in f.db.execute("SELECT DISTINCT tier, why FROM timing ORDER BY ns")]
    assert tiers == f.about["tiers"], (tiers, f.about["tiers"])


def check_times(f):
    """In order: an end behind its start, launches of a stream one after the other, the host's call before the end."""
    assert f.count("SELECT count(*) FROM device_time WHERE end_ns < start_ns OR error_ns < 0") == 0
    early = f.count("SELECT count(*) FROM device_time d JOIN exchange e USING (member_id, thread, group_seq) WHERE launch_id = 0"
                    " AND end_ns + error_ns < e.start_ns")
    assert early == 0, f"{early} exchanges end before they are called"
    rows = f.db.execute("SELECT e.member_id, d.start_ns, d.end_ns, d.error_ns, d.start_slack_ns, d.end_slack_ns FROM device_time d"
                        " JOIN exchange e USING (member_id, thread, group_seq) WHERE launch_id = 0 ORDER BY e.member_id, e.seq").fetchall()
    for before, after in zip(rows, rows[1:]):
        if before[0] == after[0]:
            assert after[1] + after[3] >= before[2] - before[3] - before[5] - after[4], f"{before} and {after} overlap"


def check_bytes(f):
    """Both sides of every edge agree; the matrix has all bytes."""
    assert f.count("SELECT count(*) FROM exchange_matched WHERE sent_bytes IS NOT expected_bytes") == 0
    sent = f.count("SELECT CAST(total(bytes) AS INTEGER) FROM edges")
    assert sent == f.about["expect"]["bytes"] > 0, (sent, f.about["expect"]["bytes"])


def known(name):
    """The entry of schema/kernels.json that names it, by the words of that file; a mangled name of the form _Z<n>name… too."""
    mangled = re.match(r"_Z(\d+)(.*)", name)
    plain = mangled.group(2)[:int(mangled.group(1))] if mangled else re.split(r"[<(]", name.removeprefix("void "))[0]
    return next((k for k in KERNELS["kernels"] if any(fnmatch.fnmatchcase(plain, p) for p in k["names"])), None)


def check_kernels(f):
    """NCCL's kernels have names that are in the table, and nothing else is taken for them."""
    for name, _ in f.about.get("kernels", []):
        entry = known(name)
        assert entry and entry["backend"] == "NCCL", f"{name}: not in schema/kernels.json as NCCL's"
        assert entry["does"] == "transfer", f"{name}: {entry['does']}, but all that was exchanged were all-to-alls"
    for name, does, backend in f.db.execute("SELECT name, does, backend FROM kernel_name"):
        entry = known(name)
        wanted = (entry["does"], entry["backend"]) if entry else None
        assert wanted is None or (does, backend) == wanted, f"{name}: {does}, {backend} in the trace, {wanted} in the table"


def check_beside_profiler(f):
    """Events and CUPTI's records of the same exchanges: events stand around the kernel, within what the trace says itself."""
    kernels = f.about.get("kernels")
    if not kernels:
        return
    rows = f.db.execute("SELECT d.start_ns, d.end_ns, d.error_ns, d.start_slack_ns + d.end_slack_ns FROM exchange e LEFT JOIN device_time d"
                        " ON d.member_id = e.member_id AND d.thread = e.thread AND d.group_seq = e.group_seq AND d.source = 1"
                        " WHERE e.start_ns BETWEEN ? AND ? ORDER BY e.seq", f.about["window"]).fetchall()
    assert len(rows) == len(kernels), f"{len(rows)} exchanges, {len(kernels)} kernels"
    both = [(r, k[1]) for r, k in zip(rows, kernels) if r[1] is not None]
    short = sum(r[1] - r[0] - k + r[3] + 2 * r[2] + 2000 < 0 for r, k in both)
    assert both and short <= 0.05 * len(both), f"{short} of {len(both)} exchanges are shorter than their kernels"


CHECKS = [check_expectations, check_times, check_bytes, check_kernels, check_beside_profiler]


def main():
    directory = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else HERE / "fixtures"
    found, failed = sorted(directory.glob("*.sql")), 0
    if not found:
        print("skipped: none has been captured yet; tests/gpu/run makes them on a machine with a GPU")
        return 77
    for path in found:
        with tempfile.TemporaryDirectory(prefix="skewscope-fixture-") as top:
            f = Replayed(sys.argv[1], path, pathlib.Path(top))
            for check in CHECKS:
                what = f"{path.stem} {check.__name__.removeprefix('check_').replace('_', ' ')}"
                try:
                    check(f)
                    print(f"ok    {what}", flush=True)
                except AssertionError as e:
                    failed += 1
                    print(f"FAIL  {what}: {e}", flush=True)
            f.db.close()
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
