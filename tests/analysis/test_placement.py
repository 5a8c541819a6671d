#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""skewscope whatif placement from outside: cross-domain tables of real counts, held-out verdicts, bytes of tokens,
requests, and the files it writes.

The real files lie at ../shared/data from the project's root, or where SKEWSCOPE_TEST_DATA says; their tests are
skipped, saying so, where they are not.
"""
import collections
import csv
import io
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "cli")]
import npyfile  # noqa: E402
import tracegen  # noqa: E402

TOOL = os.environ["SKEWSCOPE_TOOL"]
DATA = pathlib.Path(os.environ.get("SKEWSCOPE_TEST_DATA") or HERE.parents[2] / "shared" / "data")
real_data = unittest.skipUnless((DATA / "verified_metrics.csv").exists(), f"{DATA} is not here")
EPLB = DATA / "reference" / "eplb_worked_example.json"


def tool(*arguments):
    return subprocess.run([TOOL, *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False)


class Placement(unittest.TestCase):
    def setUp(self):
        room = tempfile.TemporaryDirectory()
        self.addCleanup(room.cleanup)
        self.dir = pathlib.Path(room.name)

    def imported(self, name, *arguments):
        out = self.dir / f"{name}.db"
        done = tool("import", *arguments, "-o", out)
        self.assertEqual(done.returncode, 0, done.stderr)
        return out

    def counts(self, name, rows, *arguments, columns="layer,expert,count"):
        path = self.dir / f"{name}.csv"
        path.write_text(columns + "\n" + "".join(",".join(map(str, row)) + "\n" for row in rows), encoding="utf-8")
        return self.imported(name, "counts", path, *arguments)

    def json(self, *arguments):
        done = tool("whatif", "placement", "--json", *arguments)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return json.loads(done.stdout)

    def methods(self, *arguments):
        return {m["method"]: m for m in self.json(*arguments)["layers"][0]["methods"]}

    def fails(self, status, words, *arguments):
        done = tool("whatif", "placement", *arguments)
        self.assertEqual((done.returncode, done.stdout), (status, ""), done.stderr)
        self.assertIn(words, done.stderr)

    # ---- published and real -----------------------------------------------------------------------

    @unittest.skipUnless(EPLB.exists(), f"{EPLB} is not here")
    def test_eplb_example(self):
        example = json.loads(EPLB.read_text(encoding="utf-8"))
        trace = self.counts("eplb", [(layer, e, n) for layer, row in enumerate(example["weight"])
                                     for e, n in enumerate(row)])
        out = self.dir / "eplb.json"
        arguments = [trace, "--ranks", example["num_gpus"], "--groups", example["num_groups"], "--nodes",
                     example["num_nodes"], "--redundant", example["num_replicas"] - len(example["weight"][0])]
        layers = self.json(*arguments, "--methods", "eplb-groups", "--write", f"eplb:{out}")["layers"]
        for layer, wanted in zip(layers, example["derived_max_over_mean"]):
            self.assertAlmostEqual(layer["methods"][0]["in_sample"]["max_mean"], wanted, 12)
        made = json.loads(out.read_text(encoding="utf-8"))
        self.assertEqual(made["phy2log"], example["phy2log_published"])
        self.assertEqual(made["weight"], example["weight"])
        for weight, phy2log, counts, loads in zip(made["weight"], made["phy2log"], made["logcnt"],
                                                  example["derived_gpu_loads"]):
            shares = [weight[e] / counts[e] for e in phy2log]
            self.assertEqual([a + b for a, b in zip(shares[::2], shares[1::2])], loads)
        for layer, log2phy in enumerate(made["log2phy"]):
            for expert, slots in enumerate(log2phy):
                self.assertEqual([s for s in slots if s >= 0],
                                 [s for s, e in enumerate(made["phy2log"][layer]) if e == expert])

    @real_data
    def test_olmoe_domains(self):
        """Layers 0, 7, 15 at 8, 16 and 32 ranks: 94 of 180 worse than contiguous, 64 or 65 worse than the random mean: a
        single cell lies so little below it that 2,000 random orders may not tell."""
        traces = [self.imported(domain, "counts", DATA / "olmoe_mixtral_expert_counts.csv", "--where",
                                "model=OLMoE-1B-7B-0924", "--where", f"domain={domain}", "--label", f"domain={domain}")
                  for domain in ("arxiv", "book", "c4", "github", "wikipedia")]
        all_of_it = self.json(*traces, "--label", "domain", "--ranks", "8,16,32", "--methods", "lpt")
        total, = all_of_it["cross_total"]
        self.assertEqual(total["off_diagonal"], 180)
        self.assertEqual(total["worse_than_current"], 94)
        cells = {(c["layer"], c["ranks"]): c for c in all_of_it["cross"]}
        self.assertEqual(len(cells), 9)
        below = {}  # how far below the random mean, of those that are below
        worse = 0
        for (layer, ranks), cell in cells.items():
            for train, row in zip(cell["train"], cell["methods"][0]["max_mean"]):
                for test, value, random_mean in zip(cell["test"], row, cell["random"]):
                    if train != test and (layer, ranks, train, test) != (0, 32, "github", "book"):
                        worse += value > random_mean
                        below[layer, ranks, train, test] = random_mean - value
                    elif train != test:
                        tie = random_mean - value
        self.assertEqual(worse, 64)
        # 2.3009 against 2.3033, from 4 million orders; the mean of 2,000 has a standard error of 0.005
        self.assertLess(abs(tie - 0.0024), 4 * 0.005)
        self.assertEqual(total["worse_than_random"], 64 + (tie < 0))
        self.assertGreater(min(d for d in below.values() if d > 0), 0.01)
        self.check_scores(cells)
        for cell in cells.values():
            self.assertTrue(4 <= cell["methods"][0]["worse_than_current"] <= 16)
        cell = cells[7, 16]
        self.assertEqual(cell["test"], ["arxiv", "book", "c4", "github", "wikipedia"])
        for found, wanted in zip(cell["current"], [1.92, 1.80, 1.19, 2.56, 2.13]):
            self.assertAlmostEqual(found, wanted, delta=0.006)
        table = cell["methods"][0]["max_mean"]
        for i, wanted in enumerate([1.61, 1.12, 1.00, 1.57, 1.78]):
            self.assertAlmostEqual(table[i][i], wanted, delta=0.01)
        self.assertAlmostEqual(table[1][0], 2.70, delta=0.03)  # found on book, used on arxiv
        self.assertAlmostEqual(table[1][3], 2.88, delta=0.03)
        self.assertEqual(cell["methods"][0]["verdict"], "does not pay on other data")
        text = tool("whatif", "placement", *traces, "--label", "domain", "--ranks", "8", "--methods", "lpt").stdout
        self.assertIn("does not pay on other data", text)
        self.assertIn("means on other data", text)
        self.assertIn("source ranks are not known", text)
        self.assertLessEqual(max(map(len, text.splitlines())), 120)
        one = self.json(*traces, "--label", "domain", "--ranks", 16, "--layer", 7, "--methods", "lpt", "--train", "book",
                        "--test", "arxiv,github")["cross"][0]
        self.assertEqual((one["train"], one["test"]), (["book"], ["arxiv", "github"]))
        self.assertEqual(one["methods"][0]["max_mean"], [[table[1][0], table[1][3]]])
        # the curve over R: what no placement changes
        curve = self.json(traces[3], "--ranks", "4,8,16,32,64", "--layer", 7, "--methods", "current,lpt")["layers"]
        for layer, (contiguous, best, bound) in zip(curve, [(1.34, 1.000, 1.00), (2.14, 1.001, 1.00), (2.56, 1.572, 1.563),
                                                            (3.28, 3.085, 3.085), (6.16, 6.157, 6.157)]):
            current, lpt = (m["in_sample"]["max_mean"] for m in layer["methods"])
            self.assertAlmostEqual(current, contiguous, delta=0.006)
            self.assertAlmostEqual(lpt, best, delta=0.01)
            self.assertGreaterEqual(layer["bounds"]["of_sum"], bound - 0.0006)
            self.assertLessEqual(layer["bounds"]["of_sum"], lpt + 1e-9)
            self.assertIsNone(layer["methods"][1]["held_out"])  # one call: nothing to hold out

    def check_scores(self, cells):
        """Every cell of the cross table has bytes and time as well: all copies of the test trace, whatever the placement."""
        for cell in cells.values():
            for a, row in enumerate(cell["methods"][0]["scores"]):
                for b, score in enumerate(row):
                    self.assertAlmostEqual(score["max_mean"], cell["methods"][0]["max_mean"][a][b], 9)
                    copies = sum(score[f"{t}_bytes"] for t in ("rank", "domain", "other"))
                    self.assertAlmostEqual(copies, 102 * 2048 * 8, 0)  # tokens of a domain, top-8
                    self.assertGreaterEqual(score["padded_bytes"], copies / cell["ranks"] * 0.999)
                    self.assertGreater(score["time_s"], 0)
            for key in ("current", "random"):
                self.assertEqual(len(cell[f"{key}_scores"]), 5)
                for value, score in zip(cell[key], cell[f"{key}_scores"]):
                    self.assertAlmostEqual(score["max_mean"], value, 9)
            off = [s["padded_bytes"] for a, row in enumerate(cell["methods"][0]["scores"]) for b, s in enumerate(row)
                   if a != b]
            self.assertAlmostEqual(cell["methods"][0]["mean_off_diagonal"]["padded_bytes"], sum(off) / 20, 3)

    @real_data
    def test_gpt_oss(self):
        """Held out on the second half: layers 0 and 23 gain, as far as the noise of 64 tokens lets them; and groups of
        requests, scored on requests that were not used."""
        trace = self.imported("steps", "topk", DATA / "gptoss20b_decode_topk.npy", "--stage", "decode", "--by", "step",
                              "--step-tokens", 1, "--experts", 32)
        for layer, current, held in ((0, 1.445, 1.28), (23, 1.729, 1.22)):
            found = self.methods(trace, "--ranks", 8, "--layer", layer, "--methods", "current,random,lpt")
            self.assertAlmostEqual(found["current"]["in_sample"]["max_mean"], current, delta=0.001)
            self.assertAlmostEqual(found["lpt"]["held_out"]["max_mean"], held, delta=0.03)
            self.assertEqual(found["lpt"]["gain_over_current"]["verdict"], "pays")
            self.assertLess(found["lpt"]["in_sample"]["max_mean"], found["lpt"]["held_out"]["max_mean"] + 0.01)
        requests = self.imported("requests", "topk", DATA / "gptoss20b_decode_topk.npy", "--stage", "decode")
        found = self.json(requests, "--ranks", 8, "--domain-ranks", 4, "--methods", "current")["requests"]
        self.assertEqual((found["requests"], found["classified_by"]), (64, "first steps of decode"))
        self.assertEqual(len(found["correlation"]), 24)
        for layer in found["correlation"]:
            self.assertTrue(layer["low"] < layer["pearson"] < layer["high"])
            self.assertGreater(layer["pearson"], 0.8)
        grouping = found["grouping"]
        self.assertEqual((grouping["groups"], grouping["held_out"]), (2, 12))
        self.assertLess(grouping["leaving"], grouping["leaving_random_range"][0])
        self.assertAlmostEqual(grouping["leaving_random"], 0.5, delta=0.03)
        self.assertLessEqual(grouping["leaving_classified_by_decode"], grouping["leaving"] + 0.02)

    # ---- made up ----------------------------------------------------------------------------------

    def steps(self, name, weights, calls=80, tokens=400, seed=1, **options):
        """A trace of `calls` calls; weights(call) → weight of each expert."""
        rng = random.Random(seed)
        rows = []
        for call in range(calls):
            w = weights(call)
            drawn = collections.Counter(rng.choices(range(len(w)), w, k=tokens))
            rows += [(call, 0, e, drawn[e]) for e in range(len(w))]
        return self.counts(name, rows, columns="step,layer,expert,count")

    def test_pays_and_does_not(self):
        """A lasting skew pays; uniform routing and a pattern that changes do not, however good they look on themselves."""
        hot = [4.0 if e < 4 else 1 for e in range(32)]
        lasting = self.methods(self.steps("lasting", lambda c: hot), "--ranks", 8)
        self.assertEqual(lasting["lpt"]["gain_over_current"]["verdict"], "pays")
        self.assertLess(lasting["lpt"]["gain_over_current"]["low"], lasting["lpt"]["gain_over_current"]["mean"])
        even = self.methods(self.steps("even", lambda c: [1.0] * 32), "--ranks", 8)["lpt"]
        self.assertNotEqual(even["gain_over_current"]["verdict"], "pays")
        # LPT pairs hottest with coldest: (0, 7), (1, 6), (2, 5), (3, 4); then 0, 7, 1 and 6 are hot
        turned = self.steps("turned", lambda c: [10.0 if e in ((0, 1, 2, 3) if c < 40 else (0, 7, 1, 6)) else 1
                                                 for e in range(8)])
        age = self.json(turned, "--ranks", 4)["layers"][0]["age"]
        self.assertLess(age["p_no_drift"], 0.01)
        self.assertGreater(age["half_gain_lag_calls"], 0)
        steady = self.json(self.dir / "lasting.db", "--ranks", 8)["layers"][0]["age"]
        self.assertGreater(steady["p_no_drift"], 0.01)
        self.assertIsNone(steady["half_gain_lag_calls"])
        overfitted = self.methods(self.steps("few", lambda c: [1.0] * 32, calls=2, tokens=200), "--ranks", 8)["lpt"]
        self.assertLess(overfitted["in_sample"]["max_mean"], overfitted["held_out"]["max_mean"])

    def test_worse_is_said(self):
        """What the first half asks for puts the second half's two hot experts on one rank."""
        rows = [(c, 0, e, 10 if e in ((0, 1, 2, 3) if c < 40 else (0, 7)) else 1) for c in range(80) for e in range(8)]
        trace = self.counts("worse", rows, columns="step,layer,expert,count")
        found = self.methods(trace, "--ranks", 4)["lpt"]
        self.assertLess(found["gain_over_current"]["mean"], -0.3)
        self.assertEqual(found["gain_over_current"]["verdict"], "does not pay")
        text = tool("whatif", "placement", trace, "--ranks", 4).stdout
        # Two halves that contradict each other are no series in time whose mean could have an interval.
        self.assertIsNone(found["gain_over_current"]["low"])
        self.assertLess(found["gain_over_current"]["effective_n"], 20)
        self.assertRegex(text, r"lpt .* does not pay, no better than random")
        self.assertIn("no better than random", text)

    def test_token_bytes_exact(self):
        """Bytes by tier and once a rank, against sets of Python, for kept ids; bounds without them."""
        rng = random.Random(5)
        ranks, domain, experts = 4, 2, 16
        tokens = [[rng.sample(range(experts), 4)] for _ in range(64)]
        path = npyfile.write(self.dir / "t.npy", tokens)
        arguments = ["topk", path, "--ranks", ranks, "--experts", experts, "--assign", "round-robin"]
        exact = self.imported("exact", *arguments, "--keep-ids")
        bounds = self.imported("bounds", *arguments)
        tier = collections.Counter()
        once = collections.Counter()
        for t, (ids,) in enumerate(tokens):
            source = t % ranks
            where = [e // (experts // ranks) for e in ids]

            def name(rank):
                return "rank" if rank == source else "domain" if rank // domain == source // domain else "other"
            tier.update(name(r) for r in where)
            once.update(name(r) for r in set(where))
            once["a_domain"] += sum(d != source // domain for d in {r // domain for r in where})
        options = ["--domain-ranks", domain, "--token-bytes", 100, "--methods", "current"]
        found = self.methods(exact, *options)["current"]["in_sample"]
        self.assertEqual({k: found[f"{k}_bytes"] for k in ("rank", "domain", "other")},
                         {k: 100 * tier[k] for k in ("rank", "domain", "other")})
        for k in ("rank", "domain", "other"):
            self.assertEqual(found[f"{k}_bytes_once"], [100 * once[k]] * 2)
        self.assertEqual(found["other_bytes_once_a_domain"], [100 * once["a_domain"]] * 2)
        bound = self.methods(bounds, *options)["current"]["in_sample"]
        self.assertEqual((found["ids_known"], bound["ids_known"]), (True, False))
        for k in ("rank", "domain", "other"):
            low, high = bound[f"{k}_bytes_once"]
            self.assertTrue(low <= 100 * once[k] <= high and low < high)

    def test_prefill_and_decode(self):
        """From ids to the correlation: 12 requests, the first 20 of 60 tokens are the prompt; against sums made here."""
        rng = random.Random(7)
        weights = [[rng.random() ** 2 for _ in range(16)] for _ in range(2)]
        tokens = [[[rng.sample(range(16), 1, counts=[int(100 * w) + 1 for w in weights[layer]]) for layer in range(2)]
                   for _ in range(60)] for _ in range(12)]
        trace = self.imported("pd", "topk", npyfile.write(self.dir / "pd.npy", tokens), "--prompt-tokens", 20,
                              "--experts", 16)
        found = self.json(trace, "--ranks", 4, "--methods", "current")["requests"]
        self.assertEqual((found["requests"], found["classified_by"]), (12, "prefill"))
        for layer, one in enumerate(found["correlation"]):
            sums = [[0] * 16, [0] * 16]
            for request in tokens:
                for t, token in enumerate(request):
                    sums[t >= 20][token[layer][0]] += 1
            mean = [sum(s) / 16 for s in sums]
            xy = sum((a - mean[0]) * (b - mean[1]) for a, b in zip(*sums))
            xx, yy = (sum((a - m) ** 2 for a in s) for s, m in zip(sums, mean))
            self.assertAlmostEqual(one["pearson"], xy / (xx * yy) ** 0.5, 9)
            self.assertTrue(one["low"] < one["pearson"] < one["high"])
        self.assertEqual(found["grouping"]["groups"], 2)
        one = self.imported("one", "vllm", npyfile.write(self.dir / "one.npy", tokens[0], "<i2"), "--prompt-tokens", 20)
        self.assertIn("no two requests", self.json(one, "--ranks", 1, "--methods", "current")["requests"]["note"])

    def test_locality(self):
        """Each domain's tokens want experts of the other: locality brings them home."""
        rng = random.Random(6)
        rows = []
        for step in range(40):
            for rank in range(4):
                drawn = collections.Counter((8 if rank < 2 else 0) + rng.randrange(8) if rng.random() < 0.9
                                            else rng.randrange(16) for _ in range(200))
                rows += [(step, 0, rank, e, drawn[e]) for e in range(16)]
        trace = self.counts("local", rows, columns="step,layer,rank,expert,count")
        found = self.methods(trace, "--domain-ranks", 2)
        self.assertLess(found["locality"]["held_out"]["other_bytes"], 0.1 * found["current"]["held_out"]["other_bytes"])
        self.assertLess(found["locality"]["held_out"]["max_mean"], 1.15 * found["lpt"]["held_out"]["max_mean"])
        self.assertTrue(found["current"]["held_out"]["sources_known"])
        self.assertIn("not_possible", self.methods(trace)["locality"])
        grouped = self.methods(trace, "--domain-ranks", 2, "--groups", 4)
        self.assertNotIn("not_possible", grouped["lpt-groups"])

    def test_current_from_table(self):
        """The table placement is the current one."""
        path = self.steps("placed", lambda c: [3.0 if e < 2 else 1 for e in range(8)], calls=4)
        import sqlite3
        db = sqlite3.connect(path)
        db.execute("INSERT INTO communicator (comm_id, key, kind, ranks) VALUES (1, '00c0ffee00c0ffee', 'unknown', 4)")
        db.execute("UPDATE routing SET comm_id = 1")
        db.executemany("INSERT INTO placement VALUES (1, -1, ?, ?, ?)", [(s, s // 2, [0, 7, 1, 6, 2, 5, 3, 4][s])
                                                                         for s in range(8)])
        db.commit()
        db.close()
        found = self.json(path)
        self.assertEqual(found["model"]["token_bytes"], 1)
        layer = found["layers"][0]
        self.assertEqual(layer["current"], "placement of the trace")
        found = {m["method"]: m["in_sample"]["max_mean"] for m in layer["methods"] if "in_sample" in m}
        self.assertLess(found["current"], found["contiguous"] - 0.2)

    def test_write(self):
        trace = self.counts("w", [(layer, e, (e * 7 + layer) % 11 + 1) for layer in (0, 1) for e in range(8)])
        def written(form, *more):
            out = self.dir / f"p.{form}"
            done = tool("whatif", "placement", trace, "--ranks", 4, "--methods", "lpt", "--write", f"{form}:{out}", *more)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            return out.read_text(encoding="utf-8")
        rows = list(csv.DictReader(io.StringIO(written("csv"))))
        slots = [[int(r["expert"]) for r in rows if r["layer"] == str(layer)] for layer in (0, 1)]
        self.assertEqual([sorted(s) for s in slots], [list(range(8))] * 2)
        self.assertEqual([int(r["rank"]) for r in rows], [s // 2 for s in range(8)] * 2)
        self.assertEqual(json.loads(written("sglang")), {"physical_to_logical_map": slots})
        deeper = json.loads(written("sglang", "--first-layer", 3, "--model-layers", 6))["physical_to_logical_map"]
        self.assertEqual(deeper, [list(range(8))] * 3 + slots + [list(range(8))])
        vllm = json.loads(written("vllm"))
        self.assertEqual(vllm["moe_layer_count"], 2)
        self.assertEqual([[d["device_expert"] for d in layer["device_list"]] for layer in vllm["layer_list"]],
                         [[s[2 * r:2 * r + 2] for r in range(4)] for s in slots])
        trtllm = json.loads(written("trtllm"))
        self.assertEqual((trtllm["num_slots"], trtllm["initial_global_assignments"]), (8, {"0": slots[0], "1": slots[1]}))
        self.fails(2, "--write: 'x' is not FORMAT:FILE", trace, "--write", "x")
        self.fails(2, "--write: 'pt' is not allowed", trace, "--write", "pt:x")
        done = tool("whatif", "placement", trace, "--ranks", 4, "--write", f"csv:{self.dir}/no/p.csv")
        self.assertEqual(done.returncode, 1)
        self.assertIn("cannot be written", done.stderr)

    def test_csv(self):
        trace = self.steps("c", lambda c: [2.0 if e < 2 else 1 for e in range(8)], calls=50)
        done = tool("whatif", "placement", trace, "--ranks", 4, "--csv", "--methods", "current,lpt")
        rows = list(csv.DictReader(io.StringIO(done.stdout)))
        self.assertEqual([(r["method"], r["sample"]) for r in rows],
                         [("current", "not_fitted"), ("lpt", "in_sample"), ("lpt", "held_out")])
        found = self.methods(trace, "--ranks", 4, "--methods", "current,lpt")
        self.assertAlmostEqual(float(rows[2]["max_mean"]), found["lpt"]["held_out"]["max_mean"], 6)

    def test_bad(self):
        trace = self.counts("b", [(0, e, 1) for e in range(8)])
        self.fails(1, "its routing names no ranks: say how many with --ranks", trace)
        self.fails(1, "--ranks 3 does not divide the 8 experts", trace, "--ranks", 3)
        self.fails(1, "--domain-ranks 3 does not divide 4 ranks", trace, "--ranks", 4, "--domain-ranks", 3)
        self.fails(2, "which trace?")
        self.fails(2, "--methods: 'lpd' is not allowed", trace, "--methods", "lpd")
        self.fails(2, "choose one of --json and --csv", trace, "--json", "--csv")
        self.fails(1, "both called 'b'", trace, trace, "--ranks", 4)
        self.fails(1, "--train: none of the traces has such a name", trace, "--ranks", 4, "--train", "x")
        self.fails(1, "no routing in it that is selected", trace, "--layer", 5)
        empty = self.dir / "empty.db"
        tracegen.simple(empty, [[[1, 2], [3, 4]]])
        self.fails(1, "no routing in it: per-expert counts come from the tap", empty)
        self.assertIn("NCCL carries no request ids", tool("whatif", "placement", trace, "--ranks", 4).stdout)


if __name__ == "__main__":
    unittest.main(verbosity=1)
