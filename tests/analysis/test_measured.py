#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""whatif schedule and whatif placement price by what the trace measured: against the truth of synthetic traces, against
sums made here from the databases, and refused or defaulted, with the reason, where the trace does not tell."""
import collections
import json
import os
import pathlib
import sqlite3
import subprocess
import tempfile
import unittest

TOOL = os.environ["SKEWSCOPE_TOOL"]
JOB = ["--ranks", 8, "--experts", 32, "--topk", 2, "--steps", 150, "--layers", 2, "--tokens", 512, "--seed", 3]
TRUTH = {"alpha": 15e-6, "beta": 0.03e-9, "floor": 9e-6, "expert": 30e-9, "token": 4096}
LINEAR = ["--routing", "zipf", "--zipf", 0.6, "--alpha-ns", 15000, "--beta", 0.03, "--expert-floor-ns", 9000,
          "--expert-ns", 30, "--expert-knee", 0]


def tool(*arguments):
    return subprocess.run([TOOL, *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False)


class Measured(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        room = tempfile.TemporaryDirectory()
        cls.addClassCleanup(room.cleanup)
        cls.dir = pathlib.Path(room.name)
        cls.linear = cls.synth("linear", *LINEAR)

    @classmethod
    def synth(cls, name, *arguments):
        out = cls.dir / f"{name}.db"
        done = tool("synth", "-o", out, *JOB, *arguments)
        if done.returncode:
            raise AssertionError(done.stderr)
        return out

    def json(self, what, *arguments):
        done = tool("whatif", what, "--json", *arguments)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return json.loads(done.stdout)

    def refused(self, words, what, *arguments):
        done = tool("whatif", what, *arguments)
        self.assertEqual((done.returncode, done.stdout), (1, ""), done.stderr)
        self.assertIn(words, done.stderr)

    def holds(self, parameter, truth):
        self.assertEqual(parameter["source"], "measured")
        self.assertTrue(parameter["low"] <= truth <= parameter["high"], (parameter, truth))
        self.assertLess(parameter["high"] - parameter["low"], 0.5 * truth)  # an interval that says something

    def exchanges(self, path, role, layer):
        """Of each exchange in order of seq: (busiest port, mean port, transfer in s), from the database."""
        db = sqlite3.connect(path)
        ports = collections.defaultdict(collections.Counter)
        for seq, src, dst, size in db.execute(
                "SELECT e.seq, e.src_rank, e.dst_rank, e.bytes FROM edges e JOIN exchange_label l USING (exchange_id)"
                " WHERE l.role = ? AND l.layer = ? AND e.src_rank <> e.dst_rank", (role, layer)):
            ports[seq]["out", src] += size
            ports[seq]["in", dst] += size
        spans = dict((seq, (last - first) * 1e-9) for seq, first, last in db.execute(
            "SELECT x.seq, max(t.start_ns), max(t.end_ns) FROM exchange x JOIN device_time t"
            " ON t.member_id = x.member_id AND t.thread = x.thread AND t.group_seq = x.group_seq GROUP BY x.seq"))
        db.close()
        return [(max(p.values()), sum(v for (way, _), v in p.items() if way == "in") / 8, spans[seq])
                for seq, p in sorted(ports.items())]

    # ---- schedules --------------------------------------------------------------------------------

    def test_schedule_finds_the_truth(self):
        found = self.json("schedule", self.linear, "--role", "dispatch", "--methods", "greedy,stuffed", "--limit", 5)
        model = found["model"]
        self.holds(model["bandwidth_bytes_per_s"], 1 / TRUTH["beta"])
        self.holds(model["fixed_s"], TRUTH["alpha"])
        compute = model["compute"]
        self.assertEqual(compute["source"], "gaps")
        truth = TRUTH["expert"] / TRUTH["token"]
        self.assertTrue(compute["low_s_per_byte"] <= truth <= compute["high_s_per_byte"], compute)
        self.assertAlmostEqual(compute["line"]["base_s"], TRUTH["floor"], delta=1e-6)
        self.assertEqual((model["token_bytes"], model["token_bytes_source"], model["combine_ratio_source"]),
                         (4096, "labels", "labels"))
        rate, base = model["wire"]["s_per_byte"], model["wire"]["base_s"]
        self.assertAlmostEqual(rate, 1 / model["bandwidth_bytes_per_s"]["value"], 15)
        self.assertEqual(base, model["fixed_s"]["value"])
        ran = self.exchanges(self.linear, "dispatch", 0)
        for exchange in found["exchanges"]:
            for s in exchange["schedules"]:  # T = Σ max_k / BW + M (d + f)
                self.assertAlmostEqual(s["dispatch_s"], s["bottlenecks_bytes"] * rate +
                                       s["matchings"] * (base + model["reconfigure_s"]), 9)
                self.assertAlmostEqual(s["combine_s"], s["dispatch_s"], 12)
            ideal = 2 * exchange["bound_bytes"] * rate
            self.assertGreater(exchange["ideal_s"], ideal + compute["line"]["base_s"])
        self.assertAlmostEqual(found["exchanges"][0]["as_it_ran_s"], ran[0][2], 9)
        self.assertEqual(found["exchanges"][0]["bound_bytes"], ran[0][0])
        self.assertEqual((model["phases"] > 0, model["phases_below_seen"]), (True, model["phases"]))
        text = tool("whatif", "schedule", self.linear, "--role", "dispatch", "--limit", 5).stdout
        self.assertIn("measured here", text)
        self.assertIn("smaller than any exchange seen", text)
        self.assertIn("as it ran", text)
        self.assertLessEqual(max(map(len, text.splitlines())), 120)

    def test_schedule_with_knees(self):
        """A transfer that is flat up to 6 MB, computation that is up to 900 tokens."""
        trace = self.synth("knees", "--routing", "dirichlet", "--tokens-cv", 0.9, "--transfer", "piecewise", "--alpha-ns",
                           40000, "--beta", 0.05, "--beta-below", 0, "--knee-bytes", 6000000, "--expert-floor-ns", 60000,
                           "--expert-ns", 60, "--expert-knee", 900)
        found = self.json("schedule", trace, "--seq", 0, "--methods", "greedy")
        wire, compute = found["model"]["wire"], found["model"]["compute"]["line"]
        self.assertAlmostEqual(wire["knee_bytes"], 6e6, delta=0.6e6)
        self.assertAlmostEqual(wire["s_per_byte"], 0.05e-9, delta=0.003e-9)
        self.assertLess(wire["below_s_per_byte"], 0.1 * wire["s_per_byte"])
        self.assertAlmostEqual(wire["base_s"] + 4.5e6 * wire["below_s_per_byte"], 40e-6, delta=3e-6)
        self.assertAlmostEqual(compute["knee_bytes"], 900 * 4096, delta=0.15 * 900 * 4096)
        self.assertAlmostEqual(compute["base_s"], 60e-6, delta=6e-6)
        self.assertAlmostEqual(compute["s_per_byte"], 60e-9 / 4096, delta=0.1 * 60e-9 / 4096)

    def test_not_told_is_not_made_up(self):
        none = self.synth("none", "--routing", "zipf", "--transfer", "none", "--none-ns", 80000)
        few = self.dir / "few.db"
        self.assertEqual(tool("synth", "-o", few, "--ranks", 8, "--experts", 32, "--steps", 4).returncode, 0)
        host = self.synth("host", *LINEAR, "--no-device-time")
        # all sizes lie beyond the knee: the line through them is below 0 at small sizes
        below = self.synth("below", "--routing", "zipf", "--zipf", 0.8, "--tokens-cv", 0.4, "--transfer", "piecewise",
                           "--alpha-ns", 15000, "--beta", 0.05, "--beta-below", 0.005, "--knee-bytes", 2200000)
        for trace, why in ((none, "no relation seen"), (few, "are needed"), (host, "no times on the device"),
                           (below, "the line falls below 0")):
            with self.subTest(why):
                model = self.json("schedule", trace, "--role", "dispatch", "--limit", 1)["model"]
                bandwidth = model["bandwidth_bytes_per_s"]
                self.assertEqual((bandwidth["value"], bandwidth["source"], bandwidth["low"]), (50e9, "default", None))
                self.assertIn(why, bandwidth["why"])
                self.assertEqual((model["fixed_s"]["value"], model["fixed_s"]["source"]), (0, "default"))
                self.assertIn(why, tool("whatif", "schedule", trace, "--role", "dispatch", "--limit", 1).stdout)
                self.refused(why, "schedule", trace, "--bandwidth", "measured")
                self.refused(why, "schedule", trace, "--fixed-us", "measured")
        model = self.json("schedule", host, "--limit", 1)["model"]
        self.assertEqual(model["compute"]["source"], "default")  # the paper's, for tokens of the labels' size
        self.assertAlmostEqual(model["compute"]["line"]["s_per_byte"], 250e-6 / 256 / 4096, 15)
        self.refused("no times on the device", "schedule", host, "--compute", "measured")
        matrix = self.dir / "m.txt"
        matrix.write_text("0 5\n5 0\n", encoding="utf-8")
        self.refused("nothing of this was timed", "schedule", "--matrix", matrix, "--compute", "measured")

    def test_options_choose(self):
        given = self.json("schedule", self.linear, "--seq", 0, "--bandwidth", 25, "--compute", "none")["model"]
        self.assertEqual((given["bandwidth_bytes_per_s"]["value"], given["bandwidth_bytes_per_s"]["source"]),
                         (25e9, "given"))
        self.assertEqual(given["fixed_s"]["value"], 0)  # the fixed cost of another machine's line would not fit
        self.assertEqual((given["compute"]["source"], given["compute"]["line"]), ("none", None))
        mixed = self.json("schedule", self.linear, "--seq", 0, "--bandwidth", 25, "--fixed-us", "measured", "--knee-us",
                          100)["model"]
        self.holds(mixed["fixed_s"], TRUTH["alpha"])
        self.assertEqual(mixed["compute"]["source"], "given")
        self.assertAlmostEqual(mixed["compute"]["line"]["base_s"], 100e-6)
        done = tool("whatif", "schedule", self.linear, "--compute", "measured", "--knee-us", 100)
        self.assertEqual(done.returncode, 2)
        self.assertIn("are of --compute model", done.stderr)

    def test_kernels_before_gaps(self):
        """With kernels recorded, experts are what ran, not all that lay between: 5 µs + 4 ps a byte, in gaps twice as long."""
        trace = self.synth("kernels", *LINEAR)
        db = sqlite3.connect(trace)
        db.execute("UPDATE exchange_label SET pair_id = NULL")
        rows = db.execute(
            "SELECT d.exchange_id, c.exchange_id, m.process_id, m.device, t.end_ns, u.start_ns, v.total * d.recv_unit"
            " FROM exchange d JOIN exchange_label ld ON ld.exchange_id = d.exchange_id AND ld.role = 'dispatch'"
            " JOIN exchange c ON c.member_id = d.member_id AND c.seq = d.seq + 1 JOIN member m ON m.member_id = d.member_id"
            " JOIN device_time t ON t.member_id = d.member_id AND t.group_seq = d.group_seq"
            " JOIN device_time u ON u.member_id = c.member_id AND u.group_seq = c.group_seq"
            " JOIN vector v ON v.vector_id = d.recv_vector").fetchall()
        self.assertEqual(len(rows), 8 * 150 * 2)
        spans = []
        for dispatch, combine, process, device, end, start, received in rows:
            busy = int(5000 + 0.004 * received)
            self.assertLess(busy, start - end)
            spans.append((process, device, end + 10, end + 10 + busy, busy))
            db.executemany("UPDATE exchange_label SET pair_id = ? WHERE exchange_id = ?",
                           [(combine, dispatch), (dispatch, combine)])
        db.executemany("INSERT INTO kernel (process_id, device, stream, start_ns, end_ns, busy_ns, kernels, name_id)"
                       " VALUES (?, ?, 7, ?, ?, ?, 1, 1)", sorted(spans))
        db.executemany("INSERT INTO kernel_name (process_id, name_id, name, does) VALUES (?, 1, 'grouped_gemm', 'experts')",
                       {(s[0],) for s in spans})
        db.execute("UPDATE device_time SET source = (SELECT max(source) FROM device_time)")
        db.commit()
        db.close()
        compute = self.json("schedule", trace, "--seq", 0)["model"]["compute"]
        self.assertEqual(compute["source"], "kernels")
        self.assertAlmostEqual(compute["line"]["s_per_byte"], 4e-12, delta=1e-14)
        self.assertAlmostEqual(compute["line"]["base_s"], 5e-6, delta=5e-8)
        self.assertIn("kernels between dispatch and combine", tool("whatif", "schedule", trace, "--seq", 0).stdout)

    # ---- placements -------------------------------------------------------------------------------

    def test_placement_takes_what_it_took(self):
        """The current placement's predicted time: the line at each call's own ports; others never outside what was seen."""
        found = self.json("placement", self.linear, "--layer", 0, "--methods", "current,lpt,random")
        model = found["model"]
        self.holds(model["bandwidth_bytes_per_s"], 1 / TRUTH["beta"])
        self.holds(model["latency_s"], TRUTH["alpha"])
        self.assertEqual(model["fitted_ranks"], 8)
        ran = self.exchanges(self.linear, "dispatch", 0)
        line = [model["latency_s"]["value"] + b / model["bandwidth_bytes_per_s"]["value"] for b, _, _ in ran]
        methods = {m["method"]: m for m in found["layers"][0]["methods"]}
        current = methods["current"]["in_sample"]
        self.assertAlmostEqual(current["time_s"], sum(line) / len(line), 9)
        self.assertEqual(current["clamped"], 0)
        self.assertAlmostEqual(current["time_s"], sum(t for _, _, t in ran) / len(ran), delta=2e-6)
        lpt = methods["lpt"]["held_out"]
        self.assertGreater(lpt["clamped"], 0.9)  # better balanced than anything that ran
        seen = [b for role in ("dispatch", "combine") for layer in (0, 1) for b, _, _ in self.exchanges(self.linear, role, layer)]
        least = model["latency_s"]["value"] + min(seen) / model["bandwidth_bytes_per_s"]["value"]
        self.assertTrue(0.999999 * least <= lpt["time_s"] < current["time_s"], (least, lpt["time_s"]))
        text = tool("whatif", "placement", self.linear, "--layer", 0).stdout
        self.assertIn("measured here: 600 exchanges in 150 steps", text)
        self.assertRegex(text, r"lpt .* us\* pays")
        self.assertLessEqual(max(map(len, text.splitlines())), 120)

    def test_placement_options(self):
        given = self.json("placement", self.linear, "--layer", 0, "--methods", "current", "--bandwidth", 10, "--latency-us", 7)
        busiest = [b for b, _, _ in self.exchanges(self.linear, "dispatch", 0)]
        self.assertAlmostEqual(given["layers"][0]["methods"][0]["in_sample"]["time_s"],
                               7e-6 + sum(busiest) / len(busiest) / 10e9, 12)
        self.assertIsNone(given["model"]["fitted_ranks"])
        other = self.json("placement", self.linear, "--layer", 0, "--methods", "current", "--ranks", "4,8")
        times = {layer["ranks"]: layer["methods"][0]["in_sample"] for layer in other["layers"]}
        self.assertEqual(other["model"]["fitted_ranks"], 8)
        mean = times[4]["other_bytes"] / 4
        self.assertGreater(times[4]["time_s"], mean / 50e9)  # 4 ranks were never measured: the default's 50 GB/s
        self.assertLess(times[4]["time_s"], 3 * mean / 50e9)
        self.assertIn("measured on 8 ranks; others are priced at 50 GB/s",
                      tool("whatif", "placement", self.linear, "--layer", 0, "--ranks", "4,8").stdout)
        done = tool("whatif", "placement", self.linear, "--bandwidth", "measured", "--up-bandwidth", 5)
        self.assertEqual(done.returncode, 2)

    def test_placement_without_relation(self):
        trace = self.synth("flat", "--routing", "zipf", "--transfer", "none", "--none-ns", 80000)
        found = self.json("placement", trace, "--layer", 0, "--methods", "current,lpt")
        self.assertIsNone(found["model"]["bandwidth_bytes_per_s"]["value"])
        ran = [t for _, _, t in self.exchanges(trace, "dispatch", 0)]
        for method in found["layers"][0]["methods"]:
            self.assertAlmostEqual(method["in_sample"]["time_s"], sum(ran) / len(ran), delta=2e-6)
        self.assertIn("no placement changes that", tool("whatif", "placement", trace, "--layer", 0).stdout)
        self.refused("no relation seen", "placement", trace, "--bandwidth", "measured")
        host = self.synth("hosts", *LINEAR, "--no-device-time")
        model = self.json("placement", host, "--layer", 0, "--methods", "current")["model"]
        self.assertEqual(model["bandwidth_bytes_per_s"]["source"], "default")
        self.assertIn("no times on the device", model["bandwidth_bytes_per_s"]["why"])

    def test_placement_between_domains(self):
        """Two nodes of four ranks whose network is twenty times slower than the inside: the slope is that of the network."""
        out = self.dir / "two"
        self.assertEqual(tool("synth", "-o", out, *JOB, "--ranks-per-node", 4, "--routing", "dirichlet", "--tokens-cv", 0.3,
                              "--alpha-inter-ns", 30000, "--beta-inter", 0.1, "--beta", 0.005).returncode, 0)
        found = self.json("placement", out, "--layer", 0, "--domain-ranks", 4, "--methods", "current,locality")
        bandwidth = found["model"]["bandwidth_bytes_per_s"]
        self.holds(bandwidth, 10e9)
        self.assertIn("outward", bandwidth["why"])
        for method in found["layers"][0]["methods"]:
            self.assertGreater(method["in_sample"]["time_s"], 30e-6 + method["in_sample"]["other_bytes"] / 8 / 10.5e9)


if __name__ == "__main__":
    unittest.main(verbosity=1)
