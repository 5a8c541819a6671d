# SPDX-License-Identifier: Apache-2.0
"""Traces of jobs whose ranks' ordinals need not agree, with the truth of which exchanges belong together."""
import collections
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "cli"))
import tracegen  # noqa: E402


class Job:
    """Exchanges as the ranks see them, and by which truth they belong together."""

    def __init__(self, path, ranks):
        self.ranks = ranks
        self.trace = tracegen.Trace(path)
        self.comm = self.trace.comm("ab" * 8, ranks, {r: self.trace.process(r) for r in range(ranks)})
        self.truth = {}     # exchange: which call
        self.sends, self.recvs = collections.defaultdict(list), collections.defaultdict(list)
        self.lost = collections.Counter()

    def call(self, number, matrix, skip_zeros=False, lose=(), expect=None):
        """matrix[i][j] bytes; `lose`: ranks whose record is lost; expect[i][j]: what j expects from i."""
        expect = expect or matrix
        for rank in range(self.ranks):
            send = [(j, matrix[rank][j]) for j in range(self.ranks) if matrix[rank][j] or not skip_zeros]
            recv = [(i, expect[i][rank]) for i in range(self.ranks) if expect[i][rank] or not skip_zeros]
            if not send and not recv:
                continue
            ident = None
            if rank in lose:
                self.lose(rank, send, recv)
            else:
                ident = self.trace.exchange(self.comm, rank, send or None, recv or None)
                self.truth[ident] = number
            for peer, size in send:
                self.sends[rank, peer].append((ident, size))
            for peer, size in recv:
                self.recvs[peer, rank].append((ident, size))

    def lose(self, rank, send, recv):
        member = self.trace.members[self.comm, rank]
        before = self.trace.seq.get(member, 0) + 1
        self.trace.seq[member] = before
        for peer in sorted({p for p, _ in send + recv}):
            self.trace.db.execute("INSERT INTO loss_edge VALUES (?, ?, ?, ?, ?)",
                                  (member, before, peer, sum(p == peer for p, _ in send), sum(p == peer for p, _ in recv)))

    def expected(self):
        """(rows of the view, mismatches of the library, edges that met) by queues."""
        view, wrong, met = [], [], 0
        for src in range(self.ranks):
            for dst in range(self.ranks):
                s, r = self.sends[src, dst], self.recvs[src, dst]
                for n in range(max(len(s), len(r))):
                    a = s[n] if n < len(s) else None
                    b = r[n] if n < len(r) else None
                    here, there = a and a[0] is not None, b and b[0] is not None
                    if here or there:
                        view.append((src, dst, n, a[0] if here else None, b[0] if there else None,
                                     a[1] if here else None, b[1] if there else None))
                    if here and there:
                        met += a[1] == b[1]
                        if a[1] != b[1]:
                            wrong.append((0, src, dst, n, a[1], b[1], a[0], b[0]))
                    elif here and b is None:
                        wrong.append((1, src, dst, n, a[1], 0, a[0], 0))
                    elif there and a is None:
                        wrong.append((2, src, dst, n, 0, b[1], 0, b[0]))
        return sorted(view, key=str), sorted(wrong), met
