# SPDX-License-Identifier: Apache-2.0
"""skewscope skew, and router from sizes, against loads computed here from plain matrices."""
import json
import math
import os
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import unittest
import pathlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "cli"))
import tracegen # noqa: E402

TOOL = os.environ["SKEWSCOPE_TOOL"]
TOKEN = 256


def run(command, *arguments, status=0):
    done = subprocess.run([TOOL, command, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    return done


def skew(*arguments):
    return json.loads(run("skew", "--json", *arguments).stdout)


def max_mean(loads):
    return max(loads) * len(loads) / sum(loads)


def gini(loads):
    x, n = sorted(loads), len(loads)
    return sum((2 * i + 1 - n) * v for i, v in enumerate(x)) / (n * sum(x))


class SkewTest(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        self.rng = random.Random(3)

    def tearDown(self):
        self.dir.cleanup()

    def path(self, name):
        return os.path.join(self.dir.name, name)

    def matrix(self, ranks, hot=2.0):
        """Tokens times TOKEN bytes; rank 1 gets more, and rank r sends r more."""
        return [[TOKEN * (self.rng.randrange(5, 15) * (hot if j == 1 else 1) + i).__trunc__() for j in range(ranks)]
                for i in range(ranks)]

    def labelled(self, name, ranks=4, layers=2, steps=30, here=None, rng=None, key="ab" * 8):
        """Dispatch and its transposed combine, with labels; returns layer → matrices of the steps."""
        self.rng = rng or self.rng
        here = list(range(ranks)) if here is None else here
        trace = tracegen.Trace(self.path(name))
        comm = trace.comm(key, ranks, {r: trace.process(r) for r in here})
        truth = {layer: [] for layer in range(layers)}
        for step in range(steps):
            for layer in range(layers):
                matrix = self.matrix(ranks)
                truth[layer].append(matrix)
                trace.matrix(comm, matrix, here, label={"role": "dispatch", "step": step, "layer": layer})
                back = [list(column) for column in zip(*matrix)]
                trace.matrix(comm, back, here, label={"role": "combine", "step": step, "layer": layer})
        trace.db.execute("UPDATE exchange_label SET token_bytes = ?", (TOKEN,))
        trace.close()
        return trace.path, truth

    def test_loads(self):
        path, truth = self.labelled("labelled.db")
        answer = skew("--matrices", path)
        self.assertEqual([(e["role"], e["layer"]) for e in answer["exchanges"]],
                         [("combine", 0), ("combine", 1), ("dispatch", 0), ("dispatch", 1)])
        for one in answer["exchanges"]:
            matrices = truth[one["layer"]]
            loads = [[sum(row[j] for row in m) for j in range(4)] for m in matrices]
            sources = [[sum(row) for row in m] for m in matrices]
            values = sorted(max_mean(row) for row in loads)
            have = one["load"]["max_mean"]
            self.assertEqual(one["loaded_side"], "send" if one["role"] == "combine" else "receive")
            self.assertAlmostEqual(have["median"], statistics.median(values), places=9)
            self.assertAlmostEqual(have["max"], values[-1], places=9)
            self.assertAlmostEqual(have["call"]["value"], statistics.mean(values), places=9)
            self.assertAlmostEqual(one["load"]["gini"]["call"]["value"], statistics.mean(map(gini, loads)), places=9)
            self.assertAlmostEqual(one["source_side"]["max_mean"]["call"]["value"],
                                   statistics.mean(map(max_mean, sources)), places=9)
            pooled = [sum(row[j] for row in loads) for j in range(4)]
            self.assertAlmostEqual(have["pooled"]["value"], max_mean(pooled), places=9)
            summed = [[sum(m[i][j] for m in matrices) for j in range(4)] for i in range(4)]
            if one["role"] == "combine":
                summed = [list(column) for column in zip(*summed)]
            self.assertEqual(one["matrix"], summed)
            self.assertEqual(one["load"]["hot"][0]["item"], 1)
            self.assertTrue(one["persists"])
            self.assertEqual((one["calls"], one["calls_incomplete"], one["token_bytes"]), (30, 0, TOKEN))

    def test_nodes(self):
        """Two nodes' databases say together what one with all ranks says; one alone says what is missing."""
        whole, _ = self.labelled("whole.db", rng=random.Random(9))
        low, _ = self.labelled("low.db", here=[0, 1], rng=random.Random(9))
        high, _ = self.labelled("high.db", here=[2, 3], rng=random.Random(9))
        self.assertEqual(skew(low, high)["exchanges"], skew(whole)["exchanges"])
        for one in skew(low)["exchanges"]:
            self.assertEqual((one["calls"], one["calls_incomplete"]), (0, 30))
            self.assertIn("missing", one["why"])
            self.assertNotIn("load", one)

    def test_padded(self):
        trace = tracegen.Trace(self.path("padded.db"))
        comm = trace.comm("cd" * 8, 4, {r: trace.process(r) for r in range(4)})
        for step in range(10):
            trace.matrix(comm, [[1024] * 4] * 4, op=tracegen.ALLTOALL,
                         label={"role": "dispatch", "step": step, "layer": 0})
        trace.close()
        one = skew(trace.path)["exchanges"][0]
        self.assertTrue(one["padded"])
        self.assertIn("not observable from sizes", one["why"])
        self.assertIn("not observable from sizes", run("router", "--experts", 8, trace.path).stdout)

    def test_side_by_side(self):
        """Two EP groups: the one whose busiest rank moves more is named."""
        trace = tracegen.Trace(self.path("groups.db"))
        processes = {r: trace.process(r) for r in range(4)}
        light = trace.comm("11" * 8, 2, {r: processes[r] for r in (0, 1)})
        heavy = trace.comm("22" * 8, 2, {0: processes[2], 1: processes[3]})
        for step in range(5):
            label = {"role": "dispatch", "step": step, "layer": 0}
            trace.matrix(light, [[512, 1024], [512, 512]], label=label)
            trace.matrix(heavy, [[512, 4096], [512, 512]], label=label)
        trace.close()
        beside = {b["comm"]: b for b in skew(trace.path)["side_by_side"]}
        self.assertEqual({k: b["busiest"] for k, b in beside.items()}, {"11" * 8: False, "22" * 8: True})
        self.assertEqual(beside["22" * 8]["busiest_bytes_call"], 4608)

    def test_bounds(self):
        """Without counts: intervals that hold what the experts behind these sizes really do."""
        ranks, experts, topk = 4, 16, 2
        trace = tracegen.Trace(self.path("bounds.db"))
        comm = trace.comm("ee" * 8, ranks, {r: trace.process(r) for r in range(ranks)})
        weights = [math.exp(0.5 * self.rng.gauss(0, 1)) for _ in range(experts)]
        truth = []
        for step in range(60):
            counts = [[0] * experts for _ in range(ranks)]
            for source in range(ranks):
                for e in self.rng.choices(range(experts), weights, k=64 * topk):
                    counts[source][e] += 1
            truth.append([sum(row[e] for row in counts) for e in range(experts)])
            trace.matrix(comm, [[TOKEN * sum(row[4 * j:4 * j + 4]) for j in range(ranks)] for row in counts],
                         label={"role": "dispatch", "step": step, "layer": 0})
        trace.db.execute("UPDATE exchange_label SET token_bytes = ?", (TOKEN,))
        trace.close()
        answer = json.loads(run("router", "--json", "--experts", experts, trace.path).stdout)
        self.assertEqual(answer["from"], "sizes")
        bounds = answer["layers"][0]["expert_bounds"]
        self.assertLess(bounds["gini"]["low"], statistics.mean(map(gini, truth)))
        self.assertGreater(bounds["gini"]["high"], statistics.mean(map(gini, truth)))
        self.assertLess(bounds["max_mean"]["low"], statistics.mean(map(max_mean, truth)))
        self.assertGreater(bounds["max_mean"]["high"], statistics.mean(map(max_mean, truth)))
        self.assertIn("value", answer["expert_cv_moment"])
        exact = json.loads(run("router", "--json", "--experts", ranks, trace.path).stdout)["layers"][0]
        self.assertEqual(exact["expert_bounds"]["gini"]["low"], exact["expert_bounds"]["gini"]["high"]) # g = 1
        chance = skew("--experts", experts, "--topk", topk, trace.path)["exchanges"][0]["load"]
        self.assertGreater(chance["max_mean"]["chance"], 1.02)

    def test_several_threads(self):
        """So many rows that the tables are read in parts: sums over all of them, and a fault in the last part."""
        path, ranks, layers, steps = self.path("many.db"), 8, 4, 1700
        run("synth", "-q", "-o", path, "--ranks", ranks, "--layers", layers, "--steps", steps, "--experts", 16, "--topk", 2,
            "--tokens", 32, "--no-device-time")
        db = sqlite3.connect(path)
        truth = {}
        for role, layer, rank, unit, width, sizes in db.execute(
                "SELECT b.role, b.layer, m.rank, e.send_unit, v.size_width, v.sizes FROM exchange e JOIN member m"
                " USING (member_id) JOIN exchange_label b USING (exchange_id) JOIN vector v ON v.vector_id = e.send_vector"
                " WHERE v.peers IS NULL AND v.cells = 8 AND v.size_stride = v.size_width"):
            row = truth.setdefault((role, layer), [[0] * ranks for _ in range(ranks)])[rank]
            for peer in range(ranks):
                row[peer] += unit * int.from_bytes(sizes[peer * width:(peer + 1) * width], "big")
        groups = skew("--matrices", path)["exchanges"]
        self.assertEqual(len(groups), 2 * layers)
        for group in groups:
            self.assertEqual(group["matrix"], truth[group["role"], group["layer"]])
            self.assertEqual((group["calls"], group["exchanges"]), (steps, steps * ranks))
        counts = json.loads(run("router", "--json", path).stdout)["layers"]
        self.assertEqual([(layer["calls"], layer["rows"]) for layer in counts], [(steps, steps * ranks)] * layers)
        db.execute("UPDATE exchange SET send_unit = -1 WHERE exchange_id = (SELECT max(exchange_id) FROM exchange)")
        db.execute("UPDATE routing SET experts = 0 WHERE routing_id = (SELECT max(routing_id) FROM routing)")
        db.commit()
        db.close()
        self.assertRegex(run("skew", path, status=1).stderr, "damaged: exchange 108800 makes no sense")
        self.assertRegex(run("router", path, status=1).stderr, "damaged: routing 54400 has no sensible number of experts")

    def test_save_and_bad(self):
        path, _ = self.labelled("save.db", steps=4)
        for _ in range(2):
            answer = skew("--save", path)
        db = sqlite3.connect(path)
        rows = db.execute("SELECT role, layer, value FROM metric WHERE analysis = 'skew' AND name = 'load.max_mean.max'"
                          " ORDER BY role, layer").fetchall()
        self.assertEqual([(role, layer, round(value, 9)) for role, layer, value in rows],
                         [(e["role"], e["layer"], round(e["load"]["max_mean"]["max"], 9)) for e in answer["exchanges"]])
        db.execute("DELETE FROM vector WHERE vector_id = (SELECT send_vector FROM exchange WHERE exchange_id = 5)")
        db.commit()
        db.close()
        done = run("skew", path, status=1)
        self.assertIn("damaged", done.stderr)
        self.assertEqual(done.stderr.count("\n"), 1)
        self.assertEqual(run("skew", "--role", "dispach", path, status=2).stdout, "")


if __name__ == "__main__":
    unittest.main()
