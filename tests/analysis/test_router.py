# SPDX-License-Identifier: Apache-2.0
"""skewscope router against real data, published tables and closed forms, through a trace's routing table."""
import json
import math
import os
import random
import sqlite3
import statistics
import subprocess
import tempfile
import unittest

import routingdata
from routingdata import DATA, RoutingTrace

TOOL = os.environ["SKEWSCOPE_TOOL"]
METRICS = {"gini": "gini", "max_mean": "max_over_mean", "entropy": "norm_entropy", "cv": "cv"}


def router(*arguments, status=0):
    done = subprocess.run([TOOL, "router", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    return done


def router_json(*arguments):
    return json.loads(router("--json", *arguments).stdout)


def uniform_counts(rng, experts, topk, tokens):
    row = [0] * experts
    for _ in range(tokens):
        for e in rng.sample(range(experts), topk):
            row[e] += 1
    return row


class RouterTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = tempfile.TemporaryDirectory()

    @classmethod
    def tearDownClass(cls):
        cls.dir.cleanup()

    def path(self, name):
        return os.path.join(self.dir.name, name)


class RealData(RouterTest):
    def check_pooled(self, name, answer, truth):
        for layer in answer["layers"]:
            row = truth[name, layer["layer"]]
            self.assertEqual(layer["experts"], int(row["experts"]))
            for ours, theirs in METRICS.items():
                self.assertAlmostEqual(layer["expert"][ours]["pooled"]["value"], float(row[theirs]), delta=1e-6,
                                       msg=f"{name} layer {layer['layer']} {ours}")
            self.assertAlmostEqual(layer["rank"]["gini"]["pooled"]["value"], float(row["gini_rank8"]), delta=1e-6)
            self.assertAlmostEqual(layer["rank"]["max_mean"]["pooled"]["value"],
                                   float(row["max_over_mean_rank8_contiguous"]), delta=1e-6)
        return len(answer["layers"])

    def test_verified_metrics(self):
        """All rows of verified_metrics.csv, and the three balancednesses of gpt-oss (facts §3.4)."""
        truth, checked = routingdata.verified(), 0
        for i, (name, layers) in enumerate(routingdata.counted_sets().items()):
            trace = RoutingTrace(self.path(f"counted{i}.db"), 8)
            for layer, counts in layers.items():
                trace.counts(counts, layer, topk=2 if len(counts) == 8 else 8)
            trace.close()
            checked += self.check_pooled(name, router_json(trace.path), truth)
        routingdata.flame(self.path("flame.db"))
        checked += self.check_pooled("FLAME-MoE-290M|prefill2048tok", router_json(self.path("flame.db")), truth)

        routingdata.gptoss(self.path("gptoss.db"), requests=True)
        answer = router_json(self.path("gptoss.db"))
        checked += self.check_pooled("gpt-oss-20b|decode64req", answer, truth)
        self.assertEqual(checked, len(truth))
        balance = {k: v["value"] for k, v in answer["balancedness"].items()}
        self.assertAlmostEqual(balance["ratio_of_sums"], 0.678, delta=0.0005)
        self.assertAlmostEqual(balance["mean_of_ratios"], 0.689, delta=0.0005)
        self.assertAlmostEqual(balance["summed_first"], 0.914, delta=0.0005)
        self.assertIn("do not compare", answer["balancedness"]["summed_first"]["formula"])
        for value in balance.values():
            self.assertNotAlmostEqual(value, 0.607, delta=0.0005) # the wrong axis
        self.split_of_gptoss(answer)
        self.requests_of_gptoss(answer)

    def split_of_gptoss(self, answer):
        """Per call, persistent, floor and held-out placement as facts §4.5 has them (R = 8, 64 tokens a step)."""
        for layer, call, persistent, heldout in ((0, 1.445, .351, 1.248), (23, 1.729, .689, 1.196)):
            one = answer["layers"][layer]
            self.assertAlmostEqual(one["rank"]["max_mean"]["call"]["value"], call, delta=0.001)
            self.assertAlmostEqual(one["split"]["persistent"], persistent, delta=0.001)
            self.assertAlmostEqual(one["split"]["chance"], .244, delta=0.005)
            self.assertAlmostEqual(call - one["split"]["gain"]["value"], heldout, delta=0.04)
            parts = sum(one["split"][k] for k in ("chance", "unfixable", "placement", "undecided"))
            self.assertAlmostEqual(parts, one["split"]["observed"], places=9)
        # Layer 6 is nearly at the floor already: the placement that §4.5 found gains little there.
        self.assertLess(answer["layers"][6]["split"]["placement"], 0.06)

    def requests_of_gptoss(self, answer):
        """Tokens of a request are not independent: intervals over requests are far wider (facts §4.3)."""
        for layer, se in ((0, .0069), (6, .0112), (12, .0194), (23, .0152)): # bootstrap over requests
            gini = answer["layers"][layer]["expert"]["gini"]["pooled"]
            self.assertEqual(answer["layers"][layer]["expert"]["pooled_by"], "requests")
            self.assertTrue(0.8 * se < gini["se"] < 1.35 * se, gini)
            self.assertEqual(answer["layers"][layer]["calls"], 504)

    def test_curve(self):
        """OLMoE github layer 7 over R = 4 … 64: contiguous, random, LPT with swaps, and the bound of any placement."""
        rng = random.Random(44)
        counts = routingdata.counted_sets()["OLMoE-1B-7B-0924|github"][7]
        trace = RoutingTrace(self.path("curve.db"), 8)
        trace.counts(counts, 7, topk=8)
        trace.close()
        curve = {p["ranks"]: p for p in router_json("--curve", trace.path)["layers"][0]["curve"]}
        # contiguous, mean random, LPT with swaps, bound; share of the skew that a placement removes, and that none can
        table = {4: (1.34, 1.38, 1.000, 1.00, 1, 0), 8: (2.14, 1.79, 1.001, 1.00, 1, 0),
                 16: (2.56, 2.50, 1.572, 1.563, .63, .36), 32: (3.28, 3.81, 3.085, 3.085, .085, .915),
                 64: (6.16, 6.16, 6.157, 6.157, 0, 1)}
        for ranks, (contiguous, random_mean, fitted, bound, fixable, unfixable) in table.items():
            point = curve[ranks]
            self.assertAlmostEqual(point["pooled"], contiguous, delta=0.005)
            order = list(counts)
            shuffled = []
            for _ in range(400):
                rng.shuffle(order)
                shuffled.append(max(sum(order[i:i + 64 // ranks]) for i in range(0, 64, 64 // ranks)) * ranks / sum(order))
            mean, sd = statistics.mean(shuffled), statistics.pstdev(shuffled)
            self.assertAlmostEqual(mean, random_mean, delta=0.04 + 3 * sd / math.sqrt(400))
            self.assertAlmostEqual(point["random"], mean, delta=3 * sd / math.sqrt(20) + 1e-9) # it is a mean of 20
            self.assertLessEqual(point["fitted"], fitted + 0.0016)
            self.assertAlmostEqual(point["bound"], bound, delta=0.0006)
            self.assertGreaterEqual(point["fitted"], point["bound"] - 1e-9)
            skew = point["pooled"] - 1
            self.assertAlmostEqual((point["pooled"] - point["fitted"]) / skew, fixable, delta=0.006)
            self.assertAlmostEqual((point["bound"] - 1) / skew, unfixable, delta=0.006)
        # Two experts a rank: hottest with coldest is exact, bound and answer at once.
        order = sorted(counts)
        paired = max(order[i] + order[63 - i] for i in range(32)) * 32 / sum(counts)
        self.assertAlmostEqual(curve[32]["fitted"], paired, places=9)
        self.assertAlmostEqual(curve[32]["bound"], paired, places=9)

    def test_bounds_everywhere(self):
        """Bound and LPT with swaps of every layer that is here: never crossed, and how far apart they are."""
        apart = {}
        for name, layers in routingdata.counted_sets().items():
            if not name.startswith("OLMoE-1B-7B-0924|"):
                continue
            trace = RoutingTrace(self.path(name.replace("|", "-") + ".db"), 8)
            for layer, counts in layers.items():
                trace.counts(counts, layer, topk=8)
            trace.close()
            for one in router_json("--curve", trace.path)["layers"]:
                for point in one["curve"]:
                    gap = point["fitted"] - point["bound"]
                    self.assertGreaterEqual(gap, -1e-9)
                    apart[name, one["layer"], point["ranks"]] = gap
                    if point["ranks"] >= 32: # g = 2 and 1 are exact
                        self.assertAlmostEqual(gap, 0, places=9)
        layer7 = [gap for (_, layer, ranks), gap in apart.items() if layer == 7 and ranks in (8, 16, 32)]
        self.assertGreaterEqual(len(layer7), 15)
        self.assertLessEqual(max(layer7), 0.02)

    def test_vllm_axis(self):
        """The oracle of vLLM's PR 36304: 0.75, where the wrong axis gives 1."""
        with open(DATA / "reference" / "vllm_balancedness_axis_bug.json", encoding="utf-8") as f:
            case = json.load(f)
        trace = RoutingTrace(self.path("vllm.db"), 2)
        for layer, loads in enumerate(case["loads_layer_by_rank"]):
            trace.counts(loads, layer, topk=1)
        trace.close()
        balance = router_json(trace.path)["balancedness"]
        for name in ("ratio_of_sums", "mean_of_ratios", "summed_first"):
            self.assertAlmostEqual(balance[name]["value"], case["correct_mean_over_max"], places=9)


class Synthetic(RouterTest):
    def test_uniform(self):
        """Uniform routing: nothing beyond chance, nothing attributed, at any number of ranks."""
        rng = random.Random(4)
        trace = RoutingTrace(self.path("uniform.db"), 8)
        for step in range(60):
            for layer in range(4):
                trace.counts(uniform_counts(rng, 64, 6, 128), layer, step, topk=6, tokens=128)
        trace.close()
        for ranks in (8, 32, 64):
            answer = router_json("--ranks", ranks, trace.path)
            self.assertFalse(answer["beyond_chance"])
            self.assertFalse(answer["persists"])
            for layer in answer["layers"]:
                self.assertEqual(layer["split"]["placement"], 0)
                self.assertEqual(layer["split"]["unfixable"], 0)
                self.assertIn("no imbalance beyond chance", layer["split"]["why"])
        self.assertIn("No imbalance beyond chance", router(trace.path).stdout)

    def test_persistent(self):
        """A known router: what persists is found, and found again in another order of the rows."""
        rng = random.Random(5)
        weights = [3.0] + [1.0] * 15
        total = sum(weights)
        rows = []
        for step in range(200):
            row = [0] * 16
            for e in rng.choices(range(16), weights, k=400):
                row[e] += 1
            rows.append((step, row))
        answers = []
        for name, order in (("a", rows), ("b", rng.sample(rows, len(rows)))):
            trace = RoutingTrace(self.path(f"persistent-{name}.db"), 4)
            for step, row in order:
                trace.counts(row, 0, step, topk=1, tokens=400)
            trace.close()
            answers.append(router_json(trace.path))
        self.assertEqual(answers[0]["layers"], answers[1]["layers"])
        layer = answers[0]["layers"][0]
        self.assertTrue(layer["persists"])
        shares = [w / total for w in weights]
        cv = math.sqrt(sum((16 * s - 1) ** 2 for s in shares) / 16)
        found = layer["expert"]["cv"]["persistent"]
        self.assertLess(found["low"], cv)
        self.assertGreater(found["high"], cv)
        self.assertAlmostEqual(layer["expert"]["max_mean"]["persistent"]["value"], 16 * shares[0], delta=0.1)
        self.assertEqual(layer["expert"]["hot"][0]["item"], 0)
        # No placement can put the hot expert's rank below (3 + 3 × 1) / 4.5.
        self.assertAlmostEqual(layer["split"]["bound"], 6 / 4.5, delta=0.03)

    def test_databases(self):
        """Rows of several nodes: apart, the same, and in conflict."""
        rng = random.Random(6)
        counts = {(step, source): uniform_counts(rng, 8, 2, 30) for step in range(4) for source in range(4)}

        def write(name, keys, change=None):
            trace = RoutingTrace(self.path(name), 4)
            for step, source in keys:
                row = list(counts[step, source])
                if change == (step, source):
                    row[0] += 1
                trace.counts(row, 0, step, source, topk=2)
            trace.close()
            return trace.path

        whole = router_json(write("whole.db", counts))["layers"][0]
        low = write("low.db", [k for k in counts if k[1] < 2])
        high = write("high.db", [k for k in counts if k[1] >= 2])
        apart = router_json(low, high)["layers"][0]
        self.assertEqual(apart["expert"], whole["expert"])
        self.assertEqual((apart["rows"], apart["rows_duplicate"], apart["rows_missing"]), (16, 0, 0))
        twice = router_json(self.path("whole.db"), low)["layers"][0]
        self.assertEqual(twice["expert"], whole["expert"])
        self.assertEqual((twice["rows_duplicate"], twice["rows_conflicting"]), (8, 0))
        other = write("other.db", counts, change=(1, 1))
        conflict = router_json(self.path("whole.db"), other)["layers"][0]
        self.assertEqual(conflict["expert"], whole["expert"])
        self.assertEqual((conflict["rows_duplicate"], conflict["rows_conflicting"]), (15, 1))
        # Half of the ranks: nothing is said, and why.
        half = router_json(low)["layers"][0]
        self.assertEqual((half["calls_complete"], half["rows_missing"]), (0, 8))
        self.assertIn("missing", half["why"])
        self.assertIn("expert", router_json("--incomplete", low)["layers"][0])

    def test_placement_table(self):
        """Loads of ranks follow table placement, replicas included."""
        trace = RoutingTrace(self.path("placement.db"), 2)
        trace.counts([8, 2, 4, 2], 0, 0, topk=1)
        trace.counts([8, 2, 4, 2], 1, 0, topk=1)
        trace.place(0, [(0, 0), (0, 2), (1, 1), (1, 3)])                     # 12 : 4
        trace.place(1, [(0, 0), (0, 1), (0, 2), (1, 0), (1, 3), (1, 2)])     # 4 + 2 + 2 : 4 + 2 + 2
        trace.close()
        layers = router_json(trace.path)["layers"]
        self.assertEqual([layer["placement"] for layer in layers], ["table", "table"])
        self.assertAlmostEqual(layers[0]["rank"]["max_mean"]["pooled"]["value"], 1.5)
        self.assertAlmostEqual(layers[1]["rank"]["max_mean"]["pooled"]["value"], 1.0)

    def test_whatif_ep(self):
        """Tiers against sums over the plain matrix, at the trace's EP degree, below and above it."""
        rng = random.Random(8)
        trace = RoutingTrace(self.path("ep.db"), 4)
        sums = [[0] * 16 for _ in range(4)]
        for step in range(3):
            for source in range(4):
                row = uniform_counts(rng, 16, 2, 20 + 10 * source)
                sums[source] = [a + b for a, b in zip(sums[source], row)]
                trace.counts(row, 0, step, source, topk=2)
        trace.close()
        done = subprocess.run([TOOL, "whatif", "ep", "--json", "--ranks", "2,4,8,3", "--domain", "2", "--token-bytes",
                               "10", trace.path], capture_output=True, text=True, check=True)
        points = {p["ranks"]: p for p in json.loads(done.stdout)["points"]}
        self.assertEqual(sorted(points), [2, 4, 8]) # 3 does not divide 16
        total = sum(map(sum, sums))
        for ranks, point in points.items():
            tier = [0.0, 0.0, 0.0]
            for source in range(4):
                homes = [source * ranks // 4] if ranks <= 4 else [2 * source, 2 * source + 1]
                for home in homes:
                    for e, n in enumerate(sums[source]):
                        rank = e * ranks // 16
                        tier[0 if rank == home else 1 if rank // 2 == home // 2 else 2] += n / len(homes) / total
            have = point["tiers"][0]
            for value, key in zip(tier, ("same_rank", "same_domain", "other")):
                self.assertAlmostEqual(have[key], value, places=9)
            self.assertAlmostEqual(have["other_bytes_call"], tier[2] * total / 3 * 10, places=6)
        layer = router_json("--curve", trace.path)["layers"][0]
        for point in layer["curve"]:
            if point["ranks"] in points:
                for key in ("observed", "pooled", "heldout", "bound", "chance"):
                    self.assertAlmostEqual(points[point["ranks"]][key], point[key], places=9)

    def test_save(self):
        """--save writes what --json says, once, and leaves other analyses alone."""
        rng = random.Random(7)
        trace = RoutingTrace(self.path("save.db"), 4)
        for step in range(60):
            trace.counts(uniform_counts(rng, 8, 2, 50), 3, step, topk=2)
        trace.db.execute("INSERT INTO metric (analysis, name, value) VALUES ('other', 'x', 1)")
        trace.close()
        for _ in range(2):
            answer = router_json("--save", trace.path)
        db = sqlite3.connect(trace.path)
        rows = db.execute("SELECT value, low, high, level FROM metric WHERE analysis = 'router' AND layer = 3"
                          " AND name = 'expert.gini.call'").fetchall()
        gini = answer["layers"][0]["expert"]["gini"]["call"]
        self.assertEqual(len(rows), 1)
        for have, key in zip(rows[0], ("value", "low", "high", "level")):
            self.assertAlmostEqual(have, gini[key], places=9)
        self.assertEqual(db.execute("SELECT count(*) FROM metric WHERE analysis = 'other'").fetchone()[0], 1)
        db.close()

    def test_older(self):
        """A trace of before routing had its last columns still opens, and says the same."""
        rng = random.Random(10)
        trace = RoutingTrace(self.path("older.db"), 4)
        for step in range(5):
            trace.counts(uniform_counts(rng, 8, 2, 50), 0, step, topk=2)
        trace.close()
        now = router_json(trace.path)["layers"]
        with sqlite3.connect(trace.path) as db:
            columns = ("routing_id, exchange_id, comm_id, source_rank, step, layer, microbatch, stage, request, experts,"
                       " topk, tokens, counts, unit, verified, source")
            views = db.execute("SELECT name FROM sqlite_master WHERE type = 'view'").fetchall()
            for view, in views:
                db.execute(f"DROP VIEW {view}")
            db.execute(f"CREATE TABLE older AS SELECT {columns} FROM routing")
            db.execute("DROP TABLE routing")
            db.execute("ALTER TABLE older RENAME TO routing")
        self.assertEqual(router_json(trace.path)["layers"], now)

    def test_bad(self):
        """Damage is named, not followed."""
        trace = RoutingTrace(self.path("bad.db"), 4)
        trace.counts([1, 2, 3, 4], 0, 0, topk=1)
        trace.close()
        for sql, word in (("UPDATE routing SET counts = 99", "missing"),
                          ("UPDATE routing SET experts = 3", "another number of counts"),
                          ("UPDATE routing SET source_rank = 4", "rank that does not exist"),
                          ("UPDATE vector SET sizes = x'01'", "shorter")):
            with sqlite3.connect(trace.path) as db:
                db.execute("SAVEPOINT s")
                db.execute(sql)
                db.commit()
            done = router(trace.path, status=1)
            self.assertIn(word, done.stderr)
            self.assertEqual(done.stderr.count("\n"), 1)
            os.unlink(trace.path)
            trace = RoutingTrace(self.path("bad.db"), 4)
            trace.counts([1, 2, 3, 4], 0, 0, topk=1)
            trace.close()


if __name__ == "__main__":
    import sys
    if "RealData" in sys.argv[1:]:
        routingdata.need_data()
    unittest.main()
