# SPDX-License-Identifier: Apache-2.0
"""What analysis/ decodes, against the lists from which the database was made."""
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "cli"))
import tracegen # noqa: E402

DUMP = os.environ["SKEW_DUMP"]


class Decode(unittest.TestCase):
    maxDiff = 2000

    def setUp(self):
        self.dir = tempfile.TemporaryDirectory(prefix="skew-analysis-")
        self.addCleanup(self.dir.cleanup)
        self.path = os.path.join(self.dir.name, "t.db")
        self.random = random.Random(11)

    def dump(self, *arguments):
        done = subprocess.run([DUMP, self.path, *arguments], capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def cells(self, ranks):
        """A side of an exchange: every shape that the encoding knows."""
        kind = self.random.randrange(8)
        unit = self.random.choice([1, 2, 3, 128, 5760, 1 << 20])
        width = self.random.choice([1, 8, 16, 24, 31, 40, 50])
        size = lambda: unit * self.random.randrange(1 << min(width, 32))
        if kind == 0:
            return None
        if kind == 1:
            return []
        if kind == 2:
            return [(p, unit * 7) for p in range(ranks)]                     # all equal
        if kind == 3:
            return [(p, 0) for p in range(ranks)]                            # all zero
        if kind == 4:
            return [(self.random.randrange(ranks), size()) for _ in range(self.random.randrange(1, 3 * ranks))]
        if kind == 5:
            return [(ranks - 1, size()) for _ in range(5)]                   # one peer, several times
        if kind == 6:
            return [(0, size())]
        return [(p, size()) for p in range(ranks)]

    def test_all_shapes(self):
        trace = tracegen.Trace(self.path)
        expected = []
        for ranks in (1, 2, 5, 64, 300, 70000 % 65536):
            processes = {r: trace.process(1000 * ranks + r) for r in range(min(ranks, 8))}
            key = f"{ranks:016x}"
            comm = trace.comm(key, ranks, processes)
            for _ in range(60):
                rank = self.random.randrange(min(ranks, 8))
                send, recv = self.cells(ranks), self.cells(ranks)
                op = self.random.choice([0, 2, 3])
                number = trace.exchange(comm, rank, send, recv, op=op)
                expected.append({"id": number, "comm": key, "ranks": ranks, "rank": rank, "op": op,
                                 "send": send and [list(c) for c in send] if send else send,
                                 "recv": [list(c) for c in recv] if recv else recv})
        trace.close()
        got = self.dump("stored")
        self.assertEqual(len(got), len(expected))
        for g, e in zip(got, expected):
            self.assertEqual({k: g[k] for k in e}, e)
            self.assertEqual(g["sent"], sum(s for _, s in e["send"] or []))
            self.assertEqual(g["received"], sum(s for _, s in e["recv"] or []))

    def test_widest(self):
        """Eight bytes a size."""
        trace = tracegen.Trace(self.path)
        comm = trace.comm("aa" * 8, 2, {0: trace.process(0)})
        trace.exchange(comm, 0, [(0, (1 << 62) + 5), (1, 3)], [(1, (1 << 63) - 1)])
        trace.close()
        (got,) = self.dump("stored")
        self.assertEqual((got["send"], got["recv"]), ([[0, (1 << 62) + 5], [1, 3]], [[1, (1 << 63) - 1]]))

    def test_many_vectors(self):
        """More distinct vectors than the cache holds, met again in another order."""
        trace = tracegen.Trace(self.path)
        comm = trace.comm("bb" * 8, 2, {0: trace.process(0), 1: trace.process(1)})
        sides = [[(0, i), (1, i * i)] for i in range(3000)]
        order = list(range(3000)) * 2
        self.random.shuffle(order)
        expected = []
        for i in order:
            j = self.random.randrange(3000)
            trace.exchange(comm, i % 2, sides[i], sides[j])
            expected.append(([list(c) for c in sides[i]], [list(c) for c in sides[j]]))
        trace.close()
        self.assertEqual([(g["send"], g["recv"]) for g in self.dump("stored")], expected)

    def test_order_and_filters(self):
        trace = tracegen.Trace(self.path)
        processes = {r: trace.process(r) for r in range(4)}
        comms = [trace.comm(f"{c:016x}", 4, processes) for c in range(3)]
        made = []
        events = [(c, r) for c in range(3) for r in range(4) for _ in range(12)]
        self.random.shuffle(events)
        for c, r in events:
            seq = trace.seq.get(trace.members[comms[c], r], 0)
            label = {"layer": seq % 3, "step": seq // 3, "role": "dispatch" if seq % 2 else "combine"}
            op = self.random.choice([0, 2, 3])
            number = trace.exchange(comms[c], r, [(0, 1)], None, op=op, label=label)
            made.append({"id": number, "comm": f"{c:016x}", "rank": r, "seq": seq, "op": op, **label})
        trace.close()
        ids = lambda *a: [g["id"] for g in self.dump(*a)]
        self.assertEqual(ids("stored"), [m["id"] for m in made])
        self.assertEqual(ids("seq"), [m["id"] for m in sorted(made, key=lambda m: (m["comm"], m["seq"], m["rank"]))])
        for arguments, keep in (
                (["comm=" + "0" * 15 + "1"], lambda m: m["comm"].endswith("1")),
                (["seq=3..5"], lambda m: 3 <= m["seq"] <= 5),
                (["ops=8"], lambda m: m["op"] == 3),
                (["ops=5"], lambda m: m["op"] in (0, 2)),
                (["layer=2"], lambda m: m["layer"] == 2),
                (["step=1", "layer=0"], lambda m: m["step"] == 1 and m["layer"] == 0),
                (["role=dispatch", "step=2"], lambda m: m["role"] == "dispatch" and m["step"] == 2),
                (["layers=2", "calls=2", "layer=1"], lambda m: m["seq"] % 4 in (2, 3)),
                (["layers=2", "calls=2", "layer=0", "step=1"], lambda m: m["seq"] in (4, 5)),
                (["role=none"], lambda m: False)):
            self.assertEqual(ids("stored", *arguments), [m["id"] for m in made if keep(m)], arguments)

    def test_unknown_ranks(self):
        trace = tracegen.Trace(self.path)
        comm = trace.comm("?1", 9, {2: trace.process(0), 4: trace.process(1)}, known=False)
        trace.exchange(comm, 4, [(0, 1)], None)
        trace.close()
        self.assertEqual(self.dump("stored")[0]["ranks"], 5)


if __name__ == "__main__":
    unittest.main()
