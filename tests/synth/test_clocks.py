#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""skewscope clocks against synthetic jobs whose clocks are known. SKEWSCOPE_TEST_LONG=1: more seeds."""
import contextlib
import json
import math
import os
import pathlib
import random
import sqlite3
import subprocess
import tempfile
import unittest

TOOL = os.environ["SKEWSCOPE_TOOL"]
SEEDS = range(1, 21 if os.environ.get("SKEWSCOPE_TEST_LONG") == "1" else 4)
# Offsets ±10 ms and drifts ±50 ppm are standard deviations here: some clocks are further off.
APART = ("--ranks", "8", "--ranks-per-node", "1", "--clock-offset-ns", "1e7", "--clock-drift-ppb", "50000", "--experts", "16",
         "--topk", "2", "--layers", "2", "--steps", "60", "--tokens", "128", "--no-routing")


def tool(*arguments, code=0):
    done = subprocess.run([TOOL, *map(str, arguments)], capture_output=True, text=True, timeout=600)
    assert done.returncode == code, (arguments, done.returncode, done.stdout[-2000:], done.stderr)
    return done


def query(path, sql):
    with contextlib.closing(sqlite3.connect(path)) as db:
        return db.execute(sql).fetchall()


def change(path, sql, function=None):
    with contextlib.closing(sqlite3.connect(path)) as db:
        if function:
            db.create_function("noise", 0, function)
        db.execute(sql)
        db.commit()


class Case(unittest.TestCase):
    def setUp(self):
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        self.dir = pathlib.Path(holder.name)

    def synth(self, *options):
        out = self.dir / f"job{len(list(self.dir.iterdir()))}"
        tool("synth", "-q", "-o", out, *options)
        return out, json.loads((out / "truth.json").read_text(encoding="utf-8"))["clocks"]

    def clocks(self, *arguments):
        return json.loads(tool("clocks", "--json", *arguments).stdout)

    def errors(self, out, truth, answer):
        """Of each fitted process: the largest error while the job ran, and the residual."""
        [reference] = [p for p in answer["processes"] if p["state"] == "reference"]
        home = truth[reference["rank"]]
        times = [query(f, "SELECT min(start_ns), max(end_ns) FROM device_time")[0] for f in out.glob("*.db")]
        spans = [(a - home["offset_ns"], b - home["offset_ns"]) for a, b in times if a is not None and a > 0]
        first, last = 1_000_000_000, max(b for _, b in spans)
        found = {}
        for p in answer["processes"]:
            if p["state"] != "fitted":
                continue
            worst = 0
            for true in (first, (first + last) / 2, last):
                own = true + truth[p["rank"]]["offset_ns"] + truth[p["rank"]]["drift_ppb"] * 1e-9 * true
                axis = own + p["offset_ns"] + p["drift_ppb"] * 1e-9 * (own - p["at_ns"])
                worst = max(worst, abs(axis - true - home["offset_ns"] - home["drift_ppb"] * 1e-9 * true))
            found[p["rank"]] = (worst, p["residual_ns"])
        return found


class Truth(Case):
    def test_symmetric_paths(self):
        """Within 2 µs, also when every rank's own ends scatter by 3 µs."""
        for seed in SEEDS:
            for noisy in (False, True):
                with self.subTest(seed=seed, noisy=noisy):
                    out, truth = self.synth("--seed", seed, *APART)
                    if noisy:
                        rng = random.Random(seed)
                        for f in sorted(out.glob("*.db")):
                            change(f, "UPDATE device_time SET end_ns = end_ns + noise()",
                                   lambda: round(rng.expovariate(1 / 3000)))
                    found = self.errors(out, truth, self.clocks(out))
                    self.assertEqual(len(found), 7)
                    for error, residual in found.values():
                        self.assertLess(error, 2000)
                        self.assertGreater(residual, error)

    def test_asymmetric_paths_are_covered(self):
        """A longer way in one direction looks like an offset: the residual grows with it and covers the error."""
        for seed in SEEDS:
            before = 0
            for asymmetry in (0, 20_000, 100_000, 400_000):
                with self.subTest(seed=seed, asymmetry=asymmetry):
                    out, truth = self.synth("--seed", seed, *APART, "--asymmetry-ns", asymmetry)
                    found = self.errors(out, truth, self.clocks(out))
                    for error, residual in found.values():
                        self.assertLessEqual(error, residual)
                    if asymmetry:
                        self.assertGreater(max(e for e, _ in found.values()), asymmetry / 8)  # there is something to cover
                    least = sum(r for _, r in found.values()) / len(found)
                    self.assertGreater(least, before + 0.2 * asymmetry - 1)
                    before = least if not asymmetry else before

    def test_rank_that_is_always_late(self):
        out, truth = self.synth(*APART, "--straggler", "3:200000:1")
        for error, residual in self.errors(out, truth, self.clocks(out)).values():
            self.assertLess(error, 2000)
            self.assertGreater(residual, error)

    def test_losses_do_not_shift_matches(self):
        out, truth = self.synth(*APART, "--lost", "0.05", "--tail", "0.1", "--noise-step-ns", "5000")
        for error, _ in self.errors(out, truth, self.clocks(out)).values():
            self.assertLess(error, 2000)

    def test_pairs_without_bytes_say_nothing(self):
        out, truth = self.synth(*APART, "--tokens", "3")
        self.assertGreater(query(out / "trace-node0000.db", "SELECT count(*) FROM recv_edges WHERE bytes = 0")[0][0], 300)
        for error, residual in self.errors(out, truth, self.clocks(out)).values():
            self.assertLess(error, 2000)
            self.assertGreater(residual, error)

    def test_nodes_of_several_ranks(self):
        out, truth = self.synth(*APART, "--ranks", "16", "--ranks-per-node", "4")
        answer = self.clocks(out)
        self.assertEqual([p["state"] for p in answer["processes"]], ["reference"] + 3 * ["shared"] + 12 * ["fitted"])
        self.assertEqual(answer["clocks"], 4)
        for error, _ in self.errors(out, truth, answer).values():
            self.assertLess(error, 2000)

    def test_clock_that_was_stepped(self):
        """No line fits a step that is larger than the round trip: said, and the residual covers it."""
        out, _ = self.synth(*APART)
        f = out / "trace-node0005.db"
        change(f, "UPDATE device_time SET start_ns = start_ns + 3000000, end_ns = end_ns + 3000000"
                  " WHERE group_seq > (SELECT max(group_seq) / 2 FROM device_time)")
        answer = self.clocks(out)
        bent = {p["rank"]: p["residual_ns"] for p in answer["processes"] if p["bent"]}
        self.assertEqual(list(bent), [5])
        self.assertGreater(bent[5], 1_000_000)


class Said(Case):
    def test_one_node(self):
        out, _ = self.synth(*APART, "--ranks-per-node", "0", "--clock-offset-ns", "0", "--clock-drift-ppb", "0")
        answer = self.clocks(out)
        self.assertEqual([p["state"] for p in answer["processes"]], ["reference"] + 7 * ["shared"])
        self.assertEqual({(p["offset_ns"], p["drift_ppb"], p["residual_ns"]) for p in answer["processes"]}, {(0, 0, 0)})
        self.assertIn("every offset is 0 by construction", tool("clocks", out).stdout)
        for p in self.clocks("--each-process", out)["processes"][1:]:  # the check that this really holds
            self.assertEqual(p["state"], "fitted")
            self.assertLess(abs(p["offset_ns"]), 2000)

    def test_processes_with_clocks_of_their_own(self):
        out, truth = self.synth(*APART, "--ranks-per-node", "0", "--clock-per", "process")
        found = self.errors(out, truth, self.clocks("--each-process", out))
        self.assertEqual(len(found), 7)
        for error, _ in found.values():
            self.assertLess(error, 2000)

    def test_missing_databases(self):
        out, truth = self.synth(*APART, "--missing", "6")
        (out / "trace-node0002.db").unlink()
        answer = self.clocks(out)
        self.assertEqual([m["ranks"] for m in answer["missing"]], [[2, 6]])
        self.assertIn("2 of 8 ranks are in no database: 2 6", tool("clocks", out).stdout)
        for error, _ in self.errors(out, truth, answer).values():
            self.assertLess(error, 2000)

    def test_unconnected(self):
        """No device times; bytes in one direction only."""
        out, truth = self.synth(*APART)
        change(out / "trace-node0004.db", "DELETE FROM device_time")
        change(out / "trace-node0001.db", "UPDATE exchange SET recv_vector = NULL")  # hears nobody
        answer = self.clocks(out)
        state = {p["rank"]: p["state"] for p in answer["processes"]}
        self.assertEqual((state[4], state[1], answer["not_tied"]), ("no_times", "not_tied", 2))
        self.assertEqual(len(self.errors(out, truth, answer)), 5)
        self.assertEqual([p["offset_ns"] for p in answer["processes"] if p["rank"] in (1, 4)], [None, None])
        self.assertIn("not tied", tool("clocks", out).stdout)
        time = json.loads(tool("time", "--json", out).stdout)
        self.assertEqual(time["clocks"], "unrelated")

    def test_save(self):
        out, _ = self.synth(*APART)
        answer = self.clocks("--save", out)
        for p in answer["processes"]:
            rows = query(p["trace"], "SELECT reference, at_ns, offset_ns, drift_ppb, residual_ns, matches FROM clock_fit")
            self.assertEqual(rows, [(answer["reference"], *(p[k] for k in ("at_ns", "offset_ns", "drift_ppb", "residual_ns", "matches")))])
        time = json.loads(tool("time", "--json", out).stdout)
        self.assertEqual((time["clocks"], time["clock_residual_ns"]), ("fitted", answer["residual_ns"]))
        self.assertEqual(self.clocks("--save", out), answer)
        ends = [row for f in out.glob("*.db")  # all ranks leave one exchange at once
                for row in query(f, "SELECT seq, end_axis_ns FROM exchange_axis WHERE seq IN (0, 100, 239)")]
        self.assertEqual(len(ends), 24)
        for seq in (0, 100, 239):
            at = [ns for s, ns in ends if s == seq]
            self.assertLess(max(at) - min(at), 100)
        self.assertFalse(math.isnan(time["roles"]["dispatch"]["wait_mean_ns"]))

    def test_refuses(self):
        self.assertIn("which trace?", tool("clocks", code=2).stderr)
        tool("clocks", self.dir / "none", code=1)


if __name__ == "__main__":
    unittest.main()
