#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""skewscope time where ordinals of ranks do not agree: what belongs together is put together, what is incomplete is left
out and counted, and lags and transfers are those of the truth."""
import collections
import contextlib
import json
import os
import random
import sqlite3
import statistics
import subprocess
import tempfile
import unittest

from matchjob import Job

TOOL = os.environ["SKEWSCOPE_TOOL"]
CALLS_A_STEP = 4  # dispatch and combine of two layers


class TimedJob(Job):
    """Who exchanges with whom in a call, directly or through others, is through with it together, a while after the last of
    them has arrived; the others are not waited for."""

    def __init__(self, path, ranks, seed):
        super().__init__(path, ranks)
        self.random = random.Random(seed)
        self.groups = []        # of all calls: {rank}, arrivals by rank, transfer, whether a record was lost
        self.group_of = {}      # (call, rank)
        self.met = {}           # (call, rank): ranks it exchanges with, whose record is there

    def call(self, number, matrix, skip_zeros=False, lose=(), expect=None):
        super().call(number, matrix, skip_zeros, lose, expect)
        for ranks in self.pieces(matrix, skip_zeros):
            for rank in ranks:
                self.met[number, rank] = self.tied(matrix, skip_zeros, rank) - set(lose) | {rank}
            arrivals = {r: 1_000_000 * (number + 1) + self.random.randrange(200_000) for r in ranks}
            port = max(max(sum(matrix[r][p] for p in range(self.ranks) if p != r),
                           sum(matrix[p][r] for p in range(self.ranks) if p != r)) for r in ranks)
            for rank in ranks:
                self.group_of[number, rank] = len(self.groups)
            self.groups.append((number, arrivals, 20_000 + 3 * port, bool(set(lose) & set(ranks))))

    def tied(self, matrix, skip_zeros, rank):
        return {p for p in range(self.ranks) if matrix[rank][p] or matrix[p][rank] or not skip_zeros}

    def pieces(self, matrix, skip_zeros):
        """Ranks that call at all, by who is tied to whom."""
        tied = {r: self.tied(matrix, skip_zeros, r) for r in range(self.ranks)}
        left = {r for r in tied if tied[r]}
        while left:
            piece, new = set(), {min(left)}
            while new:
                piece |= new
                new = set().union(*(tied[r] for r in new)) - piece
            left -= piece
            yield sorted(piece)

    def finish(self):
        """Times and labels into the trace."""
        db = self.trace.db
        self.exchange_at = {}   # (rank, seq): group
        for ident, member, seq, rank in db.execute("SELECT exchange_id, member_id, seq, rank FROM exchange JOIN member"
                                                   " USING (member_id)").fetchall():
            call = self.truth[ident]
            self.exchange_at[rank, seq] = self.group_of[call, rank]
            _, arrivals, transfer, _ = self.groups[self.group_of[call, rank]]
            db.execute("INSERT INTO device_time (member_id, thread, group_seq, launch_id, source, start_ns, end_ns, error_ns)"
                       " VALUES (?, 1, ?, 0, 1, ?, ?, 10)", (member, seq, arrivals[rank], max(arrivals.values()) + transfer))
            db.execute("INSERT INTO exchange_label (exchange_id, role, step, layer, microbatch, confidence, source)"
                       " VALUES (?, ?, ?, ?, 0, 1, 'test')",
                       (ident, ("dispatch", "combine")[call % 2], call // CALLS_A_STEP, call // 2 % 2))
        self.trace.close()

    def calls_by_ordinal(self):
        calls = collections.defaultdict(set)
        for (_, seq), group in self.exchange_at.items():
            calls[seq].add(self.groups[group][0])
        return calls


class PartsJob(Job):
    """Dispatch and combine in several exchanges each, as with FastMoE, or with the probabilities behind the dispatch, as with
    Megatron. Experts take 5,000 ns and half a nanosecond for each byte that the rank received, give or take 10 ns."""

    def __init__(self, path, ranks, seed):
        super().__init__(path, ranks)
        self.random = random.Random(seed)
        self.free = [1_000_000 + 100 * r for r in range(ranks)]     # when a rank is through with what it did
        self.calls = 0

    def exchange(self, role, step, layer, matrix, computed, lose=()):
        arrivals = [self.free[r] + computed[r] for r in range(self.ranks)]
        port = max(max(sum(matrix[r][p] for p in range(self.ranks) if p != r),
                       sum(matrix[p][r] for p in range(self.ranks) if p != r)) for r in range(self.ranks))
        end = max(arrivals) + 20_000 + 3 * port
        self.call(self.calls, matrix, lose=lose)
        for ident in [i for i, n in self.truth.items() if n == self.calls]:
            member, seq, rank = self.trace.db.execute("SELECT member_id, seq, rank FROM exchange JOIN member USING (member_id)"
                                                      " WHERE exchange_id = ?", (ident,)).fetchone()
            self.trace.db.execute("INSERT INTO device_time (member_id, thread, group_seq, launch_id, source, start_ns, end_ns,"
                                  " error_ns) VALUES (?, 1, ?, 0, 1, ?, ?, 0)", (member, seq, arrivals[rank], end))
            self.trace.db.execute("INSERT INTO exchange_label (exchange_id, role, step, layer, microbatch, confidence, source)"
                                  " VALUES (?, ?, ?, ?, 0, 1, 'test')", (ident, role, step, layer))
        self.calls += 1
        self.free = [end] * self.ranks

    def pause(self):
        return [1000 + self.random.randrange(200) for _ in range(self.ranks)]

    def layer(self, step, layer, parts, probs, lose=()):
        matrices = [[[self.random.randrange(1, 200) * 64 for _ in range(self.ranks)] for _ in range(self.ranks)]
                    for _ in range(parts)]
        for i, matrix in enumerate(matrices):
            self.exchange("dispatch", step, layer, matrix, self.pause(), lose if i == 0 else ())
        if probs:
            self.exchange("probs", step, layer, [[b // 64 for b in row] for row in matrices[0]], self.pause())
        load = [sum(m[p][r] for m in matrices for p in range(self.ranks)) for r in range(self.ranks)]
        computed = [5000 + b // 2 + self.random.randrange(-10, 11) for b in load]
        for matrix in matrices:
            self.exchange("combine", step, layer, [list(column) for column in zip(*matrix)], computed)
            computed = self.pause()


class Time(unittest.TestCase):
    def setUp(self):
        holder = tempfile.TemporaryDirectory(prefix="skewscope-time-")
        self.addCleanup(holder.cleanup)
        self.path = os.path.join(holder.name, "trace.db")
        self.random = random.Random(5)

    def matrix(self, ranks, zeros):
        return [[0 if self.random.random() < zeros else self.random.randrange(1, 99) * 64 for _ in range(ranks)]
                for _ in range(ranks)]

    def time(self):
        done = subprocess.run([TOOL, "time", "--json", "--rows", "100000", self.path], capture_output=True, text=True,
                              check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def check(self, job):
        answer = self.time()
        whole = [g for g in job.groups if not g[3]]
        self.assertEqual(answer["complete"], len(whole))
        seen = set()
        for x in answer["ledger"]:
            group = job.exchange_at[x["rank"], x["seq"]]
            call, arrivals, transfer, _ = job.groups[group]
            seen.add(group)
            self.assertEqual((x["step"], x["layer"], x["role"]),
                             (call // CALLS_A_STEP, call // 2 % 2, ("dispatch", "combine")[call % 2]))
            self.assertAlmostEqual(x["lag_ns"], max(arrivals.values()) - statistics.median(arrivals.values()), delta=0.01)
            parts = sum(x[k] for k in ("latency_ns", "balanced_ns", "skew_ns", "unexplained_ns"))
            self.assertAlmostEqual(parts, transfer, delta=0.01)
        self.assertEqual(seen, {i for i, g in enumerate(job.groups) if not g[3]})
        waits = [[max(a.values()) - v for v in a.values()] for _, a, _, _ in whole]
        wanted = statistics.mean(statistics.mean(w) for w in waits)
        got = sum(r["wait_mean_ns"] * r["exchanges"] for r in answer["roles"].values()) / answer["complete"]
        self.assertAlmostEqual(got, wanted, delta=0.01)
        return answer

    def check_view(self, job):
        """View exchange_time: a rank waits for those that it exchanges with itself."""
        with contextlib.closing(sqlite3.connect(self.path)) as db:
            rows = db.execute("SELECT rank, seq, wait_ns, transfer_ns, ranks_timed FROM exchange_time").fetchall()
        self.assertEqual(len(rows), len(job.exchange_at))
        for rank, seq, wait, transfer, timed in rows:
            call, arrivals, took, _ = job.groups[job.exchange_at[rank, seq]]
            met = job.met[call, rank]
            last = max(arrivals[r] for r in met)
            self.assertEqual((wait, transfer, timed),
                             (last - arrivals[rank], max(arrivals.values()) + took - last, len(met)), (rank, seq))

    def job(self, calls, zeros, skip, lose=lambda n: ()):
        job = TimedJob(self.path, 4, 3)
        for n in range(calls):
            job.call(n, self.matrix(4, zeros), skip_zeros=skip, lose=lose(n))
        job.finish()
        return job

    def test_ordinals_that_agree(self):
        job = self.job(120, 0.2, False)
        self.assertEqual(self.check(job)["exchanges"], 120)
        self.check_view(job)
        self.assertEqual({len(c) for c in job.calls_by_ordinal().values()}, {1})

    def test_calls_left_out(self):
        """As FastMoE: no call for zero sizes, no group where there is none."""
        job = self.job(160, 0.8, True)
        self.check_view(job)
        self.assertGreater(sum(len(c) > 1 for c in job.calls_by_ordinal().values()), 80, "ordinals agree: this tests nothing")
        answer = self.check(job)
        self.assertEqual(answer["exchanges"], len(job.groups))
        slope = answer["transfer"]["slope_ns"]
        self.assertAlmostEqual(slope["value"], 3, delta=0.01)

    def test_one_lost_record_shifts_nothing(self):
        for zeros, skip in ((0.2, False), (0.6, True)):
            with self.subTest(skip=skip):
                self.path = f"{self.path}.{skip}.db"
                job = self.job(120, zeros, skip, lambda n: (2,) if n == 37 else ())
                lost = [g for g in job.groups if g[3]]
                self.assertLessEqual(len(lost), 1)
                answer = self.check(job)
                self.assertEqual(answer["complete"], len(job.groups) - len(lost))
                self.assertGreater(answer["exchanges"], answer["complete"])

    def test_many_lost_records(self):
        dice = random.Random(17)
        lost = {n: [r for r in range(4) if dice.random() < 0.1] for n in range(160)}
        job = self.job(160, 0.5, True, lost.get)
        self.check(job)
        self.check_view(job)

    def test_computation_before_combine(self):
        """It goes by all that the call's dispatch brought, in however many exchanges, and not by what came in between."""
        for parts, probs in ((1, False), (1, True), (3, False)):
            with self.subTest(parts=parts, probs=probs):
                self.path = f"{self.path}.{parts}{probs}.db"
                job = PartsJob(self.path, 4, 9)
                for step in range(40):
                    for layer in range(2):
                        # one record that is lost, of the first part: that combine is no observation, on this rank
                        job.layer(step, layer, parts, probs, lose=(1,) if (step, layer) == (20, 1) else ())
                job.trace.close()
                answer = self.time()
                load = answer["load"]["combine"]
                self.assertEqual(load["model"], "linear", load["why"])
                self.assertAlmostEqual(load["slope_ns"]["value"], 0.5, delta=1e-3)
                self.assertAlmostEqual(load["intercept_ns"]["value"], 5000, delta=10)
                self.assertEqual(load["observations"], 40 * 2 * 4 - 1)
                if parts > 1:
                    self.assertIn("a dispatch is several exchanges", answer["headline"]["why"])
                else:
                    self.assertNotIn("several exchanges", answer["headline"].get("why") or "")

    def test_grouped_otherwise(self):
        """One group of two sends to a peer that receives them in two: no exchange of all, and no wrong one either."""
        job = TimedJob(self.path, 2, 3)
        ones = [[64, 64], [64, 64]]
        for n in range(8):
            if n == 5:  # after n == 4 has been called by rank 1 as two groups, and by rank 0 as one
                continue
            if n != 4:
                job.call(n, ones)
                continue
            job.truth[job.trace.exchange(job.comm, 0, [(1, 64), (1, 64)], [(1, 64), (1, 64)])] = 4
            for part in (4, 5):
                job.truth[job.trace.exchange(job.comm, 1, [(0, 64)], [(0, 64)])] = part
            for part in (4, 5):
                job.group_of[part, 0] = job.group_of[part, 1] = len(job.groups)
                job.groups.append((part, {0: 5_000_000 + part * 1000, 1: 5_000_000 + part * 1000}, 500, True))
        job.finish()
        self.check(job)


if __name__ == "__main__":
    unittest.main()
