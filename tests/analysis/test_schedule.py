#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""skewscope whatif schedule from outside: the published example, traces, bad input, its outputs.

The published matrix (arXiv 2605.26845, Fig. 2) lies beside the project (../shared/data, or where
SKEWSCOPE_TEST_DATA says) and is skipped, saying so, where it is not.
"""
import csv
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "cli"))
import tracegen  # noqa: E402

TOOL = os.environ["SKEWSCOPE_TOOL"]
DUMP = os.environ["SKEW_SCHEDULE_DUMP"]
DATA = pathlib.Path(os.environ.get("SKEWSCOPE_TEST_DATA") or HERE.parents[2] / "shared" / "data")
FIG2 = DATA / "reference" / "mw_decomposition_fig2.json"


def call(*arguments):
    return subprocess.run([TOOL, "whatif", "schedule", *map(str, arguments)], capture_output=True, text=True,
                          timeout=300, check=False)


class Schedule(unittest.TestCase):
    def setUp(self):
        self.room = tempfile.TemporaryDirectory()
        self.addCleanup(self.room.cleanup)
        self.dir = pathlib.Path(self.room.name)

    def matrix(self, rows, name="m.txt"):
        path = self.dir / name
        path.write_text("".join(" ".join(map(str, row)) + "\n" for row in rows), encoding="utf-8")
        return path

    def json(self, *arguments):
        done = call("--json", *arguments)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return json.loads(done.stdout)

    def schedules(self, *arguments):
        return {s["method"]: s for s in self.json(*arguments)["exchanges"][0]["schedules"]}

    def fails(self, status, words, *arguments):
        done = call(*arguments)
        self.assertEqual(done.returncode, status, done.stderr)
        self.assertEqual(done.stdout, "")
        self.assertIn(words, done.stderr)

    @unittest.skipUnless(FIG2.exists(), f"{FIG2} is not here")
    def test_published_example(self):
        fig2 = json.loads(FIG2.read_text(encoding="utf-8"))
        path = self.matrix(fig2["matrix_tokens_src_by_dst"])
        dumped = subprocess.run([DUMP, "greedy", path], capture_output=True, text=True, check=True).stdout
        phases = [sorted(tuple(map(int, t.split(","))) for t in line.split()) for line in dumped.splitlines()]
        published = [sorted((t["src"], t["dst"], t["tokens"]) for t in m) for m in fig2["matchings"]]
        self.assertEqual(phases, published)
        made = self.schedules("--matrix", path)
        sums = {m: made[m]["bottlenecks_bytes"] for m in ("greedy", "stuffed", "shift")}
        self.assertEqual(sums, {"greedy": 19705, "stuffed": 19627, "shift": 19943})
        self.assertEqual(made["greedy"]["bound_bytes"], 19627)
        self.assertEqual(made["greedy"]["matchings"], 7)
        self.assertAlmostEqual(made["greedy"]["loss"], 1.0040, 4)
        self.assertAlmostEqual(made["shift"]["loss"], 1.0161, 4)
        for pick in ("largest", "first"):
            made = self.schedules("--matrix", path, "--pick", pick)
            self.assertEqual(made["stuffed"]["loss"], 1)
            self.assertLessEqual(made["stuffed"]["matchings"], 50)  # n² − 2n + 2

    def test_cost_of_one_transfer(self):
        """Everything by hand: 0 → 1 sends 1000 tokens of 100 bytes, and keeps 10."""
        path = self.matrix([[1000, 100000], [0, 0]])
        one = self.json("--matrix", path, "--token-bytes", 100, "--bandwidth", 1, "--fixed-us", 5,
                        "--reconfigure-us", 2, "--combine-ratio", 2, "--methods", "greedy,ring")
        exchange = one["exchanges"][0]
        greedy, ring = exchange["schedules"]
        compute = 250e-6 * 1000 / 256
        self.assertAlmostEqual(greedy["dispatch_s"], 107e-6)
        self.assertAlmostEqual(greedy["combine_s"], 207e-6)
        self.assertAlmostEqual(greedy["makespan_s"], max(107e-6, 250e-6) + compute + 207e-6)
        self.assertAlmostEqual(greedy["compute_s"], 250e-6 + compute)
        self.assertAlmostEqual(greedy["sequential_s"], 107e-6 + compute + 207e-6)
        self.assertAlmostEqual(exchange["ideal_s"], 300e-6 + compute)
        self.assertAlmostEqual(ring["dispatch_s"], 105e-6)  # two ways of half a port each
        self.assertEqual(exchange["endpoint_imbalance"], 2)
        self.assertEqual(exchange["local_bytes"], 1000)

    def test_tier(self):
        """Two domains of two: 0 and 1 must share what only 0 has for the other domain."""
        path = self.matrix([[0, 0, 60, 40], [0, 0, 0, 0], [0, 0, 0, 8], [0, 0, 0, 0]])
        made = self.schedules("--matrix", path, "--domain-ranks", 2, "--methods", "tier,greedy")
        self.assertEqual(made["tier"]["bottlenecks_bytes"], 50)
        self.assertEqual(made["tier"]["bound_bytes"], 50)
        self.assertEqual(made["greedy"]["bottlenecks_bytes"], 100)

    def test_cap(self):
        rows = [[(3 * i + 5 * j) % 11 + 1 for j in range(6)] for i in range(6)]
        for schedule in self.schedules("--matrix", self.matrix(rows), "--max-matchings", 2).values():
            if schedule["method"] == "ring":
                continue
            self.assertEqual(schedule["matchings"], 2)
            self.assertGreater(schedule["remainder_bytes"], 0)

    def test_crossing(self):
        """Few matchings win small batches, short transfers large ones; where is in bytes a rank."""
        generator = random.Random(3)
        rows = [[generator.randrange(1, 1000) * 1000 for _ in range(8)] for _ in range(8)]
        one = self.json("--matrix", self.matrix(rows), "--fixed-us", 1, "--methods", "greedy,stuffed",
                        "--combine-ratio", 0)["exchanges"][0]
        found = [c for c in one["crossings"] if {c["below"], c["above"]} == {"greedy", "stuffed"}]
        self.assertEqual([(c["below"], c["above"], c["fastest"]) for c in found], [("greedy", "stuffed", True)])
        self.assertAlmostEqual(found[0]["bytes_per_rank"], found[0]["scale"] * sum(map(sum, rows)) / 8, 3)
        self.assertGreater(one["break_even_s"], 0)

    def test_trace(self):
        matrices = [[[i * j * 100 + step for j in range(4)] for i in range(4)] for step in range(3)]
        trace = self.dir / "trace.db"
        tracegen.simple(trace, matrices)
        series = self.json(trace)
        self.assertEqual([e["seq"] for e in series["exchanges"]], [0, 1, 2])
        for step, exchange in enumerate(series["exchanges"]):
            bytes_sent = sum(matrices[step][i][j] for i in range(4) for j in range(4) if i != j)
            self.assertEqual(exchange["total_bytes"], bytes_sent)
            self.assertTrue(exchange["complete"])
            self.assertEqual(exchange["schedules"], self.json(
                "--matrix", self.matrix(matrices[step]))["exchanges"][0]["schedules"])
        self.assertEqual([e["seq"] for e in self.json(trace, "--seq", "1..2")["exchanges"]], [1, 2])
        limited = self.json(trace, "--limit", 1)
        self.assertEqual((len(limited["exchanges"]), limited["not_looked_at"]), (1, 2))
        total = sum(m[i][j] for m in matrices for i in range(4) for j in range(4) if i != j)
        self.assertEqual(self.json(trace, "--sum")["exchanges"][0]["total_bytes"], total)
        self.assertEqual(self.json(trace, "--mean")["exchanges"][0]["total_bytes"], total // 3)
        text = call(trace).stdout
        self.assertIn("3 exchanges of communicator 1", text)
        self.assertIn("call 1", call(trace, "--seq", 1).stdout)

    def test_incomplete_is_said(self):
        trace = tracegen.Trace(self.dir / "trace.db")
        run = trace.run("20261122-101500-00000001")
        comm = trace.comm("00c0ffee00c0ffee", 4, {r: trace.process(r, run) for r in range(2)})
        trace.matrix(comm, [[7] * 4] * 4, ranks=[0, 1])
        trace.close()
        self.assertFalse(self.json(self.dir / "trace.db")["exchanges"][0]["complete"])
        self.assertIn("NOT COMPLETE", call(self.dir / "trace.db", "--seq", 0).stdout)

    def test_gantt(self):
        path = self.matrix([[5, 10, 20], [7, 5, 9], [4, 3, 5]])
        for name in ("g.csv", "g.json"):
            made = self.schedules("--matrix", path, "--token-bytes", 1, "--gantt", self.dir / name)
            with open(self.dir / name, encoding="utf-8") as f:
                bars = list(csv.DictReader(f)) if name == "g.csv" else json.load(f)
            for method, schedule in made.items():
                mine = [b for b in bars if b["method"] == method]
                self.assertAlmostEqual(max(float(b["end_s"]) for b in mine), schedule["makespan_s"], 9)
                for machine in ("dispatch", "compute", "combine"):
                    spans = sorted((float(b["start_s"]), float(b["end_s"])) for b in mine
                                   if b["machine"] == machine)
                    for (_, end), (start, _) in zip(spans, spans[1:]):
                        self.assertLessEqual(end, start + 1e-12)

    def test_nothing_to_schedule(self):
        for rows in ([[0]], [[5]], [[0, 0], [0, 0]], [[3, 0], [0, 4]]):
            one = self.json("--matrix", self.matrix(rows), "--token-bytes", 1)["exchanges"][0]
            self.assertIsNone(one["endpoint_imbalance"])
            self.assertEqual({s["matchings"] for s in one["schedules"]}, {0})
            self.assertIn("nothing to schedule", call("--matrix", self.matrix(rows)).stdout)

    def test_bad_input(self):
        good = self.matrix([[0, 1], [1, 0]])
        self.fails(1, "m.txt, line 2, column 2: not a whole number", "--matrix", self.matrix([[0, 1], [1, "x"]]))
        self.fails(1, "m.txt, line 2, column 1: not a whole number", "--matrix", self.matrix([[0, 1], [-1, 0]]))
        self.fails(1, "line 2: 3 numbers where the first row has 2", "--matrix", self.matrix([[0, 1], [1, 0, 2]]))
        self.fails(1, "1 rows of 2 numbers", "--matrix", self.matrix([[0, 1]]))
        self.fails(1, "must be square and not empty", "--matrix", self.matrix([]))
        self.fails(1, "2^62 bytes or more", "--matrix", self.matrix([[0, 2**63], [2**63, 0]]))
        self.fails(1, "not a whole number", "--matrix", self.matrix([[0, 2**64], [1, 0]]))
        self.fails(1, "cannot be opened", "--matrix", self.dir / "none.txt")
        self.matrix([[0, 1], [1, 0]])
        self.fails(1, "3 does not divide the 2 ranks", "--matrix", good, "--domain-ranks", 3)
        self.fails(1, "cannot be written", "--matrix", good, "--gantt", self.dir / "no" / "g.csv")
        self.fails(2, "which traffic?", "--json")
        self.fails(2, "not both", "--matrix", good, self.dir)
        self.fails(2, "--matrix is one matrix already", "--matrix", good, "--seq", 1)
        self.fails(2, "--methods: 'gredy' is not allowed", "--matrix", good, "--methods", "gredy")
        self.fails(2, "tier needs --domain-ranks", "--matrix", good, "--methods", "tier")
        self.fails(2, "--sweep", "--matrix", good, "--sweep", "4..2")
        self.fails(2, "--bandwidth", "--matrix", good, "--bandwidth", "0")

    def test_question(self):
        done = subprocess.run([TOOL, "whatif", "shedule"], capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 2)
        self.assertIn("did you mean 'schedule'?", done.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=1)
