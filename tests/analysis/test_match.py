#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Matching by pair and order: analysis/match.h, the view exchange_matched and a plain queue in Python must agree, with
empty groups left out, lost records, sizes that differ, and ranks in two databases."""
import os
import random
import sqlite3
import subprocess
import tempfile
import unittest

from matchjob import Job, tracegen

DUMP = os.environ["SKEW_MATCH_DUMP"]


def run(*databases):
    groups, mismatches, edges = {}, [], None
    done = subprocess.run([DUMP, *databases], capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(done.stderr)
    for line in done.stdout.splitlines():
        word, *rest = line.split()
        if word == "group":
            groups[int(rest[0]), int(rest[1])] = (int(rest[2]), [tuple(map(int, m.split(":"))) for m in rest[3:]])
        elif word == "mismatch":
            mismatches.append(tuple(map(int, rest)))
        else:
            edges = int(rest[0])
    return groups, mismatches, edges


class Matching(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory(prefix="skewscope-match-")
        self.path = os.path.join(self.directory.name, "trace.db")
        self.random = random.Random(11)

    def tearDown(self):
        self.directory.cleanup()

    def matrix(self, ranks, zeros=0.0):
        return [[0 if self.random.random() < zeros else self.random.randrange(1, 99) * 64 for _ in range(ranks)]
                for _ in range(ranks)]

    def compare(self, job):
        job.trace.close()
        groups, mismatches, edges = run(self.path)
        view, wrong, met = job.expected()
        self.assertEqual((sorted(mismatches), edges), (wrong, met))
        db = sqlite3.connect(self.path)
        rows = db.execute("SELECT src_rank, dst_rank, nth, send_exchange_id, recv_exchange_id, sent_bytes, expected_bytes"
                          " FROM exchange_matched").fetchall()
        self.assertEqual(sorted(rows, key=str), view)
        order = db.execute("SELECT m.rank, e.exchange_id FROM exchange e JOIN member m USING (member_id)"
                           " ORDER BY m.rank, e.seq").fetchall()
        db.close()
        last = {}
        for rank, ident in order:  # the common order agrees with every rank's own
            ordinal = groups[0, ident][0]
            self.assertGreater(ordinal, last.get(rank, -1))
            last[rank] = ordinal
        return groups

    def same_calls(self, job, groups):
        """Exchanges are in one group if, and only if, they are of one call."""
        for (_, ident), (_, members) in groups.items():
            self.assertEqual({job.truth[e] for _, _, e in members}, {job.truth[ident]})
            self.assertEqual([r for r, _, _ in members], sorted(r for r, _, _ in members))
        self.assertEqual(len({g[0] for g in groups.values()}), len(set(job.truth.values())))

    def test_plain(self):
        job = Job(self.path, 4)
        for n in range(20):
            job.call(n, self.matrix(4, 0.2))
        self.same_calls(job, self.compare(job))

    def test_groups_left_out(self):
        job = Job(self.path, 4)
        for n in range(40):
            job.call(n, self.matrix(4, 0.8), skip_zeros=True)
        groups = self.compare(job)
        for (_, ident), (_, members) in groups.items():  # parts of one call that share no edge may stay apart
            self.assertEqual({job.truth[e] for _, _, e in members}, {job.truth[ident]})

    def test_lost_records(self):
        for zeros in (0.0, 0.6):
            self.path = os.path.join(self.directory.name, f"lost{zeros}.db")
            job = Job(self.path, 4)
            for n in range(30):
                lose = [r for r in range(4) if self.random.random() < 0.15]
                job.call(n, self.matrix(4, zeros), skip_zeros=bool(zeros), lose=lose)
            groups = self.compare(job)
            for (_, ident), (_, members) in groups.items():
                self.assertEqual({job.truth[e] for _, _, e in members}, {job.truth[ident]})

    def test_columns_that_end(self):
        """Columns that all ranks share, some of them lost, end in the middle of a row of losses: at a size that differs, or
        where a rank begins to leave out zeros."""
        for seed in range(12):
            self.path = os.path.join(self.directory.name, f"end{seed}.db")
            self.random = random.Random(seed)
            job = Job(self.path, 4)
            for n in range(30):
                matrix = self.matrix(4, 0.0 if n < 20 else 0.5)
                expect = [row[:] for row in matrix]
                if n == 12 and seed % 2:
                    expect[1][3] += 64
                lose = {r for r in range(4) if self.random.random() < 0.1} | ({2} if 11 <= n <= 13 or 18 <= n <= 21 else set())
                job.call(n, matrix, skip_zeros=n >= 20, lose=lose, expect=expect)
            groups = self.compare(job)
            for (_, ident), (_, members) in groups.items():
                self.assertEqual({job.truth[e] for _, _, e in members}, {job.truth[ident]})

    def test_wrong_size(self):
        job = Job(self.path, 3)
        for n in range(9):
            matrix = self.matrix(3)
            expect = [row[:] for row in matrix]
            if n == 5:
                expect[1][2] += 64
            job.call(n, matrix, expect=expect)
        groups = self.compare(job)
        self.same_calls(job, groups)

    def test_missing_rank(self):
        job = Job(self.path, 4)
        for n in range(6):
            job.call(n, self.matrix(4))
        matrix = self.matrix(4)  # rank 2 does not come
        for rank in (0, 1, 3):
            ident = job.trace.exchange(job.comm, rank, list(enumerate(matrix[rank])),
                                       [(i, matrix[i][rank]) for i in range(4)])
            job.truth[ident] = 6
            for peer in range(4):
                job.sends[rank, peer].append((ident, matrix[rank][peer]))
                job.recvs[peer, rank].append((ident, matrix[peer][rank]))
        self.same_calls(job, self.compare(job))

    def test_two_databases(self):
        paths = [os.path.join(self.directory.name, f"trace-{n}.db") for n in range(2)]
        traces = [tracegen.Trace(p) for p in paths]
        comms = [t.comm("cd" * 8, 4, {r: t.process(r) for r in (2 * n, 2 * n + 1)}) for n, t in enumerate(traces)]
        call_of = {}
        for call in range(5):
            matrix = self.matrix(4)
            for rank in range(4):
                t = rank // 2
                ident = traces[t].exchange(comms[t], rank, list(enumerate(matrix[rank])),
                                           [(i, matrix[i][rank]) for i in range(4)])
                call_of[t, ident] = call
        for trace in traces:
            trace.close()
        groups, mismatches, edges = run(*paths)
        self.assertEqual((mismatches, edges), ([], 5 * 16))
        for key, (ordinal, members) in groups.items():
            self.assertEqual(ordinal, call_of[key])
            self.assertEqual([(r, call_of[t, e]) for r, t, e in members], [(r, ordinal) for r in range(4)])
        groups, mismatches, edges = run(paths[0])  # half of it: what went to the others is no mismatch
        self.assertEqual((mismatches, edges), ([], 5 * 4))

    def test_several_to_one_peer(self):
        job = Job(self.path, 2)
        for n in range(4):
            for rank in range(2):
                sizes = [(p, 64 * (n + 1 + i)) for i in range(3) for p in range(2)]
                ident = job.trace.exchange(job.comm, rank, sizes, sizes)
                job.truth[ident] = n
                for peer, size in sizes:
                    job.sends[rank, peer].append((ident, size))
                    job.recvs[peer, rank].append((ident, size))
        self.same_calls(job, self.compare(job))


if __name__ == "__main__":
    unittest.main()
