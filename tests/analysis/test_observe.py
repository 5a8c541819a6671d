# SPDX-License-Identifier: Apache-2.0
"""skewscope observe: a grid of real data and uniform mock traces against numbers computed here from the inputs, and
grids of known truth. Nothing here shares code with the analysis."""
import csv
import io
import json
import math
import os
import pathlib
import random
import sqlite3
import subprocess
import tempfile
import unittest

import observegrid
import routingdata
from observegrid import DATA, npy
from routingdata import RoutingTrace

TOOL = os.environ["SKEWSCOPE_TOOL"]
METRICS = ("gini", "max_mean", "cv", "entropy")


def observe(*arguments, status=0):
    done = subprocess.run([TOOL, "observe", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == status, (done.returncode, done.stderr)
    return done


def observe_json(*arguments):
    return json.loads(observe("--json", *arguments).stdout)


def cells(answer):
    return {cell["cell"]: cell for cell in answer["cells"]}


def changes(answer, kind, side="expert", metric="gini"):
    return [c for c in answer["changes"] if (c["kind"], c["side"], c["metric"]) == (kind, side, metric)]


def metrics(loads):
    n, total, mean = len(loads), sum(loads), sum(loads) / len(loads)
    gini = sum(abs(a - b) for a in loads for b in loads) / (2 * n * total) # the definition by pairs, not by ranks
    sd = math.sqrt(sum((x - mean) ** 2 for x in loads) / n)
    entropy = -sum(x / total * math.log(x / total) for x in loads if x) / math.log(n)
    return {"gini": gini, "max_mean": max(loads) / mean, "cv": sd / mean, "entropy": entropy}


def mean_of(rows):
    return {m: sum(r[m] for r in rows) / len(rows) for m in METRICS}


def grouped(loads, ranks):
    size = len(loads) // ranks
    return [sum(loads[i:i + size]) for i in range(0, len(loads), size)]


def draw(rng, weights, topk, tokens):
    """Counts of tokens that choose topk distinct experts, one after the other by weight."""
    row = [0] * len(weights)
    if topk == 1:
        for e in rng.choices(range(len(weights)), weights, k=tokens):
            row[e] += 1
        return row
    for _ in range(tokens):
        keys = [(rng.random() ** (1 / w), e) for e, w in enumerate(weights)]
        for _, e in sorted(keys, reverse=True)[:topk]:
            row[e] += 1
    return row


class ObserveTest(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        self.out = pathlib.Path(self.dir.name)

    def tearDown(self):
        self.dir.cleanup()

    def trace(self, name, rows, ranks=4, layers=1, topk=2, **labels):
        """rows: counts of each step, used in every layer."""
        path = self.out / name
        trace = RoutingTrace(path, ranks)
        for step, row in enumerate(rows):
            for layer in range(layers):
                trace.counts(row, layer, step, topk=topk)
        self.label(trace.db, labels)
        trace.close()
        return path

    @staticmethod
    def label(db, labels):
        if not db.execute("SELECT count(*) FROM run").fetchone()[0]:
            db.execute("INSERT INTO run (key) VALUES ('')")
        run = db.execute("SELECT min(run_id) FROM run").fetchone()[0]
        db.executemany("INSERT INTO run_label VALUES (?, ?, ?)", [(run, k, str(v)) for k, v in labels.items()])


class RealData(ObserveTest):
    def gptoss_calls(self, rows, batch):
        """Counts by layer and call, straight from the file."""
        ids = npy.load(DATA / "gptoss20b_decode_topk.npy")
        _, tokens, layers, k = ids.shape
        for layer in range(layers):
            calls = []
            for start in range(0, tokens, batch):
                counts = [0] * 32
                for row in rows:
                    for token in range(start, min(start + batch, tokens)):
                        at = ((row * tokens + token) * layers + layer) * k
                        for e in ids.values[at:at + k]:
                            counts[e] += 1
                calls.append(counts)
            yield calls

    def check(self, cell, truth, side="expert"):
        for metric in METRICS:
            self.assertAlmostEqual(cell[side][metric]["observed"]["value"], truth[metric], places=9,
                                   msg=f"{cell['cell']} {side} {metric}")

    def test_grid(self):
        groups = observegrid.requests_of()
        traces = observegrid.gptoss(self.out, ["gpqa", "mmlu"], [0], [16])
        traces += observegrid.gptoss(self.out, ["gpqa"], [0], [4])
        traces += observegrid.flame(self.out, [64])
        traces += observegrid.counted(self.out, domains=["github", "wikipedia"])
        traces.append(observegrid.mock(self.out, "gpt-oss-20b", "gqa", 16, 32, 4, 4, 8, 40, 60, 5))
        answer = observe_json("--ep", "4,8,16,32", *traces)
        grid = cells(answer)
        self.assertEqual(answer["by"], ["model", "mixer", "data", "tokens", "batch", "ep"])

        for domain in ("gpqa", "mmlu"):
            calls = list(self.gptoss_calls(groups[domain], 16))
            cell = grid[f"gpt-oss-20b/gqa/{domain}/real/16/8"]
            self.check(cell, mean_of([metrics(c) for layer in calls for c in layer]))
            self.check(cell, mean_of([metrics(grouped(c, 8)) for layer in calls for c in layer]), "rank")
            tokens = [sum(c) / 4 for c in calls[0]]
            self.assertAlmostEqual(cell["tokens_call"], sum(tokens) / len(tokens))
            # Floors by the closed forms of independent tokens (good to 3 % for Gini here).
            cv2 = sum((32 - 4) / (4 * n) * 31 / 31 for n in tokens) / len(tokens)
            self.assertAlmostEqual(cell["expert"]["cv2"]["chance"], cv2, delta=1e-9)
            floor = sum(math.sqrt(28 / (4 * n) / math.pi * 31 / 32) for n in tokens) / len(tokens)
            self.assertAlmostEqual(cell["expert"]["gini"]["chance"] / floor, 1, delta=0.03)
            self.assertTrue(cell["beyond_chance"])

        # EP: the same tokens, so that experts cannot change, and this is said; ranks do.
        scan = [c for c in changes(answer, "ep") if "/gpqa/real/16/" in c["from"]]
        self.assertEqual([c["to"].rsplit("/", 1)[1] for c in scan], ["8", "16", "32"])
        for change in changes(answer, "ep") + changes(answer, "ep", "expert", "max_mean"):
            self.assertEqual((change["verdict"], change["same_tokens"], change["ratio"]["value"]), ("same", True, 1.0))
            self.assertIsNone(change["p_equivalent_adjusted"])
        rank = [c for c in changes(answer, "ep", "rank", "max_mean") if "/gpqa/real/16/" in c["from"]]
        for change in rank:
            self.assertGreater(change["ratio"]["value"], 1.05)
            self.assertNotIn(change["verdict"], ("same", "equivalent"))

        # Counts without order: the published metrics, and nothing that needs a series.
        truth = routingdata.verified()
        for model, name in (("OLMoE-1B-7B-0924", "olmoe/mha"), ("Mixtral-8x7B-v0.1", "mixtral/gqa")):
            cell = grid[f"{name}/github/real/all/8"]
            rows = [truth[f"{model}|github", layer] for layer in (0, 7, 15)]
            self.assertAlmostEqual(cell["expert"]["gini"]["observed"]["value"],
                                   sum(float(r["gini"]) for r in rows) / 3, delta=1e-6)
            self.assertAlmostEqual(cell["rank"]["max_mean"]["observed"]["value"],
                                   sum(float(r["max_over_mean_rank8_contiguous"]) for r in rows) / 3, delta=1e-6)
            self.assertNotIn("low", cell["expert"]["gini"]["observed"])
            self.assertIsNone(cell["band"])
            self.assertIsNone(cell["p_persistent_adjusted"])
            self.assertIsNone(cell["expert"]["gini"]["persistent"]["value"])
        self.assertTrue(any("one call" in text for text in answer["cannot_be_tested"]))

        # FLAME: pooled values are the table's; here per call, and the floor is most of it.
        flame = grid["flame-290m/mha/pile/real/64/8"]
        self.assertEqual((flame["experts"], flame["topk"], flame["calls"], flame["layers"]), (64, 6, 32, 8))
        self.assertGreater(flame["expert"]["gini"]["chance"], 0.7 * flame["expert"]["gini"]["observed"]["value"])

        # Uniform mock: nothing beyond chance; deflates, and chance says by how much it would at its tokens.
        mock = grid["gpt-oss-20b/gqa/uniform/mock/16/8"]
        self.assertFalse(mock["beyond_chance"] or mock["persists"])
        inflation = [c for c in changes(answer, "mock") if "gpqa" in c["from"] and c["from"].endswith("/16/8")]
        self.assertEqual(len(inflation), 1)
        real = grid["gpt-oss-20b/gqa/gpqa/real/16/8"]["expert"]["gini"]["observed"]["value"]
        self.assertAlmostEqual(inflation[0]["ratio"]["value"], mock["expert"]["gini"]["observed"]["value"] / real)
        self.assertEqual(answer["missing"], sum(cell.get("why") == "missing" for cell in answer["cells"]))
        self.assertGreater(answer["missing"], 0)

        batch = [c for c in changes(answer, "batch") if "gpqa/real" in c["from"] and c["from"].endswith("/4/8")]
        self.assertEqual(len(batch), 1)
        here, there = batch[0]["from_observed"], batch[0]["to_observed"]
        exponent = math.log(there / here) / math.log(batch[0]["to_tokens_call"] / batch[0]["from_tokens_call"])
        self.assertAlmostEqual(batch[0]["exponent"]["value"], exponent)


class Synthetic(ObserveTest):
    def test_missing_and_empty(self):
        rng = random.Random(1)
        rows = [draw(rng, [1] * 8, 2, 40) for _ in range(30)]
        paths = [self.trace("a.db", rows, model="a", data="x"), self.trace("b.db", rows, model="b", data="y")]
        empty = RoutingTrace(self.out / "c.db", 4)
        self.label(empty.db, {"model": "c", "data": "x"})
        empty.close()
        answer = observe_json("--by", "model,data", *paths, self.out / "c.db")
        grid = cells(answer)
        self.assertEqual({name for name, cell in grid.items() if cell.get("why") == "missing"}, {"a/y", "b/x", "c/y"})
        self.assertEqual((answer["missing"], grid["c/x"]["runs"], grid["c/x"]["runs_usable"]), (3, 1, 0))
        self.assertIn("no per-expert counts", grid["c/x"]["why"])
        text = observe("--by", "model,data", *paths, self.out / "c.db").stdout
        self.assertRegex(text, r"(?m)^a +missing: data y$")
        self.assertRegex(text, r"(?m)^b +missing: data x$")
        self.assertIn("3 cells of the grid are missing", text)
        lines = list(csv.DictReader(io.StringIO(observe("--csv", "--by", "model,data", *paths).stdout)))
        self.assertEqual(len(lines), 2 * 8 + 2) # two cells of two sides of four metrics, two missing
        one = next(l for l in lines if (l["model"], l["side"], l["metric"]) == ("a", "expert", "gini"))
        self.assertAlmostEqual(float(one["observed"]), sum(metrics(r)["gini"] for r in rows) / 30, places=8)
        self.assertEqual(observe(self.out / "c.db", status=1).stderr.count("\n"), 1)

    def test_uniform(self):
        """Uniform tokens: nothing beyond chance, a Gini that goes as N^-1/2 and no trend once chance is out."""
        rng = random.Random(2)
        paths = [self.trace(f"{n}.db", [draw(rng, [1] * 16, 2, n) for _ in range(60)], batch=n, tokens="mock")
                 for n in (20, 80)]
        answer = observe_json("--by", "batch,tokens", *paths)
        for cell in answer["cells"]:
            self.assertFalse(cell["beyond_chance"] or cell["persists"])
            self.assertAlmostEqual(cell["expert"]["gini"]["observed"]["value"] / cell["expert"]["gini"]["chance"], 1,
                                   delta=0.05)
        change = changes(answer, "batch")[0]
        self.assertLess(change["exponent"]["low"], change["chance_exponent"])
        self.assertGreater(change["exponent"]["high"], change["chance_exponent"])
        self.assertAlmostEqual(change["chance_exponent"], -0.5, delta=0.03)
        self.assertLess(change["cv2_change"]["high"], 0)
        self.assertLess(change["cv2_beyond_change"]["low"], 0)
        self.assertGreater(change["cv2_beyond_change"]["high"], 0)

    def test_equivalence(self):
        """Another run's tokens at another EP: equivalent, different and undecided, each where it must be."""
        rng = random.Random(3)
        skewed = [4] + [1] * 15
        base = [draw(rng, skewed, 2, 400) for _ in range(80)]
        cases = {"equivalent": [draw(rng, skewed, 2, 400) for _ in range(80)],
                 "different": [draw(rng, [8] + [1] * 15, 2, 400) for _ in range(80)],
                 "undecided": [draw(rng, skewed, 2, 12) for _ in range(24)]}
        # Undecided needs equal means and few tokens: a base of as few.
        few = [draw(rng, skewed, 2, 12) for _ in range(24)]
        for verdict, rows in cases.items():
            a = self.trace(f"a-{verdict}.db", few if verdict == "undecided" else base, ep=4)
            b = self.trace(f"b-{verdict}.db", rows, ranks=8, ep=8)
            answer = observe_json("--by", "ep", a, b)
            change = changes(answer, "ep", "expert", "max_mean")[0]
            self.assertEqual((change["verdict"], change["same_tokens"]), (verdict, False))
            if verdict == "equivalent":
                self.assertLess(change["p_equivalent_adjusted"], 0.05)
                tight = observe_json("--by", "ep", "--margin", "0.001", a, b)
                self.assertEqual(changes(tight, "ep", "expert", "max_mean")[0]["verdict"], "undecided")
            else:
                self.assertGreater(change["p_equivalent_adjusted"], 0.05)
        # Too few calls: no test, and not "equivalent".
        short = observe_json("--by", "ep", self.trace("s.db", base[:10], ep=4),
                             self.trace("t.db", cases["equivalent"][:10], ranks=8, ep=8))
        self.assertEqual({c["verdict"] for c in short["changes"]}, {"untested"})

    def test_fieller(self):
        """Mock over real, simulated again and again: the interval holds the true ratio 95 % of the time."""
        repeats = 400 if os.environ.get("SKEWSCOPE_TEST_LONG") else 40
        rng = random.Random(4)
        real, mock = [3] + [1] * 7, [6] + [1] * 7
        truth = {}
        for name, weights in (("real", real), ("mock", mock)):
            values = [metrics(draw(rng, weights, 1, 30))["gini"] for _ in range(20000)]
            truth[name] = sum(values) / len(values)
        ratio, held, known = truth["mock"] / truth["real"], 0, 0
        for i in range(repeats):
            paths = [self.trace(f"{i}-{name}.db", [draw(rng, weights, 1, 30) for _ in range(120)], topk=1,
                                tokens=name, data=name)
                     for name, weights in (("real", real), ("mock", mock))]
            change = changes(observe_json("--by", "tokens,data", *paths), "mock")[0]
            if "low" in change["ratio"]:
                known += 1
                held += change["ratio"]["low"] <= ratio <= change["ratio"]["high"]
        if os.environ.get("SKEWSCOPE_TEST_LONG"):
            print(f"ratio {ratio:.4f}: {held} of {known} intervals hold it, {repeats - known} had too few calls")
        self.assertGreaterEqual(known, 0.9 * repeats)
        # Three standard errors of a binomial.
        self.assertGreaterEqual(held, math.ceil(known * 0.95 - 3 * math.sqrt(known * 0.95 * 0.05)))

    def test_runs(self):
        """Repeats are a sample of runs; the same tokens again are no repeat."""
        rng = random.Random(5)
        rows = [[draw(rng, [3] + [1] * 7, 2, 40) for _ in range(30)] for _ in range(3)]
        paths = [self.trace(f"{i}.db", r, model="m") for i, r in enumerate(rows)]
        cell = observe_json("--by", "model", *paths)["cells"][0]
        means = [sum(metrics(r)["gini"] for r in run) / 30 for run in rows]
        mean = sum(means) / 3
        half = 4.302653 * math.sqrt(sum((x - mean) ** 2 for x in means) / 2 / 3)
        observed = cell["expert"]["gini"]["observed"]
        self.assertEqual((cell["intervals"], cell["runs_usable"]), ("between runs", 3))
        self.assertAlmostEqual(observed["value"], mean)
        self.assertAlmostEqual(observed["low"], mean - half, places=6)
        twice = observe_json("--by", "model", paths[0], paths[0])
        self.assertEqual((twice["cells"][0]["runs"], twice["cells"][0]["runs_usable"]), (2, 1))
        self.assertTrue(any("same tokens" in text for text in twice["cannot_be_tested"]))
        self.assertTrue(any("within-run only" in text for text in twice["cannot_be_tested"]))

    def test_bands(self):
        rng = random.Random(6)
        path = self.trace("b.db", [draw(rng, [3] + [1] * 7, 2, 200) for _ in range(60)], model="m")
        observed = observe_json("--by", "model", path)["cells"][0]["expert"]["gini"]["observed"]
        low, high = observed["low"], observed["high"]
        for edges, band in (((high + .01, high + .02), "resilient"), ((low - .02, low - .01), "concentrated"),
                            ((low - .01, high + .01), "between"), ((observed["value"], high + .01), None)):
            cell = observe_json("--by", "model", "--bands", ",".join(f"{e:.9f}" for e in edges), path)["cells"][0]
            self.assertEqual(cell["band"], band)
        self.assertIn("crosses an edge", cell["band_why"])

    def test_text(self):
        """Lines of the text stay readable; experts and ranks side by side, and the numbers are those of the JSON."""
        rng = random.Random(9)
        rows = [draw(rng, [3] + [1] * 15, 2, 60) for _ in range(40)]
        paths = [self.trace(f"{ep}.db", rows, ranks=ep, model="gpt-oss-20b", mixer="gqa", ep=ep, tokens="real", data="x")
                 for ep in (4, 8)]
        paths.append(self.trace("m.db", [draw(rng, [1] * 16, 2, 60) for _ in range(40)], model="gpt-oss-20b", mixer="gqa",
                                ep=4, tokens="mock", data="uniform"))
        text, answer = observe(*paths).stdout, observe_json(*paths)
        tables = text.split("What these data cannot say:")[0]
        self.assertLessEqual(max(map(len, tables.splitlines())), 140)
        self.assertNotIn("WARNING", text)
        cell = cells(answer)["gpt-oss-20b/gqa/x/real/-/8"]
        self.assertFalse(cell["layers_mixed"])
        gini = {side: cell[side]["gini"]["observed"]["value"] for side in ("expert", "rank")}
        table = next(part for part in text.split("\n\n") if part.startswith("Gini"))
        line = next(l for l in table.splitlines() if l.startswith("x/8 "))
        self.assertRegex(line, rf"x/8 +{gini['expert']:.3f} .* {gini['rank']:.3f} ")
        self.assertRegex(text, r"(?m)^x +ep 4 -> 8 +gini +1\.000.* same .* (different|undecided|untested)$")
        ratio = changes(answer, "mock")[0]["ratio"]["value"]
        self.assertRegex(text, rf"(?m)^4 +x -> uniform +gini .* {ratio:.3f} ")
        lines = list(csv.DictReader(io.StringIO(observe("--csv=changes", *paths).stdout)))
        self.assertEqual(len(lines), len(answer["changes"]))
        for line, change in zip(lines, answer["changes"]):
            self.assertEqual((line["kind"], line["from"], line["side"], line["metric"], line["verdict"]),
                             tuple(change[k] for k in ("kind", "from", "side", "metric", "verdict")))
            self.assertAlmostEqual(float(line["ratio"]), change["ratio"]["value"], places=8)
            self.assertEqual(line["ratio_low"] != "", "low" in change["ratio"])

    def test_mixed_layers(self):
        """Where calls do not say their layer, the cell is said to be of mixed layers; loudly, in text and JSON."""
        rng = random.Random(10)
        path = self.out / "mixed.db"
        trace = RoutingTrace(path, 4)
        for step in range(30):
            for weights in ([5] + [1] * 7, [1] * 7 + [5]):  # two layers that differ
                trace.counts(draw(rng, weights, 2, 40), None, step, topk=2)
        self.label(trace.db, {"model": "m"})
        trace.close()
        answer = observe_json("--by", "model", path)
        self.assertTrue(answer["cells"][0]["layers_mixed"])
        self.assertEqual((answer["cells"][0]["layers"], len(answer["warnings"])), (1, 1))
        self.assertIn("1 cells mix layers", answer["warnings"][0])
        text = observe("--by", "model", path).stdout
        self.assertRegex(text, r"(?m)^WARNING: 1 cells mix layers")
        self.assertIn("LAYERS MIXED", text)
        router = [TOOL, "router", str(path)]
        self.assertIn("WARNING: which layer", subprocess.run(router, capture_output=True, text=True, check=True).stdout)
        found = json.loads(subprocess.run([*router, "--json"], capture_output=True, text=True, check=True).stdout)
        self.assertTrue(found["layers_mixed"])

    def test_topk_label(self):
        """What a count exchange does not say, a label does; the trace's own word goes before both."""
        rng = random.Random(11)
        rows = [draw(rng, [1] * 8, 2, 40) for _ in range(30)]
        said = self.trace("said.db", rows, topk=2, model="m")
        for labels, options, topk in (({}, [], None), ({"topk": 2}, [], 2), ({}, ["--topk", 2], 2)):
            path = self.trace(f"{len(labels)}{len(options)}.db", rows, topk=None, model="m")
            with sqlite3.connect(path) as db:
                db.executemany("INSERT INTO run_label SELECT max(run_id), ?, ? FROM run", labels.items())
            db.close()
            answer = observe_json("--by", "model", *options, path)
            self.assertEqual(answer["cells"][0]["tokens_call"], 40 if topk else 80)
            self.assertEqual(len(answer["warnings"]), 0 if topk else 1)
        cell = observe_json("--by", "model", "--topk", 4, said)["cells"][0]
        self.assertEqual((cell["topk"], cell["tokens_call"]), (2, 40))

    def test_save(self):
        rng = random.Random(7)
        path = self.trace("s.db", [draw(rng, [1] * 8, 2, 40) for _ in range(30)], model="m")
        for _ in range(2):
            answer = observe_json("--save", "--by", "model", path)
        db = sqlite3.connect(path)
        rows = db.execute("SELECT value, low FROM metric WHERE analysis = 'observe'"
                          " AND name = 'm.expert.gini.observed'").fetchall()
        db.close()
        observed = answer["cells"][0]["expert"]["gini"]["observed"]
        self.assertEqual(len(rows), 1)
        self.assertAlmostEqual(rows[0][0], observed["value"])
        self.assertAlmostEqual(rows[0][1], observed["low"])

    def test_refused(self):
        rng = random.Random(8)
        path = self.trace("r.db", [draw(rng, [1] * 8, 2, 40)], model="m")
        with sqlite3.connect(path) as db:
            db.execute("INSERT INTO run (key) VALUES ('other')")
            db.execute("INSERT INTO run_label SELECT max(run_id), 'model', 'n' FROM run")
        db.close()
        done = observe("--by", "model", path, status=1)
        self.assertIn("different labels (model=m and model=n)", done.stderr)
        self.assertEqual(done.stderr.count("\n"), 1)
        observe("--by", "data", path)
        for bad in (["--bands", "0.3,0.1"], ["--bands", "1"], ["--by", "a,,b"], ["--by", "a,a"], ["--ep", "x"],
                    ["--json", "--csv"]):
            observe(*bad, path, status=2)
        observe(self.out / "none.db", status=1)


if __name__ == "__main__":
    import sys
    if "RealData" in sys.argv[1:]:
        routingdata.need_data()
    unittest.main()
