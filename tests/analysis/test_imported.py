#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every analysis on a trace of every imported format: the number that follows from the file, or a refusal that says why.
And imported counts joined to the kernels of a backend whose bytes nobody sees."""
import collections
import json
import os
import pathlib
import random
import sqlite3
import struct
import subprocess
import sys
import tempfile
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "cli")]
import npyfile  # noqa: E402
import tracegen  # noqa: E402

TOOL = os.environ["SKEWSCOPE_TOOL"]
EXPERTS, TOPK, RANKS, STEPS, LAYERS, TOKENS = 16, 2, 4, 40, 2, 32


def tool(*arguments):
    return subprocess.run([TOOL, *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False)


def gini(values):
    x = sorted(values)
    return sum((2 * i - len(x) - 1) * v for i, v in enumerate(x, 1)) / (len(x) * sum(x))


def max_mean(values):
    return len(values) * max(values) / sum(values)


class Imported(unittest.TestCase):
    """All formats of counts hold the same tokens, so that all must give the same numbers."""

    @classmethod
    def setUpClass(cls):
        room = tempfile.TemporaryDirectory()
        cls.addClassCleanup(room.cleanup)
        cls.dir = pathlib.Path(room.name)
        rng = random.Random(4)
        weights = [[rng.expovariate(1) + 0.2 for _ in range(EXPERTS)] for _ in range(LAYERS)]

        def token(layer):
            pair = set()
            while len(pair) < TOPK:
                pair.add(rng.choices(range(EXPERTS), weights[layer])[0])
            return sorted(pair)
        # [step][rank][token][layer] → experts
        cls.tokens = [[[[token(layer) for layer in range(LAYERS)] for _ in range(TOKENS)] for _ in range(RANKS)]
                      for _ in range(STEPS)]
        cls.by_rank = {(s, layer, r): [sum(e in t[layer] for t in cls.tokens[s][r]) for e in range(EXPERTS)]
                       for s in range(STEPS) for layer in range(LAYERS) for r in range(RANKS)}
        cls.counts = {(s, layer): [sum(column) for column in zip(*(cls.by_rank[s, layer, r] for r in range(RANKS)))]
                      for s in range(STEPS) for layer in range(LAYERS)}
        cls.matrix = [[[rng.randrange(1, 99) for _ in range(16)] for _ in range(16)] for _ in range(25)]
        cls.traces = {name: cls.imported(name, *make()) for name, make in cls.formats().items()}

    @classmethod
    def imported(cls, name, *arguments):
        out = cls.dir / f"{name}.db"
        done = tool("import", *arguments, "-o", out)
        if done.returncode:
            raise AssertionError(f"{name}: {done.stderr}")
        return out

    @classmethod
    def write(cls, name, text):
        path = cls.dir / name
        path.write_text(text, encoding="utf-8")
        return path

    @classmethod
    def formats(cls):
        def megatron():
            return ["megatron", *(cls.write(f"router_trace_rank{r}.jsonl", "".join(
                json.dumps({"step": s, "stage": "pre_dispatch", "block": "decoder", "layer": layer, "rank": r,
                            "num_tokens": TOKENS, "topk": TOPK,
                            "top_indices": [t[layer] for t in cls.tokens[s][r]]}) + "\n"
                for s in range(STEPS) for layer in range(LAYERS))) for r in range(RANKS)), "--experts", EXPERTS]

        def vllm():  # a rank is a request, TOKENS of its tokens a step
            return ["vllm", *(npyfile.write(cls.dir / f"r{r}.npy", [t for s in range(STEPS) for t in cls.tokens[s][r]], "<i2")
                              for r in range(RANKS)), "--step-tokens", TOKENS, "--ranks", RANKS, "--assign", "contiguous",
                    "--experts", EXPERTS]

        def topk():
            return ["topk", npyfile.write(cls.dir / "t.npy", [[t for s in range(STEPS) for t in cls.tokens[s][r]]
                                                             for r in range(RANKS)], "|u1"),
                    "--step-tokens", TOKENS, "--ranks", RANKS, "--assign", "round-robin", "--experts", EXPERTS]

        def sglang():
            return ["sglang", npyfile.write(cls.dir / "s.npy", [[cls.counts[s, layer] for layer in range(LAYERS)]
                                                               for s in range(STEPS)], "<i4")]

        def trtllm():
            (cls.dir / "stat").mkdir()
            for r in range(RANKS):
                head, data = {}, b""
                for s in range(STEPS):
                    for layer in range(LAYERS):
                        body = struct.pack(f"<{EXPERTS}q", *cls.by_rank[s, layer, r])
                        head[f"{s}_{layer}"] = {"dtype": "I64", "shape": [EXPERTS],
                                                "data_offsets": [len(data), len(data) + len(body)]}
                        data += body
                text = json.dumps(head).encode()
                (cls.dir / "stat" / f"rank{r}.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
            (cls.dir / "stat" / "meta_info.json").write_text(
                json.dumps({"num_experts": EXPERTS, "num_experts_per_token": TOPK}), encoding="utf-8")
            return ["trtllm", cls.dir / "stat"]

        def counts():
            return ["counts", cls.write("c.csv", "step,layer,expert,count\n" + "".join(
                f"{s},{layer},{e},{n}\n" for (s, layer), row in cls.counts.items() for e, n in enumerate(row)))]

        def matrices():
            return ["matrices", npyfile.write(cls.dir / "m.npy", cls.matrix, "<i4"), "--token-bytes", 4096]

        def nccl_tests():
            return ["nccl-tests", *(cls.write(f"m{i}.txt", "".join(" ".join(str(4096 * v) for v in row) + "\n" for row in m))
                                    for i, m in enumerate(cls.matrix))]
        return {"megatron": megatron, "vllm": vllm, "topk": topk, "sglang": sglang, "trtllm": trtllm, "counts": counts,
                "matrices": matrices, "nccl-tests": nccl_tests}

    WITH_RANKS = ("megatron", "vllm", "topk", "trtllm")
    WITHOUT = ("sglang", "counts")
    MATRICES = ("matrices", "nccl-tests")

    def each(self, names):
        return [self.traces[name] for name in names]

    def json(self, *arguments):
        done = tool(*arguments, "--json")
        self.assertEqual((done.returncode, done.stderr), (0, ""), arguments)
        return json.loads(done.stdout)

    def refused(self, words, *arguments):
        done = tool(*arguments)
        self.assertEqual((done.returncode, done.stdout), (1, ""), done.stderr)
        self.assertIn(words, done.stderr)
        self.assertEqual(done.stderr.count("\n"), 1)

    def mean_of(self, function, ranks=0, layer=None):
        """Mean over calls of function(loads of experts, or of ranks)."""
        values = []
        for (_, at), row in self.counts.items():
            if layer in (None, at):
                size = EXPERTS // ranks if ranks else 1
                values.append(function([sum(row[i:i + size]) for i in range(0, EXPERTS, size)]))
        return sum(values) / len(values)

    def test_router(self):
        for trace in self.each(self.WITH_RANKS + self.WITHOUT):
            layers = self.json("router", trace)["layers"]
            self.assertEqual([one["layer"] for one in layers], [0, 1])
            for one in layers:
                self.assertEqual((one["experts"], one["calls"]), (EXPERTS, STEPS))
                for name, function in (("gini", gini), ("max_mean", max_mean)):
                    self.assertAlmostEqual(one["expert"][name]["call"]["value"],
                                           self.mean_of(function, layer=one["layer"]), 9)
        for trace in self.each(self.MATRICES):
            self.assertIn("from the sizes of dispatches", tool("router", trace).stdout)

    def test_skew(self):
        received = [[sum(m[i][j] for i in range(16)) for j in range(16)] for m in self.matrix]
        for trace in self.each(self.MATRICES):
            one, = self.json("skew", trace)["exchanges"]
            self.assertAlmostEqual(one["load"]["max_mean"]["call"]["value"],
                                   sum(map(max_mean, received)) / len(received), 9)
        for trace in self.each(self.WITH_RANKS + self.WITHOUT):
            self.refused("there are no exchanges in this trace", "skew", trace)

    def test_whatif_ep(self):
        for trace in self.each(self.WITH_RANKS + self.WITHOUT):
            points = {p["ranks"]: p for p in self.json("whatif", "ep", trace)["points"]}
            for ranks in (2, 4, 8, 16):
                self.assertAlmostEqual(points[ranks]["observed"], self.mean_of(max_mean, ranks), 9)
        for trace in self.each(self.MATRICES):
            self.refused("there are no per-expert counts", "whatif", "ep", trace)

    def test_whatif_placement(self):
        for trace in self.each(self.WITH_RANKS + self.WITHOUT):
            ranks = [] if trace.stem in self.WITH_RANKS else ["--ranks", RANKS]
            found = self.json("whatif", "placement", trace, *ranks, "--methods", "current,lpt", "--token-bytes", 100)
            for layer in found["layers"]:
                current, lpt = layer["methods"]
                self.assertAlmostEqual(current["held_out"]["max_mean"], self.mean_of(max_mean, RANKS, layer["layer"]), 9)
                self.assertAlmostEqual(sum(current["held_out"][f"{t}_bytes"] for t in ("rank", "domain", "other")),
                                       100 * TOPK * TOKENS * RANKS, 6)
                self.assertEqual(current["held_out"]["sources_known"], trace.stem in self.WITH_RANKS)
                self.assertEqual(lpt["gain_over_current"]["verdict"], "pays")
            self.assertEqual(found["model"]["bandwidth_bytes_per_s"]["source"], "default")
        for trace in self.each(self.WITHOUT):
            self.refused("its routing names no ranks", "whatif", "placement", trace)
        for trace in self.each(self.MATRICES):
            self.refused("no routing in it: per-expert counts come from the tap", "whatif", "placement", trace)

    def test_whatif_schedule(self):
        for trace in self.each(self.WITH_RANKS):
            found = self.json("whatif", "schedule", trace, "--token-bytes", 4096, "--methods", "stuffed", "--limit", 1000)
            self.assertEqual([e["seq"] for e in found["exchanges"]], list(range(STEPS * LAYERS)))
            for call, exchange in enumerate(found["exchanges"]):
                step, layer = divmod(call, LAYERS)
                size = EXPERTS // RANKS
                matrix = [[4096 * sum(self.by_rank[step, layer, r][d * size:(d + 1) * size]) for d in range(RANKS)]
                          for r in range(RANKS)]
                off = [[0 if i == j else v for j, v in enumerate(row)] for i, row in enumerate(matrix)]
                self.assertEqual(exchange["total_bytes"], sum(map(sum, off)))
                self.assertEqual(exchange["bound_bytes"], max(max(map(sum, off)), max(map(sum, zip(*off)))))
                self.assertEqual(exchange["schedules"][0]["loss"], 1)
            mean = self.json("whatif", "schedule", trace, "--token-bytes", 4096, "--mean", "--layer", 1)["exchanges"]
            self.assertEqual(len(mean), 1)
            self.assertAlmostEqual(mean[0]["total_bytes"] + mean[0]["local_bytes"], 4096 * TOPK * TOKENS * RANKS, delta=16)
            one = self.json("whatif", "schedule", trace, "--token-bytes", 4096, "--step", 3, "--layer", 1)["exchanges"]
            self.assertEqual([e["total_bytes"] for e in one], [found["exchanges"][7]["total_bytes"]])
            self.refused("give the size of a token: --token-bytes", "whatif", "schedule", trace)
            self.refused("stand for its dispatches", "whatif", "schedule", trace, "--role", "combine")
            self.assertIn("made of per-expert counts", tool("whatif", "schedule", trace, "--token-bytes", 2).stdout)
        for trace in self.each(self.WITHOUT):
            self.refused("do not say which rank tokens came from", "whatif", "schedule", trace, "--token-bytes", 4096)
        for trace in self.each(self.MATRICES):
            found = self.json("whatif", "schedule", trace)["exchanges"]
            self.assertEqual([e["total_bytes"] for e in found],
                             [4096 * sum(v for i, row in enumerate(m) for j, v in enumerate(row) if i != j)
                              for m in self.matrix])

    def test_observe(self):
        for trace in self.each(self.WITH_RANKS + self.WITHOUT):
            cell, = self.json("observe", trace)["cells"]
            self.assertAlmostEqual(cell["expert"]["gini"]["observed"]["value"], self.mean_of(gini), 9)
        for trace in self.each(self.MATRICES):
            self.assertIn("no per-expert counts", tool("observe", trace).stdout)

    def test_dispatcher(self):
        """Nobody ran a dispatcher: neither processes nor host times that an import had to make up are shown as measured."""
        for trace in self.each(self.traces):
            done = tool("dispatcher", trace)
            self.assertEqual(done.returncode, 1)
            self.assertIn("nothing: the trace is imported", done.stdout)
            self.assertIn("0 nodes, 0 processes", done.stdout)
            self.assertNotIn("enqueueing", done.stdout)
            self.assertNotIn("at work:", done.stdout)

    def test_time(self):
        for trace in self.each(self.MATRICES):
            self.refused("is imported: its matrices have no times", "time", trace)
        for trace in self.each(self.WITH_RANKS + self.WITHOUT):
            self.refused("holds no all-to-all exchange", "time", trace)

    def test_hang(self):
        for trace in self.each(self.WITH_RANKS + self.WITHOUT):
            self.assertEqual(tool("hang", trace).stdout, "nothing was captured that could meet or not\n"
                         "no capture stands behind this trace: it is imported or synthetic, or nothing was captured\n")
        for trace in self.each(self.MATRICES):
            self.assertIn("every send met its receive", tool("hang", trace).stdout)

    def test_overlap(self):
        for trace in self.each(self.traces):
            done = tool("overlap", trace)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn("no kernels are recorded", done.stdout)


class Joined(unittest.TestCase):
    """DeepEP's kernels as CUPTI records them (named synthetic), and the counts that only the router's side knew."""

    DISPATCH = "_ZN7deep_ep9intranode8dispatchILi8ELi768ELi8192EEEvv"
    COMBINE = "_ZN7deep_ep9intranode7combineI13__nv_bfloat16Li8EEEvv"

    def setUp(self):
        room = tempfile.TemporaryDirectory()
        self.addCleanup(room.cleanup)
        self.dir = pathlib.Path(room.name)
        self.rng = random.Random(8)
        self.calls = [(step, layer) for step in range(60) for layer in range(2)]

    def draw(self):
        """Counts of every call, source and expert; what a rank receives, and the busiest port."""
        popular = [self.rng.expovariate(1) + 0.1 for _ in range(EXPERTS)]
        self.cells, self.received, self.busiest = {}, {}, {}
        for call in self.calls:
            load = self.rng.uniform(0.5, 1.5)
            rows = []
            for _ in range(RANKS):
                drawn = collections.Counter(self.rng.choices(range(EXPERTS), popular, k=int(400 * load)))
                rows.append([drawn[e] for e in range(EXPERTS)])
            self.cells[call] = rows
            sent = [[sum(row[4 * d:4 * d + 4]) for d in range(RANKS)] for row in rows]
            self.received[call] = [sum(s[d] for s in sent) for d in range(RANKS)]
            self.busiest[call] = max(max(sum(s) - s[r] for r, s in enumerate(sent)),
                                     max(self.received[call][d] - sent[d][d] for d in range(RANKS)))

    def capture(self, extra=0):
        """A trace without a single exchange: kernels on one clock, 12 µs + 3 ns a copy, experts 4 µs + 7 ns a copy."""
        path = self.dir / f"captured{extra}.db"
        trace = tracegen.Trace(path)
        run = trace.run("20261128-101500-00000001")
        processes = {r: trace.process(r, run) for r in range(RANKS)}
        trace.comm("00c0ffee00c0ffee", RANKS, processes)
        for process in processes.values():
            trace.db.executemany("INSERT INTO kernel_name VALUES (?, ?, ?, ?, ?)",
                                 [(process, 1, self.DISPATCH, "dispatch", "DeepEP V1"), (process, 2, "gemm", "other", None),
                                  (process, 3, self.COMBINE, "combine", "DeepEP V1")])
        at, rows = 1_000_000, []
        for n, call in enumerate(self.calls + [self.calls[0]] * extra):
            wire = 12_000 + 3 * self.busiest[call]
            arrivals = [at + self.rng.randrange(3000) for _ in range(RANKS)]
            through = max(arrivals) + wire
            experts = [4_000 + 7 * received for received in self.received[call]]
            back = [through + 500 + e + 500 for e in experts]
            end = max(back) + wire
            for r, process in processes.items():
                for name, start, stop in ((1, arrivals[r], through), (2, through + 500, through + 500 + experts[r]),
                                          (3, back[r], end)):
                    if n < len(self.calls) or r == 0:
                        rows.append((process, r, 7, start, stop, stop - start, 1, name))
            at = end + 20_000
        trace.db.executemany("INSERT INTO kernel VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
        trace.close()
        return path

    def join(self, captured, calls=None):
        path = self.dir / "c.csv"
        path.write_text("step,layer,rank,expert,count\n" + "".join(
            f"{step},{layer},{r},{e},{n}\n" for (step, layer) in (calls or self.calls)
            for r, row in enumerate(self.cells[step, layer]) for e, n in enumerate(row)), encoding="utf-8")
        out = self.dir / f"joined{len(list(self.dir.glob('joined*')))}.db"
        done = tool("import", "counts", path, "--experts", EXPERTS, "--topk", 2, "--into", captured, "-o", out)
        self.assertEqual(done.returncode, 0, done.stderr)
        return out

    def json(self, *arguments):
        done = tool(*arguments, "--json")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return json.loads(done.stdout)

    def test_times_meet_counts(self):
        self.draw()
        captured = self.capture()
        before = self.json("overlap", captured)
        self.assertEqual({b["bytes"] for b in before["backends"]}, {"not observable"})
        self.assertEqual(before["joined"], [])
        trace = self.join(captured)
        joined, = self.json("overlap", trace)["joined"]
        self.assertEqual((joined["backend"], joined["rounds"], joined["calls"], joined["why"], joined["one_clock"]),
                         ("DeepEP V1", 120, 120, None, True))
        self.assertAlmostEqual(joined["busiest_copies"], sum(self.busiest.values()) / 120, 6)
        self.assertAlmostEqual(joined["received_copies"], sum(map(sum, self.received.values())) / 480, 6)
        for what, slope, intercept, count in (("dispatch", 3, 12_000, 120), ("combine", 3, 12_000, 120),
                                              ("experts", 7, 4_000, 480)):
            fit = joined[what]
            self.assertEqual((fit["model"], fit["observations"]), ("linear", count), fit["why"])
            self.assertAlmostEqual(fit["slope_ns"]["value"], slope, 3)
            self.assertAlmostEqual(fit["intercept_ns"]["value"], intercept, delta=5)
        text = tool("overlap", trace).stdout
        self.assertIn("dispatch  12.0 µs + 3.000 [3.000, 3.000] ns a copy of the busiest port", text)
        self.assertIn("experts   4.0 µs + 7.000 [7.000, 7.000] ns a copy received", text)
        # the router, placements and schedules work on it as on any trace
        layers = self.json("router", trace)["layers"]
        self.assertEqual([(one["layer"], one["ranks"], one["calls"]) for one in layers], [(0, 4, 60), (1, 4, 60)])
        loads = [self.received[call] for call in self.calls if call[1] == 0]
        found = self.json("whatif", "placement", trace, "--layer", 0, "--methods", "current", "--token-bytes", 100)
        current = found["layers"][0]["methods"][0]["held_out"]
        self.assertAlmostEqual(current["max_mean"], sum(map(max_mean, loads)) / 60, 9)
        # … at the price of these kernels
        took = [12_000 + 3 * self.busiest[call] for call in self.calls if call[1] == 0]
        self.assertAlmostEqual(current["time_s"], 1e-9 * sum(took) / 60, 9)
        bandwidth = found["model"]["bandwidth_bytes_per_s"]
        self.assertEqual(bandwidth["source"], "measured")
        self.assertIn("dispatches of DeepEP V1", bandwidth["why"])
        self.assertAlmostEqual(bandwidth["value"] / (100 / 3e-9), 1, 4)
        apart = self.json("whatif", "placement", trace, "--domain-ranks", 2, "--methods", "current")["model"]
        self.assertIn("do not tell what they send to which domain", apart["bandwidth_bytes_per_s"]["why"])
        schedule = self.json("whatif", "schedule", trace, "--token-bytes", 100, "--seq", 5)
        self.assertEqual(schedule["exchanges"][0]["bound_bytes"], 100 * self.busiest[self.calls[5]])
        compute = schedule["model"]["compute"]
        self.assertEqual(compute["source"], "kernels")
        self.assertAlmostEqual(compute["line"]["s_per_byte"], 7e-11, 15)
        self.assertAlmostEqual(schedule["model"]["fixed_s"]["value"], 12e-6, 8)
        done = tool("time", trace)
        self.assertEqual(done.returncode, 1)
        self.assertIn("holds no all-to-all exchange", done.stderr)

    def test_time_and_router_profit(self):
        """A trace with times and without counts, joined to counts of the same job, tells what the trace with both tells."""
        def synth(name, *more):
            out = self.dir / name
            self.assertEqual(tool("synth", "-q", "-o", out, "--ranks", 8, "--experts", 64, "--topk", 4, "--steps", 60,
                                  "--layers", 2, "--routing", "zipf", *more).returncode, 0)
            return out
        whole, blind = synth("whole.db"), synth("blind.db", "--no-routing")
        db = sqlite3.connect(whole)
        rows = db.execute("SELECT step, layer, source_rank, expert, tokens FROM routing_cell").fetchall()
        db.close()
        path = self.dir / "counts.csv"
        path.write_text("step,layer,rank,expert,count\n" + "".join("%d,%d,%d,%d,%d\n" % row for row in rows), encoding="utf-8")
        joined = self.dir / "both.db"
        self.assertEqual(tool("import", "counts", path, "--topk", 4, "--into", blind, "-o", joined).returncode, 0)
        headline = {name: self.json("time", trace)["headline"] for name, trace in
                    (("whole", whole), ("blind", blind), ("joined", joined))}
        self.assertEqual([headline[n]["placement_known"] for n in ("whole", "blind", "joined")], [True, False, True])
        self.assertEqual(headline["joined"], headline["whole"])
        self.assertGreater(headline["joined"]["placement_saves_ns"]["low"], 0)
        self.assertIn("no per-expert counts", tool("router", blind).stdout)
        found = {name: self.json("router", trace)["layers"] for name, trace in (("whole", whole), ("joined", joined))}
        for one, other in zip(found["joined"], found["whole"]):
            self.assertEqual((one["expert"], one["rows_verified"]), (other["expert"], other["rows_verified"]))
        placement = self.json("whatif", "placement", joined, "--layer", 0, "--methods", "current,lpt")
        self.assertEqual(placement["model"]["bandwidth_bytes_per_s"]["source"], "measured")
        current, lpt = (m["held_out"]["time_s"] for m in placement["layers"][0]["methods"])
        self.assertLess(lpt, current)

    def test_no_relation_is_said(self):
        """Counts of another run do not explain these times."""
        self.draw()
        captured = self.capture()
        self.draw()
        joined, = self.json("overlap", self.join(captured))["joined"]
        self.assertEqual(joined["dispatch"]["model"], "no relation")

    def test_not_guessed(self):
        self.draw()
        more = self.capture(extra=1)
        joined, = self.json("overlap", self.join(more))["joined"]
        self.assertIn("rank 0 has 121 rounds, the counts 120 calls", joined["why"])
        self.assertNotIn("dispatch", joined)
        self.assertIn("not joined: rank 0 has 121 rounds", tool("overlap", self.dir / "joined0.db").stdout)
        fewer, = self.json("overlap", self.join(self.capture(), self.calls[:100]))["joined"]
        self.assertIn("rank 0 has 120 rounds, the counts 100 calls", fewer["why"])


if __name__ == "__main__":
    unittest.main(verbosity=1)
